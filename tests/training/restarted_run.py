"""The entry script of a job that fails over and over, once late enough: FAIL_BY says where.

The first process waits for two seconds and fails. The second is given the age of the job as its limit, less one second,
which its own age will not reach.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pretrain_prealign

if __name__ == "__main__":
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        time.sleep(float(os.environ["FIRST_SECONDS"]))
        raise SystemExit(1)
    limit = (time.monotonic() - float(os.environ["STARTED"])) / 60
    raise SystemExit(pretrain_prealign.main([*sys.argv[1:], "--training.exit_duration_minutes", str(limit - 1 / 60)]))
