"""Failing in a group: the rank that failed first is heard first, and those it takes along say so."""

import signal
import sys
import time

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

HOLD_SECONDS = 2.0
"""How long a rank that lost contact waits with its own traceback; torchrun ends it before that where it can."""


def report_failure(error: BaseException, rank: int) -> None:
    """Tell torchrun what went wrong; call it before a traceback is printed."""
    if _has_lost_contact(error):
        print(
            f"rank {rank} lost contact with another rank ({_first_line(error)}): it died, hangs for longer than "
            "parallel.distributed_timeout_minutes, or the network fails; the first traceback of all logs has the cause",
            file=sys.stderr,
            flush=True,
        )
        # torchrun's SIGTERM is no request to save any more.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(HOLD_SECONDS)
    # Its summary then shows this traceback as the root cause.
    get_error_handler().record_exception(error)


def _has_lost_contact(error: BaseException | None) -> bool:
    """Tell whether a collective failed because another rank, or the way to it, is gone; gloo has no type for it."""
    if error is None:
        return False
    if isinstance(error, torch.distributed.DistError) or "gloo/transport/" in str(error):
        return True
    return _has_lost_contact(error.__cause__ or error.__context__)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
