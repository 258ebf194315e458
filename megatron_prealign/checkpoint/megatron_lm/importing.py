"""A torch_dist checkpoint of Megatron-LM as a checkpoint that stage 1 or stage 2 starts from, at any layout."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from megatron_prealign.checkpoint.huggingface.mapping import check_megatron, megatron_shapes
from megatron_prealign.checkpoint.megatron_lm.arguments import model_section
from megatron_prealign.checkpoint.new_rows import Growth, NewRows, fit_tokenizer
from megatron_prealign.checkpoint.safe_pickle import Opaque, read_metadata, read_plain
from megatron_prealign.checkpoint.start import VOCABULARY_WEIGHTS, Origin, Start, write_start
from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.files import output_problems
from megatron_prealign.platform.megatron.torch_dist import find_common
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

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
    old = [old_tokenizer_path] if old_tokenizer_path else []
    inputs = [source, tokenizer_path, *old, *(growth.lexicon_paths if growth else [])]
    problems = output_problems(output, overwrite, inputs)
    tokenizers: list[Tokenizer] = []
    for path in dict.fromkeys((tokenizer_path, old_tokenizer_path or tokenizer_path)):
        try:
            tokenizers.append(load_tokenizer(path))
        except PrealignError as error:
            problems += error.problems
    if problems:
        raise CheckpointError(problems)
    tokenizer, old_tokenizer = tokenizers[0], tokenizers[-1]
    checkpoint = _iteration(source)
    model = model_section(_arguments(checkpoint), old_tokenizer.vocab_size, make_vocab_size_divisible_by)
    weights = CheckpointTensors(checkpoint)
    _check_weights(weights, model)
    new_rows = fit_tokenizer(tokenizer, old_tokenizer, model, growth, problems)
    if problems:
        raise CheckpointError(problems)
    dtype = torch.bfloat16 if {weights.dtype(name) for name in weights} == {torch.bfloat16} else torch.float32

    def check(written: Path) -> None:
        _compare(CheckpointTensors(written), weights, model, new_rows)

    origin = Origin(model, dtype, weights.__getitem__)
    return write_start(output, origin, tokenizer, new_rows, overwrite=overwrite, verify=check if verify else None)


def _iteration(source: Path) -> Path:
    """Return the folder of an iteration: the source, or the newest of those below it."""
    tracker = source / _TRACKER
    if not tracker.is_file():
        return source
    newest = tracker.read_text(encoding="utf-8").strip()
    return source / (f"iter_{int(newest):07d}" if newest.isdecimal() else newest)


def _arguments(checkpoint: Path) -> dict[str, Any]:
    """Return Megatron-LM's command line, as the checkpoint keeps it."""
    path = checkpoint / "metadata.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("sharded_backend")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: can't be read ({error}); name a {_FORMAT} checkpoint (Megatron-LM's "
            "--ckpt-format torch_dist); its older format is a pickle, which is never opened"
        ) from None
    if kind != _FORMAT:
        raise CheckpointError(
            f"{path}: a checkpoint in the format {kind!r}; convert it to {_FORMAT!r} with Megatron-LM"
        )
    path, begin, end = find_common(checkpoint, read_metadata(checkpoint / ".metadata"))
    common = _read_common(path, begin, end)
    args = common.get("args") if isinstance(common, dict) else None
    if not isinstance(args, Opaque) or not args.attributes:
        raise CheckpointError(f"{path}: no args in it: not a Megatron-LM checkpoint; name one that Megatron-LM saved")
    return args.attributes


def _read_common(path: Path, begin: int, end: int | None) -> Any:
    """Return what megatron-core stored once: a file, or the item of a list in a part of one."""
    if end is None:
        return read_plain(path, path)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            content = file.read(end - begin)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    stored = read_plain(io.BytesIO(content), path)
    return stored[0] if isinstance(stored, list) and stored else None


def _check_weights(weights: CheckpointTensors, model: ModelConfig) -> None:
    """Refuse weights that are not exactly those of the model; a vocabulary of Megatron-LM has padding of its own."""
    vocab_size = int(model.vocab_size or 0)
    shapes = dict(weights.shapes)
    for name in VOCABULARY_WEIGHTS:
        if name in shapes:
            rows, *rest = shapes[name]
            if rows < vocab_size:
                raise CheckpointError(
                    f"{weights.path}: {name} has {rows} rows, but the tokenizer has {vocab_size} ids: name "
                    "the one that it was trained with (as --old-tokenizer, if you continue with a larger one)"
                )
            shapes[name] = (model.padded_vocab_size, *rest)
    check_megatron(shapes, model)


def _compare(
    written: CheckpointTensors, weights: CheckpointTensors, model: ModelConfig, new_rows: NewRows | None
) -> None:
    """Refuse a written checkpoint whose weights are not the source's, bit for bit."""
    num_known = new_rows.num_old if new_rows is not None else model.vocab_size
    differing = []
    for name in megatron_shapes(model):
        rows = slice(num_known if name in VOCABULARY_WEIGHTS else None)
        here = written[name][rows]
        if not torch.equal(here, weights[name][rows].to(here.dtype)):
            differing.append(name)
    if differing:
        names = ", ".join(differing[:3])
        raise CheckpointError(
            f"{weights.path}: self-check failed: imported weights differ from it, such as {names}; report this"
        )
