"""Record in <run_path>/exit.json how a run ended, because torchrun does not return its processes' exit code.

torchrun restarts processes that ended on purpose with a code other than 0; these read the note and end again. A run
that crashed leaves no note.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from megatron_prealign.files import write_if_possible
from megatron_prealign.ranks import is_first_of_host

EXIT = "exit.json"


def take_exit(run_path: str | Path) -> int | None:
    """Return the exit code of a run that ended on purpose and that torchrun restarts, otherwise None.

    A first start deletes the note of an earlier end.
    """
    path = Path(run_path) / EXIT
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        if is_first_of_host():
            with suppress(OSError):
                path.unlink()
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_exit(run_path: str | Path, exit_code: int, cause: str, *, is_mine: bool = False) -> None:
    """Write how the run ended, if possible; on the first rank of a host, or on any rank with `is_mine`."""
    path = Path(run_path) / EXIT
    if (is_mine or is_first_of_host()) and path.parent.is_dir():
        write_if_possible(path, json.dumps({"exit_code": exit_code, "cause": cause}) + "\n")
