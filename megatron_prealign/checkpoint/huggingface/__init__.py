"""Checkpoints as Hugging Face folders and back: name tables, configs, tokenizer files, and a self-check of logits."""

from megatron_prealign.checkpoint.huggingface.card import read_results
from megatron_prealign.checkpoint.huggingface.export import (
    DTYPES,
    check_output,
    export_checkpoint,
    export_folder,
    export_model,
    push_to_hub,
)
from megatron_prealign.checkpoint.huggingface.importing import import_folder
from megatron_prealign.checkpoint.huggingface.logits import check_logits
from megatron_prealign.checkpoint.huggingface.mapping import ARCHITECTURES, from_huggingface, to_huggingface

__all__ = [
    "ARCHITECTURES",
    "DTYPES",
    "check_logits",
    "check_output",
    "export_checkpoint",
    "export_folder",
    "export_model",
    "from_huggingface",
    "import_folder",
    "push_to_hub",
    "read_results",
    "to_huggingface",
]
