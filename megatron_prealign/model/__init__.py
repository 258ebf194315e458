"""The network: configuration to megatron-core's GPTModel with addressed initial weights."""

from megatron_prealign.model.attention import Segments, number_documents, segment_bounds, segment_mask
from megatron_prealign.model.build import PrealignGPTModel, build_model_chunks, hidden_states_only
from megatron_prealign.model.transformer_config import build_transformer_config

__all__ = [
    "PrealignGPTModel",
    "Segments",
    "build_model_chunks",
    "build_transformer_config",
    "hidden_states_only",
    "number_documents",
    "segment_bounds",
    "segment_mask",
]
