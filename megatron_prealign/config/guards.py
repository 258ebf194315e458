"""The guards section: steps that must not reach the weights."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class GuardsConfig:
    """A step whose loss or gradient is NaN or infinite is always skipped.

    <run_path>/skipped.jsonl names the samples of skipped steps.
    """

    max_skipped_steps: int = 10
    """Steps skipped in a row, at which the run stops with exit code 3."""

    loss_spike: Literal["ignore", "skip", "rewind"] = "ignore"
    """A step whose language-modelling loss spikes is applied; skipped; or skipped, and weights and optimizer go back to
    the newest checkpoint, while data and learning rate go on."""

    spike_window: int = 128
    """Applied steps that the next loss is compared with; until there are as many, none is a spike."""

    spike_deviations: float = 6.0
    """Standard deviations above their mean at which a loss is a spike."""

    max_rewinds: int = 3
    """Times that the run goes back; the next spike stops it with exit code 3."""
