"""Where a run stands: everything about its position that a checkpoint must hold."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from megatron_prealign.checkpoint import folder
from megatron_prealign.config import Config
from megatron_prealign.dataset.mix import MixSegment
from megatron_prealign.errors import CheckpointError

_LARGEST = 1 << 53
# No sum of them overflows.
_Loss = Annotated[float, Field(gt=-1e38, lt=1e38)]


@dataclass
class TrainState:
    """Counters of a run; those of data are totals over ranks.

    Attributes:
        step: optimizer steps done, skipped ones included.
        consumed_samples: sequences of the training set used.
        lm_tokens: tokens of those sequences.
        mixes: the history of what they were drawn from.
        positions: how many were drawn from each dataset, by its key.
        word_microbatches: word microbatches used by align-init.
        word_tokens: subwords in them.
        lexicon_fingerprint: of the lexicon that they are taken from; empty = none so far.
        best_retrieval: best held-out retrieval at a validation so far, in [0, 1]; below 0 = none yet.
        validations_since_best: validations after it.
        skipped_steps: steps whose update was left out.
        skipped_in_a_row: of these the last, without one that was applied between them.
        rewinds: times that the weights went back to a checkpoint.
        recent_losses: of the last steps that were applied, where loss spikes are watched for.
    """

    step: int = 0
    consumed_samples: int = 0
    lm_tokens: int = 0
    mixes: list[MixSegment] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    word_microbatches: int = 0
    word_tokens: int = 0
    lexicon_fingerprint: str = ""
    best_retrieval: Annotated[float, Field(ge=-1, le=1)] = -1.0
    validations_since_best: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    rewinds: int = 0
    recent_losses: list[_Loss] = field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainState":
        """Read the counters stored in a checkpoint; those that it lacks stand at their start.

        Raises:
            CheckpointError: They can't be read, or are not those of this program.
        """
        stored = json.dumps(folder.read_state(checkpoint))
        try:
            state = TypeAdapter(cls).validate_json(stored, strict=True, extra="forbid")
        except ValidationError as error:
            fields = ", ".join(f"{'.'.join(map(str, detail['loc']))} ({detail['msg']})" for detail in error.errors())
            raise CheckpointError(
                f"{checkpoint / folder.STATE}: not the counters of this program: {fields}; use another checkpoint"
            ) from None

        counters = {name: value for name, value in asdict(state).items() if isinstance(value, int)}
        odd = [name for name, value in counters.items() if not 0 <= value < _LARGEST]
        if odd or checkpoint.name != folder.step_path("", state.step).name:
            wrong = f"{', '.join(odd)} below 0 or beyond 2^53" if odd else f"step {state.step}"
            raise CheckpointError(f"{checkpoint / folder.STATE}: {wrong} can't be; use another checkpoint")
        return state

    def note_retrieval(self, held_out: float) -> None:
        """Count a validation's held-out retrieval, in [0, 1]."""
        if held_out > self.best_retrieval:
            self.best_retrieval, self.validations_since_best = held_out, 0
        else:
            self.validations_since_best += 1

    @property
    def tokens(self) -> int:
        """All tokens seen: of sequences and of words."""
        return self.lm_tokens + self.word_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the counters for JSON."""
        return asdict(self)


def has_lost_patience(config: Config, state: TrainState) -> bool:
    """Tell whether stage 1 ends early: its held-out retrieval has not risen for `alignment.patience` validations."""
    patience = config.alignment.patience if config.training.stage == "align_init" else 0
    return 0 < patience <= state.validations_since_best
