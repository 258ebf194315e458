"""The checkpoint section: saving, resuming and starting points."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Sharded checkpoints under <run_path>/checkpoints, loadable at any layout."""

    save_interval: int = 500
    """Steps between checkpoints; the last step is always saved."""

    keep_last: int = 2
    """Newest checkpoints kept; at least 2."""

    keep_every: int = 0
    """Checkpoints of steps divisible by this are kept too; 0 = none."""

    verify: bool = True
    """Compare every file with the checkpoint's manifest before it is used, and fall back to the newest sound one."""

    resume: bool = True
    """Continue from the run's newest checkpoint where there is one; false refuses a run folder in use."""

    init_from: str | None = None
    """Run folder or checkpoint whose weights start this run (stage 1 to stage 2)."""

    init_optimizer: bool = False
    """Take the optimizer's moments from init_from too; the learning-rate schedule starts anew either way."""
