"""The schedule section: learning rate over steps."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, then a decay style; all lengths in optimizer steps."""

    lr_decay_style: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up; wsd = constant, then a linear decay over the last steps."""

    lr_warmup_steps: int = 0
    """Steps of linear warm-up from 0 to optimizer.lr."""

    lr_decay_steps: int | None = None
    """Step at which optimizer.min_lr is reached; none = training.train_steps."""

    lr_wsd_decay_steps: int | None = None
    """Steps of the final decay of wsd; none = 20 % of lr_decay_steps."""
