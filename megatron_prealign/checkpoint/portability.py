"""What each part of a checkpoint depends on, and what happens to it if that differs.

`PARTS` is the only table of it. A save records what the checkpoint depends on (environment.py). What is refused before
a start, what a load can do without and what is reset follow from the table, and so does the table in
docs/checkpoints.md: `python -m megatron_prealign.checkpoint.portability` prints it.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Literal

from megatron_prealign.checkpoint import folder
from megatron_prealign.config import Config, ModelConfig, load_resolved

Outcome = Literal["kept", "reset", "refused"]
"""Loaded bit for bit; not loaded, and started as in a new run; or an error ends the start and nothing is loaded."""

ASPECTS = {
    "model": "architecture and shape of the model",
    "data": "the unit in which the position in the data is counted",
    "layout": "tensor, pipeline, virtual pipeline and context parallel sizes",
    "ranks": "number of ranks",
    "device": "cpu or cuda",
    "layers": "local layers or Transformer Engine's",
    "AdamW": "this package's AdamW, Transformer Engine's or apex's",
    "optimizer": "kind of optimizer by the state it keeps: AdamW or Muon; plain in fp32, plain in bf16 or fp16, or "
    "distributed",
    "precision": "fp32, bf16 or fp16, with the same kind of optimizer",
    "options": "learning rates, betas, eps, momentum, weight decay, micro batch and bucket sizes: this run's own apply",
    "versions": "of torch, megatron-core (0.16, 0.19) and Transformer Engine up to 2.20",
}
"""Everything that a part can depend on."""


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint: a row of the table."""

    name: str
    refused: tuple[str, ...] = ()
    """Aspects that must be equal."""

    reset: tuple[str, ...] = ()
    """Aspects that must be equal for it to have a meaning; otherwise it is not loaded."""

    keys: str = ""
    """Regular expression of its keys in `.metadata`; empty if it is stored elsewhere."""

    if_absent: Outcome = "refused"
    """What happens if the checkpoint lacks an entry that the run has."""

    reset_to: str = ""
    """Its value after a reset."""

    def outcome(self, differences: Collection[str]) -> Outcome:
        """Return what happens to it if these aspects differ."""
        if any(aspect in self.refused for aspect in differences):
            return "refused"
        return "reset" if any(aspect in self.reset for aspect in differences) else "kept"


WEIGHTS = Part("weights", refused=("model",), keys=r"(embedding|decoder|output_layer)\.")
EXTRA_STATES = Part(
    "extra states of layers (scaling of fp8)",
    refused=("model",),
    reset=("layers",),
    keys=r".*\._extra_state(/|$)",
    if_absent="reset",
    reset_to="factors of 1 and an empty history",
)
MOMENTS = Part("optimizer's moments", refused=("model", "optimizer"), keys=r"optimizer\.state\.exp_avg(_sq)?\.")
MAIN_PARAMETERS = Part(
    "fp32 main parameters", refused=("model", "optimizer"), keys=r"optimizer\.state\.(fp32_)?param\."
)
GROUPS = Part(
    "optimizer's groups (step count)",
    refused=("model", "optimizer"),
    if_absent="reset",
    reset_to="the optimizer's defaults, and the step count of the other groups",
)
LOSS_SCALE = Part(
    "loss scale",
    refused=("optimizer",),
    reset=("precision",),
    if_absent="reset",
    reset_to="optimizer.initial_loss_scale",
)
RANDOM_STATES = Part(
    "random states",
    reset=("layout", "ranks", "device"),
    keys=r"random_states/",
    reset_to="those that training.seed gives, so dropout draws other numbers",
)
POSITION = Part(
    "position and counters",
    refused=("data",),
    if_absent="reset",
    reset_to="0 for counters that an older version did not save",
)

PARTS = (WEIGHTS, EXTRA_STATES, MOMENTS, MAIN_PARAMETERS, GROUPS, LOSS_SCALE, RANDOM_STATES, POSITION)
"""The table: what a resumed run loads."""

TRAINED = (WEIGHTS, EXTRA_STATES, MOMENTS, MAIN_PARAMETERS, GROUPS, LOSS_SCALE)
"""What a run loads that starts from the weights and optimizer of another."""


def part_of(key: str) -> Part | None:
    """Return the part that an entry of `.metadata`, or of a model's state dict, belongs to."""
    ordered = (EXTRA_STATES, *(part for part in PARTS if part is not EXTRA_STATES))
    return next((part for part in ordered if part.keys and re.match(part.keys, key)), None)


