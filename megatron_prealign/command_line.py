"""What the command-line tools share."""

import argparse
import errno
import io
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from megatron_prealign.errors import STOPPED_BY_KEYBOARD, PrealignError

Main = Callable[..., int]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and the description as it is written."""


def tool(main: Main) -> Main:
    """Decorate a tool's main function: an error that the user can fix and an interrupt end with a message and a code.

    When the tool runs as a command, so does SIGTERM, for example from a scheduler at its time limit.
    """

    @wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        if argv is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return main(argv)
        except (PrealignError, OSError) as error:  # OSError: a full disk, a file that vanished
            print(f"error: {describe(error)}", file=sys.stderr)
            return PrealignError.exit_code
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return STOPPED_BY_KEYBOARD

    return run


class _LossyFile(io.FileIO):
    """A file that drops what can't be written."""

    def write(self, data: Any) -> int:
        """Write bytes; those that can't be written count as written."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def outlive_standard_error() -> None:
    """Keep the process alive where its log can't be written, as on a full disk; those messages are lost.

    Otherwise a message that fails ends the process, and one still buffered at exit makes Python return 120.
    """
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        file = io.BufferedWriter(_LossyFile(sys.stderr.fileno(), "w", closefd=False))
        encoding = sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(file, encoding=encoding, errors="backslashreplace", line_buffering=True)


def path_argument(text: str) -> Path:
    """Return a path of the command line; an empty one, as from an unset variable, would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def describe(error: PrealignError | OSError) -> str:
    """Return what to tell the user about an error: for one of the system the file, and what is wrong with it."""
    if isinstance(error, PrealignError):
        return str(error)
    # numpy reports a short write by its sizes only.
    is_full = error.errno == errno.ENOSPC or (error.errno is None and " requested and " in str(error))
    reason = "no space left on the disk" if is_full else (error.strerror or str(error))
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason[:1].lower()}{reason[1:]}" + ("; make room and start again" if is_full else "")
