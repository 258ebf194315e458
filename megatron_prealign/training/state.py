"""The position and counters of a run, which a checkpoint stores."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from megatron_prealign.checkpoint import folder
from megatron_prealign.config import Config
from megatron_prealign.dataset.mix import MixSegment
from megatron_prealign.errors import CheckpointError

_Count = Annotated[int, Field(ge=0)]
# No sum of them overflows.
_Loss = Annotated[float, Field(gt=-1e38, lt=1e38)]


@dataclass
class TrainState:
    """Counters of a run; those of data are totals over all ranks.

    Attributes:
        step: optimizer steps done, skipped ones included.
        consumed_samples: sequences of the training set used.
        lm_tokens: tokens of those sequences.
        mixes: the mixes that they were drawn from, in order.
        positions: how many were drawn from each dataset, by its key.
        word_microbatches: microbatches of words used.
        word_tokens: subwords in them.
        lexicon_fingerprint: of their lexicon; empty = none so far.
        sentence_microbatches: microbatches of sentences used.
        sentence_tokens: tokens in them.
        sentence_fingerprint: of their files; empty = none so far.
        best_retrieval: best held-out retrieval at a validation so far, in [0, 1]; below 0 = none yet.
        validations_since_best: validations after it.
        skipped_steps: steps without an update, overflows of fp16 included.
        skipped_in_a_row: steps that the guards skipped since the last applied one.
        rewinds: how often weights and optimizer returned to a checkpoint.
        recent_losses: of the last applied steps, if the guard against loss spikes is on.
    """

    step: _Count = 0
    consumed_samples: _Count = 0
    lm_tokens: _Count = 0
    mixes: list[MixSegment] = field(default_factory=list)
    positions: dict[str, _Count] = field(default_factory=dict)
    word_microbatches: _Count = 0
    word_tokens: _Count = 0
    lexicon_fingerprint: str = ""
    sentence_microbatches: _Count = 0
    sentence_tokens: _Count = 0
    sentence_fingerprint: str = ""
    best_retrieval: Annotated[float, Field(ge=-1, le=1)] = -1.0
    validations_since_best: _Count = 0
    skipped_steps: _Count = 0
    skipped_in_a_row: _Count = 0
    rewinds: _Count = 0
    recent_losses: list[_Loss] = field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainState":
        """Read the counters stored in a checkpoint; counters that it lacks have their initial values.

        Raises:
            CheckpointError: They can't be read, or are not those of this program.
        """
        stored = json.dumps(folder.read_state(checkpoint))
        try:
            state = TypeAdapter(cls).validate_json(stored, strict=True, extra="forbid")
        except ValidationError as error:
            fields = ", ".join(f"{'.'.join(map(str, detail['loc']))} ({detail['msg']})" for detail in error.errors())
            raise CheckpointError(
                f"{checkpoint / folder.STATE}: not the counters of a run: {fields}; use another checkpoint"
            ) from None
        if checkpoint.name != folder.step_path("", state.step).name:
            raise CheckpointError(
                f"{checkpoint / folder.STATE}: step {state.step} does not match the folder's name; "
                "use another checkpoint"
            )
        return state

    def note_retrieval(self, held_out: float) -> None:
        """Count a validation's held-out retrieval, in [0, 1]."""
        if held_out > self.best_retrieval:
            self.best_retrieval, self.validations_since_best = held_out, 0
        else:
            self.validations_since_best += 1

    @property
    def tokens(self) -> int:
        """All tokens seen: of sequences, words and sentences."""
        return self.lm_tokens + self.item_tokens

    @property
    def item_tokens(self) -> int:
        """Tokens of words and sentences that were aligned."""
        return self.word_tokens + self.sentence_tokens

    def count_items(self, kind: str, num_microbatches: _Count = 0, num_tokens: _Count = 0) -> int:
        """Count microbatches and tokens of a kind of items, "word" or "sentence"; return the microbatches before."""
        before: int = getattr(self, f"{kind}_microbatches")
        setattr(self, f"{kind}_microbatches", before + num_microbatches)
        setattr(self, f"{kind}_tokens", getattr(self, f"{kind}_tokens") + num_tokens)
        return before

    def note_items(self, kind: str, fingerprint: str) -> str:
        """Set the fingerprint of a kind of items; return the previous one, empty = none."""
        name = "lexicon_fingerprint" if kind == "word" else f"{kind}_fingerprint"
        before: str = getattr(self, name)
        setattr(self, name, fingerprint)
        return before

    def token_counts(self) -> dict[str, int]:
        """Return the tokens seen, for a record; those of sentences only if there are any."""
        sentences = {"sentence_tokens": self.sentence_tokens} if self.sentence_tokens else {}
        return {"tokens": self.tokens, "word_tokens": self.word_tokens, **sentences}

    def drawn_since(self, before: "TrainState") -> dict[str, list[int]]:
        """Return the numbers of samples and microbatches used since then; of sentences only if there are any."""
        fields = {"samples": "consumed_samples", "word_microbatches": "word_microbatches"}
        if self.sentence_microbatches:
            fields["sentence_microbatches"] = "sentence_microbatches"
        return {name: [*range(getattr(before, field), getattr(self, field))] for name, field in fields.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the counters for JSON; those of sentences only if there are any: older versions refuse them."""
        return {name: value for name, value in asdict(self).items() if value or not name.startswith("sentence_")}


def has_lost_patience(config: Config, state: TrainState) -> bool:
    """Return whether stage 1 ends early: held-out retrieval has not risen for `alignment.patience` validations."""
    patience = config.alignment.patience if config.training.stage == "align_init" else 0
    return 0 < patience <= state.validations_since_best
