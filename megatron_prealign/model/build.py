"""megatron-core's GPTModel with a loss over the real vocabulary, and the chunks of this pipeline stage."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor

from megatron_prealign.config import Config
from megatron_prealign.model.attention import additive_mask
from megatron_prealign.model.cross_entropy import vocab_parallel_cross_entropy
from megatron_prealign.model.layer_spec import build_block_spec, select_implementation
from megatron_prealign.model.parameters import initialize_parameters
from megatron_prealign.model.transformer_config import build_transformer_config
from megatron_prealign.platform import Mesh


class PrealignGPTModel(GPTModel):  # type: ignore[misc]
    """GPTModel whose loss ignores vocabulary rows that exist only as padding.

    The loss then depends on the tokenizer's vocabulary only, and padded rows never receive a gradient.
    """

    def __init__(self, *args: Any, num_tokens: int, z_loss_weight: float, adds_mask: bool, **kwargs: Any) -> None:
        """Take GPTModel's arguments and more.

        Args:
            args: GPTModel's.
            num_tokens: vocabulary size before padding.
            z_loss_weight: see `vocab_parallel_cross_entropy`.
            adds_mask: whether the layers add masks to scores, or take boolean ones.
            kwargs: GPTModel's.
        """
        super().__init__(*args, **kwargs)
        self.num_tokens = num_tokens
        self.z_loss_weight = z_loss_weight
        self.adds_mask = adds_mask

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Take a mask that is true where a position is hidden; local layers share one additive form of it."""
        if attention_mask is not None and self.adds_mask:
            attention_mask = additive_mask(attention_mask, next(self.parameters()).dtype)
        output: Tensor = super().forward(input_ids, position_ids, attention_mask, **options)
        return output

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the cross entropy [B, S] of logits [S, B, V rows of this rank] for labels [B, S]."""
        losses = vocab_parallel_cross_entropy(
            logits, labels.t(), self.num_tokens, self.pg_collection.tp, self.z_loss_weight
        )
        return losses.t().contiguous()


def build_model_chunks(config: Config, device: torch.device) -> list[torch.nn.Module]:
    """Build this rank's part of the model with initial weights: one chunk, or several in an interleaved pipeline.

    `config.model.vocab_size` must be resolved. bf16 and fp16 chunks come wrapped in megatron-core's Float16Module.
    """
    model = config.model
    num_rows = model.padded_vocab_size
    assert model.vocab_size is not None, "padded_vocab_size has refused it"
    mesh = Mesh.current()
    transformer = build_transformer_config(config, device.type)
    chunks: list[torch.nn.Module] = []
    for index in range(mesh.virtual_pipeline_size or 1):
        vp_stage = None if mesh.virtual_pipeline_size is None else index
        chunk = PrealignGPTModel(
            config=transformer,
            transformer_layer_spec=build_block_spec(model, transformer, device.type, vp_stage),
            vocab_size=num_rows,
            num_tokens=model.vocab_size,
            z_loss_weight=config.training.z_loss_weight,
            adds_mask=select_implementation(model, device.type)[0] == "local",
            max_sequence_length=model.max_position_embeddings,
            pre_process=mesh.holds_start(index),
            post_process=mesh.holds_end(index),
            share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
            position_embedding_type="yarn" if model.rope_scaling == "yarn" else "rope",
            rotary_percent=model.rotary_percent,
            rotary_base=model.rotary_base,
            rope_scaling=model.rope_scaling == "llama3",
            rope_scaling_factor=model.rope_scaling_factor,
            vp_stage=vp_stage,
        )
        initialize_parameters(chunk, config.training.seed)
        chunk.to(device)
        chunks.append(chunk if config.training.precision == "fp32" else Float16Module(transformer, chunk))
    return chunks


@contextlib.contextmanager
def hidden_states_only(chunk: torch.nn.Module) -> Iterator[None]:
    """Make the chunk return its hidden states after the final norm, without computing logits."""
    model = get_attr_wrapped_model(chunk, "post_process", return_model_obj=True)
    post_process = model.post_process
    model.post_process = False
    try:
        yield
    finally:
        model.post_process = post_process
