"""Write a complete Hugging Face folder and prove it: the loaded folder gives the logits of the Megatron model."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from megatron_prealign.checkpoint.huggingface.config import generation_config_json, model_config_json
from megatron_prealign.checkpoint.huggingface.logits import LogitsFunction, check_logits, logits_function
from megatron_prealign.checkpoint.huggingface.mapping import to_huggingface
from megatron_prealign.checkpoint.huggingface.tokenizer import check_tokenizer, write_tokenizer
from megatron_prealign.config import Config
from megatron_prealign.errors import CheckpointError

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists.

    Raises:
        CheckpointError: it exists and `overwrite` is false.
    """
    if output.exists() and not overwrite:
        raise CheckpointError(f"{output} exists: name another folder, or pass --overwrite to replace it")


def export_model(
    model: torch.nn.Module,
    config: Config,
    tokenizer_path: Path,
    output: Path,
    *,
    dtype: str = "float32",
    verify: bool = True,
    overwrite: bool = False,
    max_shard_size: str = "5GB",
) -> None:
    """Write a whole Megatron model (TP1 PP1, fp32, on the CPU) as a Hugging Face folder.

    The model's parameters are rounded to `dtype` in place first, so that the self-check compares equal weights.

    Args:
        model: as `load_full_model` returns it.
        config: the checkpoint's config.
        tokenizer_path: the training tokenizer's folder or file.
        output: folder to make.
        dtype: of the written weights, a key of `DTYPES`.
        verify: self-check of weights and tokenizer.
        overwrite: replace an existing output.
        max_shard_size: as `export_folder`.

    Raises:
        CheckpointError: as `export_folder`.
        DataError: no usable tokenizer.
    """
    check_output(output, overwrite)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype]).float()
    export_folder(
        model.state_dict(),
        config,
        tokenizer_path,
        output,
        dtype=dtype,
        logits_fn=logits_function(model.eval()) if verify else None,
        overwrite=overwrite,
        max_shard_size=max_shard_size,
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
    max_shard_size: str = "5GB",
) -> None:
    """Write weights, configs and tokenizer under a temporary name, check them, and rename.

    Args:
        state: Megatron weights of the whole model (TP1 PP1), already rounded to `dtype` where logits are compared.
        config: the checkpoint's config.
        tokenizer_path: the training tokenizer's folder or file.
        output: folder to make.
        dtype: of the written weights, a key of `DTYPES`.
        logits_fn: the Megatron model; none leaves the self-check out (weights and tokenizer).
        overwrite: replace an existing output.
        max_shard_size: largest safetensors file, as huggingface_hub reads sizes; larger models get an index.

    Raises:
        CheckpointError: the output exists, the model has no Hugging Face counterpart, or the self-check failed.
            Nothing is left behind, and an existing output is as it was.
        DataError: no usable tokenizer.
    """
    check_output(output, overwrite)
    tensors = to_huggingface(state, config.model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        folder.mkdir()
        special_ids = write_tokenizer(tokenizer_path, folder, config.model.max_position_embeddings)
        _write_json(folder / "config.json", model_config_json(config.model, special_ids, dtype, config.data.seq_length))
        _write_json(folder / "generation_config.json", generation_config_json(special_ids))
        _write_weights({name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}, folder, max_shard_size)
        (folder / "README.md").write_text(_model_card(config, dtype), encoding="utf-8")
        if logits_fn is not None:
            check_tokenizer(tokenizer_path, folder)
            check_logits(folder, logits_fn, config.model)
        _sync_files(folder)
        if output.exists():
            output.rename(Path(scratch) / "replaced")
        folder.rename(output)


def _write_weights(tensors: Mapping[str, Tensor], folder: Path, max_shard_size: str) -> None:
    """Write model.safetensors, or numbered shards with an index where it would be larger than a shard."""
    plan = split_torch_state_dict_into_shards(
        dict(tensors), filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, names in plan.filename_to_tensors.items():
        # Own storage each: split projections are views of one tensor.
        shard = {name: tensors[name].contiguous().clone() for name in names}
        save_file(shard, folder / file_name, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _model_card(config: Config, dtype: str) -> str:
    """Return a short README.md: what the model is and how to load it."""
    model = config.model
    languages = sorted({entry.language for entry in config.data.blend})
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# A language model pretrained with megatron-prealign

{model.architecture}, {model.num_layers} layers, hidden size {model.hidden_size}, vocabulary {model.vocab_size}, \
trained on sequences of {config.data.seq_length} tokens; weights in {dtype}.
Languages: {", ".join(languages) or "not recorded"}. Last stage: {config.training.stage}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
model = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
```
"""


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync_files(folder: Path) -> None:
    """Flush files and the folder's entries to disk, so that the rename can't outlive their content."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
