"""Shared parts of the command-line tools."""

import argparse
import errno
import io
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from megatron_prealign.errors import STOPPED_BY_KEYBOARD, ConfigError, PrealignError

Main = Callable[..., int]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and keep the line breaks of the description."""


def tool(main: Main) -> Main:
    """Decorate a tool's main function: errors that the user can fix and interrupts become a message and an exit code.

    When the tool runs as a command, so does SIGTERM, which a scheduler sends at its time limit.
    """

    @wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        if argv is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does: for names that are not UTF-8
        try:
            check_locale()
            return main(argv)
        except (PrealignError, OSError) as error:  # OSError: a full disk, a file that vanished
            print(f"error: {describe(error)}", file=sys.stderr)
            return PrealignError.exit_code
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return STOPPED_BY_KEYBOARD

    return run


def check_locale() -> None:
    """Refuse a Python that reads arguments and file names in another encoding than UTF-8.

    Raises:
        ConfigError: The encoding and how to change it.
    """
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise ConfigError(
            f"Python reads arguments and file names as {encoding}; unset PYTHONUTF8=0, or choose a locale of UTF-8: "
            "LC_ALL=C.UTF-8"
        )


class _LossyFile(io.FileIO):
    """A file that discards bytes that can't be written."""

    def write(self, data: Any) -> int:
        """Write bytes, and report all as written if that fails."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def outlive_standard_error() -> None:
    """Keep the process alive if its log can't be written, as on a full disk; those messages are lost.

    Otherwise a failed message ends the process, and one still buffered at exit makes Python return 120.
    """
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        file = io.BufferedWriter(_LossyFile(sys.stderr.fileno(), "w", closefd=False))
        encoding = sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(file, encoding=encoding, errors="backslashreplace", line_buffering=True)


def path_argument(text: str) -> Path:
    """Return a path; refuse an empty one, as from an unset variable, which would mean the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; is a variable unset?")
    return Path(text)


def describe(error: PrealignError | OSError) -> str:
    """Return the message for an error; for one of the system, the file and the reason."""
    if isinstance(error, PrealignError):
        return str(error)
    # numpy reports a short write by its sizes only.
    is_full = error.errno == errno.ENOSPC or (error.errno is None and " requested and " in str(error))
    reason = "no space left on the disk" if is_full else (error.strerror or str(error))
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason[:1].lower()}{reason[1:]}" + ("; free some space and start again" if is_full else "")
