"""Hugging Face folders from checkpoints and back: name tables, configs, tokenizer files, and a self-check of logits."""

from megatron_prealign.checkpoint.huggingface.card import read_results
from megatron_prealign.checkpoint.huggingface.export import check_output, export_checkpoint, export_folder, push_to_hub
from megatron_prealign.checkpoint.huggingface.importing import import_folder
from megatron_prealign.checkpoint.huggingface.mapping import to_huggingface

__all__ = [
    "check_output",
    "export_checkpoint",
    "export_folder",
    "import_folder",
    "push_to_hub",
    "read_results",
    "to_huggingface",
]
