"""Layout changes between a Megatron weight and its Hugging Face counterparts; each direction inverts the other exactly.

Shape legend: as in `mapping`; `...` stands for [H] of a weight and nothing of a bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megatron_prealign.config import ModelConfig


@dataclass(frozen=True)
class Sizes:
    """Lengths of the axes of a model's weights at TP1 PP1; `Row.axes` names these fields."""

    hidden: int
    ffn: int
    vocab: int
    padded_vocab: int
    num_heads: int
    num_groups: int
    head: int

    @classmethod
    def of(cls, model: ModelConfig) -> "Sizes":
        """Derive the sizes from the model section, whose vocab_size must be set."""
        return cls(
            hidden=model.hidden_size,
            ffn=model.ffn_hidden_size,
            vocab=int(model.vocab_size or 0),
            padded_vocab=model.padded_vocab_size,
            num_heads=model.num_attention_heads,
            num_groups=model.num_key_value_heads,
            head=model.head_size,
        )

    @property
    def attention(self) -> int:
        """Return the width of all heads together, N D."""
        return self.num_heads * self.head

    @property
    def qkv(self) -> int:
        """Return the rows of the fused query, key and value projection, (N + 2 G) D."""
        return (self.num_heads + 2 * self.num_groups) * self.head

    @property
    def gate_and_up(self) -> int:
        """Return the rows of the fused gate and up projection, 2 F."""
        return 2 * self.ffn

    def shape(self, axes: Sequence[str]) -> tuple[int, ...]:
        """Return the lengths of the named axes."""
        return tuple(int(getattr(self, axis)) for axis in axes)


class Transform(Protocol):
    """One Megatron tensor to its Hugging Face tensors, and back."""

    def split(self, tensor: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        """Return the Hugging Face tensors of a Megatron tensor."""

    def merge(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """Return the Megatron tensor of Hugging Face tensors."""


class _Copy:
    """The same tensor on both sides."""

    def split(self, tensor: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        return (tensor,)

    def merge(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        return parts[0]


class _Vocabulary:
    """Rows of the padded vocabulary [R, H] to those of real tokens [V, H]."""

    def split(self, tensor: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        return (tensor[: sizes.vocab],)

    def merge(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        padding = parts[0].new_zeros(sizes.padded_vocab - sizes.vocab, *parts[0].shape[1:])
        return torch.cat([parts[0], padding])


class _Qkv:
    """Group by group [its queries, its key, its value] to all queries, all keys, all values.

    Megatron keeps the N / G query heads of a group beside their one key and value head, so that tensor parallelism can
    cut between groups.
    """

    def split(self, tensor: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        per_group = sizes.num_heads // sizes.num_groups
        rest = tensor.shape[1:]
        heads = tensor.reshape(sizes.num_groups, per_group + 2, sizes.head, *rest)
        query, key, value = torch.split(heads, [per_group, 1, 1], dim=1)
        return tuple(part.reshape(-1, *rest) for part in (query, key, value))

    def merge(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        rest = parts[0].shape[1:]
        heads = [part.reshape(sizes.num_groups, -1, sizes.head, *rest) for part in parts]
        return torch.cat(heads, dim=1).reshape(sizes.qkv, *rest)


class _GatedMlp:
    """[gate; up] stacked by rows to gate and up."""

    def split(self, tensor: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
        gate, up = tensor.chunk(2)
        return gate, up

    def merge(self, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
        return torch.cat(list(parts))


COPY: Transform = _Copy()
VOCABULARY: Transform = _Vocabulary()
QKV: Transform = _Qkv()
GATED_MLP: Transform = _GatedMlp()
