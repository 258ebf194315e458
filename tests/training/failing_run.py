"""The entry script with a defect: in its third step rank 1 raises an error of its own, or hangs, as FAIL_BY says."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pretrain_prealign
from megatron_prealign.training.loop import Trainer

take_step = Trainer.train_step


def fail_or_step(trainer: Trainer) -> float | None:
    if os.environ["RANK"] == "1" and trainer.state.step == 2:
        if os.environ["FAIL_BY"] == "hanging":
            time.sleep(3600)
        raise ZeroDivisionError("a defect of rank 1")
    return take_step(trainer)


if __name__ == "__main__":
    Trainer.train_step = fail_or_step  # type: ignore[method-assign]
    raise SystemExit(pretrain_prealign.main())
