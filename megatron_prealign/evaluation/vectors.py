"""Vectors of words and sentences at every tap of a Hugging Face model.

The taps are the embedding output, the outputs of layers 1 .. L-1, the output of layer L after the final norm, and the
rows of the output embedding for the sequence's own tokens if it is untied.

Shape legend: N sequences, B sequences of a batch, S positions, H hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from megatron_prealign.evaluation.folder import ModelFolder

Pooling = Literal["mean", "weighted"]
"""mean: all tokens count alike; weighted: token number i counts i times, because later tokens have seen more text."""

_MAX_BATCH = 256
# Padded tokens of a batch: their hidden states of all layers are held at once, 1 GiB for 32 layers of 4096.
_MAX_BATCH_TOKENS = 2048


@torch.inference_mode()
def sequence_vectors(
    folder: ModelFolder, sequences: Sequence[Sequence[int]], pooling: Pooling = "mean", prefix: Sequence[int] = ()
) -> Tensor:
    """Return the vectors of token sequences at every tap.

    Args:
        folder: model.
        sequences: token ids, none of them empty.
        pooling: weights of a sequence's tokens; stage 1 takes the mean over a word's.
        prefix: tokens before each sequence, which are not pooled.

    Returns:
        [taps, N, H] fp32 on the CPU.
    """
    model = folder.model
    vectors = torch.empty(len(folder.taps), len(sequences), int(model.config.hidden_size))
    lengths = [len(sequence) + len(prefix) for sequence in sequences]
    for chosen in batches_by_length(lengths, _MAX_BATCH_TOKENS, _MAX_BATCH):
        ids, weights = _pad([sequences[index] for index in chosen], pooling, prefix)
        ids, weights = ids.to(folder.device), weights.to(folder.device)
        # Padding follows each sequence, where causal attention never looks.
        output = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False)
        taps = [*output.hidden_states[:-1], output.last_hidden_state]
        if not folder.is_tied:
            taps.append(model.get_output_embeddings().weight[ids])
        for tap, states in enumerate(taps):
            vectors[tap, chosen] = (states.float() * weights.unsqueeze(-1)).sum(dim=1).cpu()
    return vectors


def batches_by_length(lengths: Sequence[int], max_tokens: int, max_size: int | None = None) -> Iterator[list[int]]:
    """Yield the indices of sequences in batches, by rising length.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
        max_size: most sequences of a batch; `None` = no limit.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) == max_size or (len(batch) + 1) * lengths[index] > max_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pad(sequences: Sequence[Sequence[int]], pooling: Pooling, prefix: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return token ids, padded with 0, and the weight of each position, summing to 1 in a row: [B, S] each."""
    length = len(prefix) + max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    weights = torch.zeros(len(sequences), length)
    for row, sequence in enumerate(sequences):
        stop = len(prefix) + len(sequence)
        ids[row, :stop] = torch.tensor([*prefix, *sequence])
        own = torch.arange(1.0, len(sequence) + 1) if pooling == "weighted" else torch.ones(len(sequence))
        weights[row, len(prefix) : stop] = own / own.sum()
    return ids, weights
