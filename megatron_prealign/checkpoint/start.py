"""Write a weights-only checkpoint that a run can start from; imports of other formats use it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from megatron_prealign.checkpoint import folder
from megatron_prealign.checkpoint.huggingface.mapping import megatron_shapes
from megatron_prealign.checkpoint.huggingface.special_ids import FolderIds
from megatron_prealign.checkpoint.manifest import write_manifest
from megatron_prealign.checkpoint.new_rows import NewRows
from megatron_prealign.checkpoint.sharded import copy_tokenizer
from megatron_prealign.checkpoint.tensors import write_tensors
from megatron_prealign.config import Config, DataConfig, ModelConfig, TrainingConfig, dump_config
from megatron_prealign.errors import CheckpointError
from megatron_prealign.files import atomic_folder
from megatron_prealign.text.tokenizer import Tokenizer

VOCABULARY_WEIGHTS = ("embedding.word_embeddings.weight", "output_layer.weight")


@dataclass(frozen=True)
class Origin:
    """A model of another format."""

    model: ModelConfig
    """Its model section, vocab_size set."""

    dtype: torch.dtype
    """Data type of the checkpoint to write: float32 or bfloat16."""

    read: Callable[[str], Tensor]
    """Return the weight at TP1 PP1 for a name of the local layer spec; a vocabulary weight has at least vocab_size
    rows."""

    special_ids: FolderIds | None = None
    """What it says about special tokens besides its tokenizer."""

    notes: tuple[str, ...] = ()
    """What users should know about it."""


@dataclass(frozen=True)
class Start:
    """The result of `write_start`."""

    config: Config
    """The model section, the tokenizer, and defaults."""

    new_rows: NewRows | None
    """Rows made for ids that the model did not know."""

    notes: tuple[str, ...] = ()
    """What users should know about the origin."""


def write_start(
    output: Path,
    origin: Origin,
    tokenizer: Tokenizer,
    new_rows: NewRows | None,
    *,
    eod_token: str | None = None,
    overwrite: bool,
    verify: Callable[[Path], None] | None = None,
) -> Start:
    """Write a checkpoint for `checkpoint.init_from`; one weight is in memory at a time.

    `verify` is called with the written checkpoint before the final rename; if it raises, nothing is written.

    Raises:
        CheckpointError: a weight can't be read, or `verify` raised it.
        DataError: the output can't be written.
    """
    old_size = int(origin.model.vocab_size or 0)
    model = replace(origin.model, vocab_size=max(old_size, new_rows.num_tokens if new_rows else 0))
    config = Config(
        model=model,
        data=DataConfig(
            tokenizer_path=str(output / folder.TOKENIZER / tokenizer.path.name),
            eod_token=eod_token,
            seq_length=min(DataConfig().seq_length, model.max_position_embeddings),
        ),
        training=TrainingConfig(precision="bf16" if origin.dtype is torch.bfloat16 else "fp32"),
    )

    def read(name: str) -> Tensor:
        weight = origin.read(name)
        if not weight.isfinite().all():
            raise CheckpointError(
                f"{name}: holds NaN or infinity, from which training never recovers; use other weights"
            )
        if name in VOCABULARY_WEIGHTS:
            rows = weight[:old_size]
            rows = rows if new_rows is None else new_rows.fill(rows)
            # Padding rows are masked and never trained, so their value does not matter.
            weight = torch.cat([rows, rows.new_zeros(model.padded_vocab_size - len(rows), rows.shape[1])])
        return weight.to(origin.dtype)

    with atomic_folder(output, overwrite) as temporary:
        write_tensors(temporary, megatron_shapes(model), model.num_layers, origin.dtype, read)
        (temporary / folder.CONFIG).write_text(dump_config(config), encoding="utf-8")
        (temporary / folder.STATE).write_text(json.dumps({"step": 0}) + "\n", encoding="utf-8")
        copy_tokenizer(tokenizer.path, temporary / folder.TOKENIZER)
        if origin.special_ids is not None:
            origin.special_ids.write(temporary / folder.TOKENIZER)
        write_manifest(temporary, {})
        if verify is not None:
            verify(temporary)
    return Start(config, new_rows, origin.notes)
