"""Write a complete Hugging Face folder, check that it gives the logits of the Megatron model, and upload it.

One weight is in memory at a time. A killed export leaves its files in a hidden folder next to the output; the same
command continues from there.
"""

import hashlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from torch import Tensor

from megatron_prealign.checkpoint.folder import CONFIG, TOKENIZER
from megatron_prealign.checkpoint.huggingface.card import model_card
from megatron_prealign.checkpoint.huggingface.config import model_config_json, write_json
from megatron_prealign.checkpoint.huggingface.logits import (
    LogitsFunction,
    check_logits,
    checkpoint_logits,
)
from megatron_prealign.checkpoint.huggingface.mapping import check_megatron, huggingface_shapes, weight_rows
from megatron_prealign.checkpoint.huggingface.special_ids import GENERATION, FolderIds
from megatron_prealign.checkpoint.huggingface.tokenizer import TrainedTokenizer, check_tokenizer, write_tokenizer
from megatron_prealign.checkpoint.huggingface.transforms import Sizes
from megatron_prealign.checkpoint.huggingface.weights import INDEX, write_safetensors
from megatron_prealign.checkpoint.tensors import CheckpointTensors, local_name
from megatron_prealign.config import Config, ModelConfig, load_resolved
from megatron_prealign.errors import CheckpointError, PrealignError
from megatron_prealign.files import lost_inputs, sync

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_SHARD_SIZE = "5GB"
"""Largest weight file."""


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists.

    Raises:
        CheckpointError: it exists and `overwrite` is false.
    """
    if output.exists() and not overwrite:
        raise CheckpointError(f"{output} exists: name another folder, or pass --overwrite to replace it")


def _num_bytes(size: str) -> int:
    """Return the bytes of a size such as 5GB; units are powers of 1,000, as in huggingface_hub."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", size.strip().upper())
    num_bytes = int(found[1]) * 1000 ** " KMGT".index(found[2] or " ") if found else 0
    if num_bytes < 1:
        raise CheckpointError(f"--max-shard-size {size}: expected bytes or a number of KB, MB, GB or TB, such as 5GB")
    return num_bytes


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    dtype: str = "float32",
    verify: bool = True,
    overwrite: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    results: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a checkpoint of any layout (a step folder) as a Hugging Face folder.

    Continues a killed export of the same checkpoint with the same options. With `verify`, logits and tokenizer are
    compared at the end, which needs the whole model in memory in fp32. Other arguments, the result and errors are those
    of `export_folder`.
    """
    check_output(output, overwrite)
    if problems := lost_inputs(output, [checkpoint]):
        raise CheckpointError(problems)
    config = load_resolved(checkpoint / CONFIG)
    weights = CheckpointTensors(checkpoint)
    # .metadata identifies the save.
    digest = hashlib.sha256((checkpoint / ".metadata").read_bytes()).hexdigest()
    return export_folder(
        weights,
        config,
        checkpoint / TOKENIZER,
        output,
        dtype=dtype,
        logits_fn=(lambda ids: checkpoint_logits(checkpoint, ids, DTYPES[dtype])) if verify else None,
        overwrite=overwrite,
        max_shard_size=max_shard_size,
        results=results,
        identity=f"{digest} {dtype} {max_shard_size}",
    )


def export_folder(
    state: Mapping[str, Tensor],
    config: Config,
    tokenizer_path: Path,
    output: Path,
    *,
    dtype: str = "float32",
    logits_fn: LogitsFunction | None = None,
    overwrite: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    results: Mapping[str, Any] | None = None,
    identity: str | None = None,
) -> list[str]:
    """Write weights, configs and tokenizer under a temporary name, check them, and rename.

    Args:
        state: Megatron weights of the whole model (TP1 PP1), perhaps a mapping that reads each one when asked for it.
        config: the checkpoint's config.
        tokenizer_path: the training tokenizer's folder or file.
        output: folder to write.
        dtype: data type of the written weights, a key of `DTYPES`.
        logits_fn: the Megatron model, its weights rounded to `dtype`; None skips the self-check of weights and
            tokenizer.
        overwrite: replace an existing output.
        max_shard_size: largest safetensors file, in bytes or with a unit; larger models get an index.
        results: measured numbers for the model card.
        identity: determines the content of the weight files; those of an interrupted export of equal identity are
            kept. None starts afresh and removes everything after an error.

    Returns:
        What users should know about the tokens of the folder.

    Raises:
        CheckpointError: the output exists, the model has no Hugging Face counterpart, or the self-check failed. No new
            file remains, and an existing output is unchanged.
        DataError: no usable tokenizer.
    """
    check_output(output, overwrite)
    shard_bytes = _num_bytes(max_shard_size)
    if isinstance(state, CheckpointTensors):
        shapes = state.shapes
    else:
        state = {local_name(name): tensor for name, tensor in state.items() if not name.endswith("_extra_state")}
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    check_megatron(shapes, config.model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _resumable_folder(output, identity) as folder:
        trained = TrainedTokenizer.load(tokenizer_path, config.data)
        own, notes = write_tokenizer(trained, folder, config.model.max_position_embeddings)
        carried = FolderIds.of_tokenizer(trained.tokenizer.path.parent)
        ids = carried.for_config(own)
        write_json(folder / "config.json", model_config_json(config.model, ids, dtype, config.data.seq_length))
        write_json(folder / GENERATION, carried.for_generation(own))
        _write_weights(state, config.model, DTYPES[dtype], folder, shard_bytes)
        (folder / "README.md").write_text(model_card(config, dtype, results), encoding="utf-8")
        if logits_fn is not None:
            check_tokenizer(trained, folder, int(config.model.vocab_size or 0))
            check_logits(folder, logits_fn, config.model)
    return [*notes, *carried.disagreements(trained.tokenizer)]


@contextmanager
def _resumable_folder(output: Path, identity: str | None) -> Iterator[Path]:
    """Yield a folder that is renamed to the output if the block ends without an error.

    If the block is killed, the folder stays, and the next caller with the same identity gets it.
    """
    scratch = output.with_name(f".{output.name}.partial")
    folder, mark = scratch / output.name, scratch / "identity"
    if identity is None or not mark.is_file() or mark.read_text(encoding="utf-8") != identity:
        shutil.rmtree(scratch, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(identity or "", encoding="utf-8")
    try:
        yield folder
        for path in (*folder.rglob("*"), folder):
            sync(path)
        if output.exists():
            output.rename(scratch / "replaced")
        folder.rename(output)
        sync(output.parent)
    except BaseException as error:
        if identity is None or isinstance(error, PrealignError):
            shutil.rmtree(scratch)
        raise
    shutil.rmtree(scratch)


def _write_weights(
    state: Mapping[str, Tensor], model: ModelConfig, dtype: torch.dtype, folder: Path, shard_bytes: int
) -> None:
    """Write model.safetensors, or numbered shards with an index if it were larger than a shard."""
    shapes = huggingface_shapes(model)
    blueprint = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    plan = split_torch_state_dict_into_shards(
        blueprint, filename_pattern="model{suffix}.safetensors", max_shard_size=shard_bytes
    )
    for file_name, names in plan.filename_to_tensors.items():
        if not (folder / file_name).is_file():
            temporary = folder / f"{file_name}.tmp"
            here = {name: shapes[name] for name in names}
            write_safetensors(temporary, here, dtype, _ahead(_converted(state, model, dtype, here)))
            temporary.rename(folder / file_name)
    if plan.is_sharded:
        write_json(folder / INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})


def _converted(
    state: Mapping[str, Tensor], model: ModelConfig, dtype: torch.dtype, names: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the Hugging Face tensors of the given names, in the table's order."""
    sizes = Sizes.of(model)
    for row in weight_rows(model):
        if not set(row.huggingface).isdisjoint(names):
            parts = row.split(state[row.megatron].to(dtype), sizes)
            yield from ((name, part) for name, part in parts.items() if name in names)


def _ahead(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors; compute the next one while the previous one is written."""
    with ThreadPoolExecutor(1) as background:
        following = background.submit(next, tensors, None)
        while (current := following.result()) is not None:
            following = background.submit(next, tensors, None)
            yield current


def push_to_hub(folder: Path, repository: str, revision: str | None = None) -> str:
    """Upload a folder to the Hugging Face Hub and return the address; a missing repository is created as private.

    Args:
        folder: a complete Hugging Face folder.
        repository: OWNER/NAME. The token is huggingface_hub's own: HF_TOKEN, or that of `hf auth login`.
        revision: Branch for it, created if missing; None for the main one.

    Raises:
        CheckpointError: it was not uploaded; the folder is unchanged.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Add model", revision=revision
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(f"not uploaded to {repository}: {error}; the folder {folder} is complete") from error
    return str(commit.commit_url)