def may_be_absent(key: str) -> bool:
    """Return whether a run can do without an entry that its checkpoint lacks."""
    part = part_of(key)
    return part is not None and part.if_absent == "reset"


_FREE_IN_MODEL = ("preset", "transformer_impl", "hidden_dropout", "attention_dropout", "max_position_embeddings")
_POSITION_FIELDS = (
    "data.split",
    "data.seq_length",
    "data.codeswitch",
    "training.stage",
    "training.seed",
    "training.rampup_batch_size",
    "alignment.word_batch_size",
    "alignment.num_hard_negatives",
    "alignment.sentence_batch_size",
)
# Switches change the lengths of documents, and so the content of samples.
_ONLINE_FIELDS = tuple(
    f"data.codeswitch_{name}" for name in ("lexicon_paths", "language", "target_language", "ratios", "seed")
)


def refusals(config: Config, checkpoint: Path, parts: Collection[Part]) -> list[str]:
    """Return why parts of a checkpoint can't be loaded, as far as its configuration shows; needs no process group."""
    saved = load_resolved(checkpoint / folder.CONFIG)
    aspects = {aspect for part in parts for aspect in part.refused}
    problems: list[str] = []
    if "model" in aspects:
        names = [f"model.{field.name}" for field in fields(ModelConfig) if field.name not in _FREE_IN_MODEL]
        message = "{name}: the checkpoint {checkpoint} has {there}, this run {here}; use the checkpoint's value"
        problems += _differing(saved, config, names, message, checkpoint)
    if "optimizer" in aspects:
        message = (
            "{name}: the optimizer of {checkpoint} was saved with {there}, this run has {here}; the two kinds keep "
            "different state; use the checkpoint's value"
        )
        problems += _differing(saved, config, _kind_fields(saved, config), message, checkpoint)
    if "data" in aspects:
        names = [*_POSITION_FIELDS, *(() if config.data.codeswitch == "baked" else _ONLINE_FIELDS)]
        message = (
            "{name}: {checkpoint} was trained with {there}, this run has {here}; keep that value, or start a new run "
            "with checkpoint.init_from"
        )
        problems += _differing(saved, config, names, message, checkpoint)
    return problems


def _kind_fields(saved: Config, config: Config) -> Iterator[str]:
    """Yield the fields whose difference makes the two optimizers different in kind."""
    yield "optimizer.name"
    yield "parallel.use_distributed_optimizer"
    is_plain = not (saved.parallel.use_distributed_optimizer or config.parallel.use_distributed_optimizer)
    # The distributed optimizer always keeps fp32 main parameters; the plain one keeps them in bf16 and fp16 only.
    if is_plain and "fp32" in (saved.training.precision, config.training.precision):
        yield "training.precision"


def _differing(saved: Config, config: Config, names: Iterable[str], message: str, path: Path) -> Iterator[str]:
    values = ((name, attrgetter(name)(saved), attrgetter(name)(config)) for name in names)
    for name, there, here in values:
        if there != here:
            yield message.format(name=name, checkpoint=path, there=there, here=here)


def describe_resets(config: Config, differences: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each part that this run uses and that is reset because of `Environment.differences`."""
    is_used = {
        EXTRA_STATES: config.training.fp8 != "none",
        LOSS_SCALE: config.training.precision == "fp16",
        RANDOM_STATES: config.model.hidden_dropout > 0 or config.model.attention_dropout > 0,
    }
    for part in PARTS:
        if is_used.get(part) and part.outcome(differences) == "reset":
            reasons = "; ".join(differences[aspect] for aspect in part.reset if aspect in differences)
            yield f"Reset because {reasons}: {part.name}, to {part.reset_to}."


def markdown() -> str:
    """Return the table as it is in docs/checkpoints.md."""
    lines = [f"| part | {' | '.join(ASPECTS)} | missing from the checkpoint |", "|---" * (len(ASPECTS) + 2) + "|"]
    for part in PARTS:
        cells = [part.outcome([aspect]) for aspect in ASPECTS]
        lines.append(f"| {' | '.join([part.name, *cells, part.if_absent])} |")
    meanings = [f"* *{aspect}*: {meaning}" for aspect, meaning in ASPECTS.items()]
    resets = [f"* {part.name}: {part.reset_to}" for part in PARTS if part.reset_to]
    return "\n".join([*lines, "", "The columns are", "", *meanings, "", "A reset gives", "", *resets, ""])


if __name__ == "__main__":
    print(markdown(), end="")
