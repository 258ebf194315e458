"""A Hugging Face folder as a checkpoint that stage 1 or stage 2 starts from, at any layout."""

import json
from pathlib import Path

import torch

from megatron_prealign.checkpoint import folder as checkpoint_folder
from megatron_prealign.checkpoint.huggingface.import_config import model_section
from megatron_prealign.checkpoint.huggingface.logits import check_logits, checkpoint_logits
from megatron_prealign.checkpoint.huggingface.mapping import check_huggingface, megatron_shapes, weight_rows
from megatron_prealign.checkpoint.huggingface.transforms import Sizes
from megatron_prealign.checkpoint.huggingface.weights import FolderTensors
from megatron_prealign.checkpoint.manifest import write_manifest
from megatron_prealign.checkpoint.sharded import copy_tokenizer
from megatron_prealign.checkpoint.tensors import write_tensors
from megatron_prealign.config import Config, DataConfig, ModelConfig, TrainingConfig, dump_config
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.lexicon.output import atomic_folder, output_problems

_TIED_COPIES = ("lm_head.weight", "embed_out.weight")


def import_folder(
    source: Path,
    output: Path,
    *,
    tokenizer_path: Path | None = None,
    make_vocab_size_divisible_by: int = 128,
    verify: bool = True,
    overwrite: bool = False,
) -> Config:
    """Write a Hugging Face folder as a checkpoint; one weight is in memory at once.

    Args:
        source: folder with config.json, safetensors and a tokenizer.
        output: checkpoint to make; `checkpoint.init_from` takes it.
        tokenizer_path: tokenizer to train with; none = the folder's own.
        make_vocab_size_divisible_by: multiple to which the embedding rows are padded; a multiple of every
            tensor-parallel size that will be used.
        verify: compare logits of the checkpoint with the folder's.
        overwrite: replace an existing output.

    Returns:
        The checkpoint's configuration: the folder's model section, its tokenizer, and defaults.

    Raises:
        CheckpointError: the folder can't be continued here, or the self-check failed; every reason is listed, and
            nothing is left behind.
        DataError: no usable tokenizer, or an output that can't be written.
    """
    problems = output_problems(output, overwrite)
    model, weights, tokenizer = _open(source, tokenizer_path, make_vocab_size_divisible_by, problems)
    dtype = torch.bfloat16 if set(weights.dtypes.values()) == {torch.bfloat16} else torch.float32
    sizes, rows = Sizes.of(model), {row.megatron: row for row in weight_rows(model)}
    config = Config(
        model=model,
        data=DataConfig(
            tokenizer_path=str(output / checkpoint_folder.TOKENIZER / tokenizer.path.name),
            seq_length=min(DataConfig().seq_length, model.max_position_embeddings),
        ),
        training=TrainingConfig(precision="bf16" if dtype is torch.bfloat16 else "fp32"),
    )
    with atomic_folder(output, overwrite) as temporary:
        write_tensors(
            temporary,
            megatron_shapes(model),
            model.num_layers,
            dtype,
            lambda name: rows[name].merge(weights, sizes).to(dtype),
        )
        (temporary / checkpoint_folder.CONFIG).write_text(dump_config(config), encoding="utf-8")
        (temporary / checkpoint_folder.STATE).write_text(json.dumps({"step": 0}) + "\n", encoding="utf-8")
        copy_tokenizer(tokenizer.path, temporary / checkpoint_folder.TOKENIZER)
        write_manifest(temporary, {})
        if verify:
            check_logits(source, lambda ids: checkpoint_logits(temporary, ids), model)
    return config


def _open(
    source: Path, tokenizer_path: Path | None, multiple: int, problems: list[str]
) -> tuple[ModelConfig, FolderTensors, Tokenizer]:
    """Open all parts of a folder and check that they fit together; raise every problem at once."""
    model, weights, tokenizer = None, None, None
    try:
        model = model_section(source, multiple)
    except PrealignError as error:
        problems += error.problems
    try:
        weights = FolderTensors(source)
    except PrealignError as error:
        problems += error.problems
    try:
        tokenizer = load_tokenizer(tokenizer_path or source)
    except PrealignError as error:
        problems += error.problems
    if model is not None and weights is not None:
        problems += _weight_problems(weights, model)
    if model is not None and tokenizer is not None:
        problems += _tokenizer_problems(tokenizer, source, model)
    if problems or model is None or weights is None or tokenizer is None:
        raise CheckpointError(problems)
    return model, weights, tokenizer


def _weight_problems(weights: FolderTensors, model: ModelConfig) -> list[str]:
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


def _tokenizer_problems(tokenizer: Tokenizer, source: Path, model: ModelConfig) -> list[str]:
    assert model.vocab_size is not None
    if tokenizer.vocab_size > model.vocab_size:
        return [
            f"{tokenizer.path}: {tokenizer.vocab_size} ids, but the model has {model.vocab_size} embedding rows: "
            "name the tokenizer it was trained with"
        ]
    try:
        own = load_tokenizer(source)
    except PrealignError:
        return []
    pairs = zip(own.token_bytes, tokenizer.token_bytes, strict=False)
    differing = [index for index, (there, here) in enumerate(pairs) if there != here]
    if not differing:
        return []
    first = differing[0]
    return [
        f"{tokenizer.path}: {len(differing)} ids stand for other text than in the folder's own tokenizer, first "
        f"{first}: {tokenizer.token_bytes[first]!r} for {own.token_bytes[first]!r}; the embeddings would mean nothing"
    ]
