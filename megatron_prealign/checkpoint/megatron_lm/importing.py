"""A torch_dist checkpoint of Megatron-LM as a checkpoint that stage 1 or stage 2 starts from, at any layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.checkpoint.huggingface.mapping import check_megatron
from megatron_prealign.checkpoint.megatron_lm.arguments import model_section
from megatron_prealign.checkpoint.new_rows import Growth, NewRows, fit_tokenizer
from megatron_prealign.checkpoint.plain_pickle import Opaque, read_plain
from megatron_prealign.checkpoint.start import VOCABULARY_WEIGHTS, Origin, Start, write_start
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import ModelConfig
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.lexicon.output import output_problems

_TRACKER = "latest_checkpointed_iteration.txt"
_FORMAT = "torch_dist"


def import_megatron_lm(
    source: Path,
    output: Path,
    *,
    tokenizer_path: Path,
    old_tokenizer_path: Path | None = None,
    growth: Growth | None = None,
    make_vocab_size_divisible_by: int = 128,
    verify: bool = True,
    overwrite: bool = False,
) -> Start:
    """Write the weights of a Megatron-LM checkpoint as one of ours; one weight is in memory at once.

    Rows that Megatron-LM padded its vocabulary with are left out: it trains them, here padding is masked.

    Args:
        source: folder of one iteration, or the folder above it for the newest.
        output: checkpoint to make; `checkpoint.init_from` takes it.
        tokenizer_path: tokenizer to train with.
        old_tokenizer_path: the one it was trained with, where that is another; checkpoints don't hold it.
        growth: how rows for new ids are made; none where there are none.
        make_vocab_size_divisible_by: multiple to which the embedding rows are padded; a multiple of every
            tensor-parallel size that will be used.
        verify: read what was written back and compare it with the source, bit for bit.
        overwrite: replace an existing output.

    Raises:
        CheckpointError: the checkpoint can't be continued here; every reason is listed, and nothing is left behind.
        DataError: no usable tokenizer, or an output that can't be written.
    """
    problems = output_problems(output, overwrite)
    tokenizers: list[Tokenizer] = []
    for path in (tokenizer_path, old_tokenizer_path or tokenizer_path):
        try:
            tokenizers.append(load_tokenizer(path))
        except PrealignError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    old_size = tokenizers[1].vocab_size if len(tokenizers) == 2 else 1
    model, weights = _open(source, old_size, make_vocab_size_divisible_by, problems)
    new_rows = None
    if model is not None and len(tokenizers) == 2:
        new_rows = _fit(*tokenizers, model, growth, old_tokenizer_path is not None, problems)
    if problems or model is None or weights is None:
        raise CheckpointError(problems)
    dtypes = {weights.dtype(name) for name in weights}
    dtype = torch.bfloat16 if dtypes == {torch.bfloat16} else torch.float32
    origin = Origin(model, dtype, weights.__getitem__)
    return write_start(output, origin, tokenizers[0], new_rows, overwrite=overwrite, reread=verify)
