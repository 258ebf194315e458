"""Taps: the points of the model whose hidden states enter the alignment loss.

A model of L layers has L + 2: the embedding output (0), the outputs of layers 1 .. L-1, the output
of layer L after the final norm (L), and the rows of the output embedding for the word's tokens
(L + 1). With tied embeddings the last coincides with the first and is left out.

Each pipeline stage computes the losses of its own taps with forward hooks and attaches each to the
hidden states it was computed from; nothing extra travels between stages.

Shapes: S positions, W_r words of this data-parallel rank, W words of the whole batch, H hidden.
"""

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor
from torch.nn import functional

from megatron_prealign.alignment.contrastive import ContrastiveTargets, contrastive_loss
from megatron_prealign.alignment.gather import gather_words
from megatron_prealign.alignment.injection import attach_loss
from megatron_prealign.alignment.pooling import mean_pool, num_subwords, sum_pool


def num_taps(num_layers: int, tied: bool) -> int:
    """Count the taps of a model: num_layers + 2, one less with tied embeddings."""
    return num_layers + (1 if tied else 2)


@dataclass(frozen=True)
class WordMicrobatch:
    """The words of one microbatch on this data-parallel rank, and how all ranks' words relate.

    Attributes:
        token_ids: int64 [W_r, S], right-padded.
        mask: bool [W_r, S], true on the word's subwords.
        targets: positives and exclusions among the words of the whole batch.
    """

    token_ids: Tensor
    mask: Tensor
    targets: ContrastiveTargets


class AlignmentTaps:
    """Computes and attaches the alignment loss at every tap of this stage's model chunks."""

    def __init__(self, chunks: Sequence[torch.nn.Module], temperature: float, chunk_rows: int | None = None) -> None:
        """Register the hooks; they do nothing outside `attached`."""
        self.temperature = temperature
        self.chunk_rows = chunk_rows
        self._words: WordMicrobatch | None = None
        self._scale = torch.zeros(())
        models = [get_attr_wrapped_model(chunk, "decoder", return_model_obj=True) for chunk in chunks]
        config = models[0].config
        self._sequence_parallel: bool = config.sequence_parallel
        tied = models[0].share_embeddings_and_output_weights
        device = next(models[0].parameters()).device
        self._losses = torch.zeros(num_taps(config.num_layers, tied), device=device)
        self._recomputed: dict[int, deque[WordMicrobatch]] = defaultdict(deque)
        for model in models:
            self._register(model, config.num_layers, tied)

    @property
    def num_taps(self) -> int:
        """Taps of the whole model."""
        return len(self._losses)

    def _register(self, model: Any, num_layers: int, tied: bool) -> None:
        if model.pre_process:
            model.embedding.register_forward_hook(self._hook(0))
        for layer in model.decoder.layers:
            if layer.layer_number < num_layers:
                layer.register_forward_hook(self._hook(layer.layer_number))
        if model.post_process:
            output_weight = None if tied else model.output_layer.weight
            model.decoder.final_layernorm.register_forward_hook(self._hook(num_layers, output_weight))

    def _hook(self, tap: int, output_weight: torch.nn.Parameter | None = None) -> Callable[..., Any]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            words = self._words_of_pass(tap)
            if words is None:
                return output
            hidden, *rest = output if isinstance(output, tuple) else (output,)
            hidden = self._attach(tap, hidden, self._pool(hidden, words), words)
            if output_weight is not None:
                hidden = self._attach(tap + 1, hidden, self._pool_rows(output_weight, words), words)
            return (hidden, *rest) if isinstance(output, tuple) else hidden

        return hook

    def _words_of_pass(self, tap: int) -> WordMicrobatch | None:
        """Return the words of the pass that runs now, or none where nothing is to be attached.

        Recomputation runs a layer first without gradients and again in the backward pass, when the
        next microbatch may be in hand; a tap sees microbatches in the same order both times.
        """
        if torch.is_grad_enabled():
            return self._recomputed[tap].popleft() if self._recomputed[tap] else self._words
        if self._words is not None:
            self._recomputed[tap].append(self._words)
        return None

    def _attach(self, tap: int, hidden: Tensor, vectors: Tensor, words: WordMicrobatch) -> Tensor:
        group = parallel_state.get_data_parallel_group()
        gathered = gather_words(vectors, group)
        loss = contrastive_loss(gathered, words.targets, self.temperature, self.chunk_rows)
        self._losses[tap] += loss.detach()
        # Data parallelism averages gradients over ranks, while the loss is a sum over them.
        return attach_loss(hidden, loss, (self._scale * group.size()).to(loss))

    def _pool(self, hidden: Tensor, words: WordMicrobatch) -> Tensor:
        """Average [S, W_r, H] to [W_r, H]; under sequence parallelism by partial sums, never gathering S."""
        if not self._sequence_parallel:
            return mean_pool(hidden, words.mask)
        rank = parallel_state.get_tensor_model_parallel_rank()
        local = words.mask[:, rank * hidden.shape[0] : (rank + 1) * hidden.shape[0]]
        total: Tensor = reduce_from_tensor_model_parallel_region(sum_pool(hidden, local))
        return total / num_subwords(words.mask)

    def _pool_rows(self, weight: torch.nn.Parameter, words: WordMicrobatch) -> Tensor:
        """Average the output embedding's rows of each word; the rows are split over tensor-parallel ranks."""
        # A fused weight-gradient kernel would otherwise drop the gradient of this second use.
        weight.zero_out_wgrad = True  # type: ignore[attr-defined]
        local = words.token_ids - parallel_state.get_tensor_model_parallel_rank() * weight.shape[0]
        mask = words.mask & (local >= 0) & (local < weight.shape[0])
        rows = functional.embedding(local.clamp(0, weight.shape[0] - 1), weight)
        total: Tensor = reduce_from_tensor_model_parallel_region(sum_pool(rows.transpose(0, 1), mask))
        return total / num_subwords(words.mask)

    @contextlib.contextmanager
    def attached(self, words: WordMicrobatch, scale: Tensor) -> Iterator[None]:
        """Attach every tap's loss, times `scale`, to a forward pass over `words` inside the context."""
        self._words, self._scale = words, scale
        try:
            yield
        finally:
            self._words = None

    def take_losses(self) -> Tensor:
        """Return and clear the loss of each tap, summed over microbatches: fp32 [taps].

        Collective over the data-parallel and pipeline groups.
        """
        losses = self._losses.clone()
        torch.distributed.all_reduce(losses, group=parallel_state.get_data_parallel_group())
        torch.distributed.all_reduce(losses, group=parallel_state.get_pipeline_model_parallel_group())
        self._losses.zero_()
        return losses
