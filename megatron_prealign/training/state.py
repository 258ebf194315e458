"""Where a run stands: everything about its position that a checkpoint must hold."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TrainState:
    """Counters of a run; all are totals over ranks.

    Attributes:
        step: optimizer steps done.
        consumed_samples: sequences of the training set used.
        lm_tokens: tokens of those sequences.
        word_microbatches: word microbatches used by align-init.
        word_tokens: subwords in them.
    """

    step: int = 0
    consumed_samples: int = 0
    lm_tokens: int = 0
    word_microbatches: int = 0
    word_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens seen: of sequences and of words."""
        return self.lm_tokens + self.word_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the counters for JSON."""
        return asdict(self)
