"""The entry script of a job whose first process fails, after FIRST_SECONDS; STARTED is when the job was started.

The limit of its second process is the age that the job has when the limit is set, which that process itself has not.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pretrain_prealign
from megatron_prealign.training.interruption import Interruption

initialize = Interruption.__init__


def limit_by_the_age_of_the_job(interruption: Interruption, _: float | None) -> None:
    # Less a second: ages are read in ticks.
    initialize(interruption, (time.monotonic() - float(os.environ["STARTED"]) - 1) / 60)


if __name__ == "__main__":
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        time.sleep(float(os.environ["FIRST_SECONDS"]))
        raise SystemExit(1)
    Interruption.__init__ = limit_by_the_age_of_the_job  # type: ignore[method-assign]
    raise SystemExit(pretrain_prealign.main())
