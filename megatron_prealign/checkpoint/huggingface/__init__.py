"""Checkpoints as Hugging Face folders: name tables, config.json, tokenizer files, and a writer that checks itself."""

from megatron_prealign.checkpoint.huggingface.export import (
    DTYPES,
    check_logits,
    check_output,
    export_folder,
    export_model,
)
from megatron_prealign.checkpoint.huggingface.mapping import ARCHITECTURES, from_huggingface, to_huggingface

__all__ = [
    "ARCHITECTURES",
    "DTYPES",
    "check_logits",
    "check_output",
    "export_folder",
    "export_model",
    "from_huggingface",
    "to_huggingface",
]
