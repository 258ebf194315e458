"""Checkpoints of Megatron-LM itself, in the format torch_dist."""

from megatron_prealign.checkpoint.megatron_lm.importing import import_megatron_lm

__all__ = ["import_megatron_lm"]
