"""Report the first failing rank's error first, and label the errors of the ranks that lost contact with it."""

import signal
import sys
import time

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

HOLD_SECONDS = 2.0
"""How long a rank that lost contact waits before it prints its own traceback; torchrun usually stops it earlier."""


def report_failure(error: BaseException, rank: int) -> None:
    """Record an error for torchrun; call it before the traceback is printed."""
    if _has_lost_contact(error):
        print(
            f"rank {rank} lost contact with another rank ({_first_line(error)}): it died, hangs for longer than "
            "parallel.distributed_timeout_minutes, or the network fails; the first traceback of all logs has the cause",
            file=sys.stderr,
            flush=True,
        )
        # From here on torchrun's SIGTERM ends the process; it is no longer a request to save.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(HOLD_SECONDS)
    # torchrun's summary then shows this traceback as the root cause.
    get_error_handler().record_exception(error)


def _has_lost_contact(error: BaseException | None) -> bool:
    """Tell whether a collective failed because another rank or the network failed; gloo raises no type of its own."""
    if error is None:
        return False
    if isinstance(error, torch.distributed.DistError) or "gloo/transport/" in str(error):
        return True
    return _has_lost_contact(error.__cause__ or error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
