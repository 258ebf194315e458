"""Import a Hugging Face folder as a checkpoint from which either stage starts at any layout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from megatron_prealign.checkpoint.huggingface.import_config import model_section
from megatron_prealign.checkpoint.huggingface.logits import check_logits, checkpoint_logits
from megatron_prealign.checkpoint.huggingface.mapping import check_huggingface, weight_rows
from megatron_prealign.checkpoint.huggingface.special_ids import FolderIds
from megatron_prealign.checkpoint.huggingface.transforms import Sizes
from megatron_prealign.checkpoint.huggingface.weights import FolderTensors
from megatron_prealign.checkpoint.new_rows import Growth, NewRows, fit_tokenizer
from megatron_prealign.checkpoint.start import Origin, Start, write_start
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.files import output_problems
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")

_TIED_COPIES = ("lm_head.weight", "embed_out.weight")


def import_folder(
    source: Path,
    output: Path,
    *,
    tokenizer_path: Path | None = None,
    eod_token: str | None = None,
    growth: Growth | None = None,
    make_vocab_size_divisible_by: int = 128,
    verify: bool = True,
    overwrite: bool = False,
) -> Start:
    """Write a Hugging Face folder as a checkpoint; one weight is in memory at a time.

    Args:
        source: folder with config.json, safetensors and a tokenizer.
        output: checkpoint to make; `checkpoint.init_from` takes it.
        tokenizer_path: tokenizer to train with; None = the folder's own.
        eod_token: special token that ends documents; None = the tokenizer's eos_token.
        growth: how to make rows for ids that the model does not know; None = there must be no such ids.
        make_vocab_size_divisible_by: multiple to which the embedding rows are padded; a multiple of every
            tensor-parallel size that will be used.
        verify: compare logits of the checkpoint with the folder's, for the ids that both know.
        overwrite: replace an existing output.

    Raises:
        CheckpointError: the model is not supported, or the self-check failed; every reason is listed, and no output
            remains.
        DataError: no usable tokenizer, or an output that can't be written.
    """
    inputs = [source, *([tokenizer_path] if tokenizer_path else []), *(growth.lexicon_paths if growth else [])]
    problems = output_problems(output, overwrite, inputs)
    opened = _open(source, tokenizer_path, eod_token, growth, make_vocab_size_divisible_by, problems)
    model, weights, tokenizer, special_ids, new_rows = opened
    dtype = torch.bfloat16 if set(weights.dtypes.values()) == {torch.bfloat16} else torch.float32
    sizes, rows = Sizes.of(model), {row.megatron: row for row in weight_rows(model)}
    known = model if new_rows is None else replace(model, vocab_size=new_rows.num_old)

    def check(checkpoint: Path) -> None:
        check_logits(source, lambda ids: checkpoint_logits(checkpoint, ids), known)

    origin = Origin(
        model,
        dtype,
        lambda name: rows[name].merge(weights, sizes),
        special_ids,
        (*weights.notes, *special_ids.disagreements(tokenizer)),
    )
    return write_start(
        output,
        origin,
        tokenizer,
        new_rows,
        eod_token=eod_token,
        overwrite=overwrite,
        verify=check if verify else None,
    )


def _open(
    source: Path,
    tokenizer_path: Path | None,
    eod_token: str | None,
    growth: Growth | None,
    multiple: int,
    problems: list[str],
) -> tuple[ModelConfig, FolderTensors, Tokenizer, FolderIds, NewRows | None]:
    """Open all parts of a folder and check that they fit together; raise every problem at once."""
    new_rows = None
    model = _attempt(lambda: model_section(source, multiple), problems)
    weights = _attempt(lambda: FolderTensors(source), problems)
    tokenizer = _attempt(lambda: load_tokenizer(tokenizer_path or source, eod_token), problems)
    special_ids = _attempt(lambda: FolderIds.of_model(source), problems)
    if model is not None and weights is not None:
        problems += _weight_problems(weights, model)
    if model is not None and tokenizer is not None:
        new_rows = fit_tokenizer(tokenizer, _attempt(lambda: load_tokenizer(source), []), model, growth, problems)
    if problems or model is None or weights is None or tokenizer is None or special_ids is None:
        raise CheckpointError(problems)
    return model, weights, tokenizer, special_ids, new_rows


def _attempt(read: Callable[[], T], problems: list[str]) -> T | None:
    """Return what a function returns, or None after adding its problems."""
    try:
        return read()
    except PrealignError as error:
        problems += error.problems
        return None


def _weight_problems(weights: FolderTensors, model: ModelConfig) -> list[str]:
    if model.num_layers > len(weights):
        # The table of its weights would have a row for each layer.
        return [f"config.json says {model.num_layers:,} layers, but the folder has {len(weights):,} weights"]
    problems = []
    if not model.untie_embeddings_and_output_weights:
        # Some writers store the tied output layer too.
        embedding = weight_rows(model)[0].huggingface[0]
        for copy in [name for name in _TIED_COPIES if name in weights]:
            if embedding in weights and not torch.equal(weights[copy], weights[embedding]):
                problems.append(f"{copy} differs from {embedding}, but config.json says that they are tied")
            weights.leave_out(copy)
    try:
        check_huggingface(weights.shapes, model)
    except PrealignError as error:
        problems += error.problems
    return problems
