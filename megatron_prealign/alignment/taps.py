"""Taps: the points of the model whose hidden states enter the alignment loss.

A model of L layers has L + 2: the embedding output (0), the outputs of layers 1 .. L-1, the output of layer L after the
final norm (L), and the rows of the output embedding for the item's tokens (L + 1). With tied embeddings the last equals
the first and is left out.

Each pipeline stage has forward hooks at its own taps; nothing more is sent between stages.

Shapes: S positions, R rows of packed items, I_r items of this data-parallel rank, H hidden.
"""

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor
from torch.nn import functional

from megatron_prealign.alignment.contrastive import ContrastiveTargets
from megatron_prealign.alignment.pooling import mean_pool, num_subwords, sum_pool
from megatron_prealign.platform import Mesh


@dataclass(frozen=True)
class ItemMicrobatch:
    """The items of one microbatch on this data-parallel rank, and how all ranks' items relate.

    Attributes:
        token_ids: int64 [R, S], items one after another.
        position_ids: int64 [R, S], position within the item.
        item_index: int64 [R, S], the item of each position, from 0 to I_r - 1; -1 = none.
        num_items: I_r, padding items included.
        targets: positives and exclusions among the items of all ranks; None without a loss.
    """

    token_ids: Tensor
    position_ids: Tensor
    item_index: Tensor
    num_items: int
    targets: ContrastiveTargets | None = None


OnTap = Callable[[int, Tensor, Tensor, ItemMicrobatch], Tensor]
"""From (tap, hidden states [S, R, H], item vectors [I_r, H], items) to the hidden states for the next layer."""


class Taps:
    """Forward hooks at the taps of this stage's model chunks."""

    def __init__(self, chunks: Sequence[torch.nn.Module]) -> None:
        """Register the hooks; they do nothing outside `watched`."""
        self._mesh = Mesh.current()
        self._items: ItemMicrobatch | None = None
        self._on_tap: OnTap | None = None
        models = [get_attr_wrapped_model(chunk, "decoder", return_model_obj=True) for chunk in chunks]
        config = models[0].config
        self.num_layers: int = config.num_layers
        self.tied: bool = models[0].share_embeddings_and_output_weights
        self.device = next(models[0].parameters()).device
        self._sequence_parallel: bool = config.sequence_parallel
        self._recomputed: dict[int, deque[tuple[ItemMicrobatch, OnTap]]] = defaultdict(deque)
        for model in models:
            self._register(model)

    def _register(self, model: Any) -> None:
        if model.pre_process:
            model.embedding.register_forward_hook(self._hook(0))
        for layer in model.decoder.layers:
            if layer.layer_number < self.num_layers:
                layer.register_forward_hook(self._hook(layer.layer_number))
        if model.post_process:
            output_weight = None if self.tied else model.output_layer.weight
            model.decoder.final_layernorm.register_forward_hook(self._hook(self.num_layers, output_weight))

    def _hook(self, tap: int, output_weight: torch.nn.Parameter | None = None) -> Callable[..., Any]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            current = self._current(tap)
            if current is None:
                return output
            items, on_tap = current
            hidden, *rest = output if isinstance(output, tuple) else (output,)
            hidden = on_tap(tap, hidden, self._pool(hidden, items), items)
            if output_weight is not None:
                hidden = on_tap(tap + 1, hidden, self._pool_rows(output_weight, items), items)
            return (hidden, *rest) if isinstance(output, tuple) else hidden

        return hook

    def _current(self, tap: int) -> tuple[ItemMicrobatch, OnTap] | None:
        """Return the items of the running pass, or None if this run of the layer is ignored.

        Recomputation runs a layer first without gradients and again in the backward pass, perhaps after the next
        microbatch began; a tap sees microbatches in the same order both times.
        """
        if self._recomputed[tap] and torch.is_grad_enabled():
            return self._recomputed[tap].popleft()
        if self._items is None or self._on_tap is None:
            return None
        if torch.is_grad_enabled() or self._items.targets is None:
            return self._items, self._on_tap
        self._recomputed[tap].append((self._items, self._on_tap))
        return None

    def _pool(self, hidden: Tensor, items: ItemMicrobatch) -> Tensor:
        """Average [S, R, H] to [I_r, H]; under sequence parallelism by partial sums, never gathering S."""
        if not self._sequence_parallel:
            return mean_pool(hidden, items.item_index, items.num_items)
        rank = self._mesh.tensor.rank
        local = items.item_index[:, rank * hidden.shape[0] : (rank + 1) * hidden.shape[0]]
        total: Tensor = reduce_from_tensor_model_parallel_region(sum_pool(hidden, local, items.num_items))
        return total / num_subwords(items.item_index, items.num_items)

    def _pool_rows(self, weight: torch.nn.Parameter, items: ItemMicrobatch) -> Tensor:
        """Average the output embedding's rows of each item; the rows are split over tensor-parallel ranks."""
        # Otherwise a fused weight-gradient kernel drops the gradient of this second use.
        weight.zero_out_wgrad = True  # type: ignore[attr-defined]
        local = items.token_ids - self._mesh.tensor.rank * weight.shape[0]
        here = (local >= 0) & (local < weight.shape[0])
        rows = functional.embedding(local.clamp(0, weight.shape[0] - 1), weight)
        index = torch.where(here, items.item_index, -1)
        total: Tensor = reduce_from_tensor_model_parallel_region(sum_pool(rows.transpose(0, 1), index, items.num_items))
        return total / num_subwords(items.item_index, items.num_items)

    @contextlib.contextmanager
    def watched(self, items: ItemMicrobatch, on_tap: OnTap) -> Iterator[None]:
        """Call `on_tap` at every tap of a forward pass over `items` inside the context.

        For items with targets, a layer that will be recomputed is ignored until its second run, which has gradients.
        """
        self._items, self._on_tap = items, on_tap
        try:
            yield
        finally:
            self._items = self._on_tap = None
