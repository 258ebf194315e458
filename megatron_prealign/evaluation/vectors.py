"""Vectors of words and sentences at every tap of a Hugging Face model.

The taps are the embedding output, the outputs of layers 1 .. L-1, that of layer L after the final norm, and the
output-embedding rows of the own tokens where they are not the input embedding's.

Shape legend: N sequences, B sequences of a batch, S positions, H hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from megatron_prealign.config.taps import tap_names
from megatron_prealign.evaluation.folder import ModelFolder

Pooling = Literal["mean", "weighted"]
"""mean: all tokens count alike; weighted: token number i counts i times, as later ones have seen more of the text."""

_MAX_BATCH = 256
# Padded tokens of a batch: their hidden states of all layers are held at once, 1 GiB for 32 layers of 4096.
_MAX_BATCH_TOKENS = 2048


def model_tap_names(model: Any) -> list[str]:
    """Name the taps of a Hugging Face model."""
    return tap_names(int(model.config.num_hidden_layers), tied=_is_tied(model))


def word_vectors(folder: ModelFolder, words: Sequence[Sequence[int]]) -> Tensor:
    """Return the vectors of words at every tap, the mean over their tokens: [taps, N, H] fp32 on the CPU."""
    return sequence_vectors(folder, words)


@torch.inference_mode()
def sequence_vectors(
    folder: ModelFolder, sequences: Sequence[Sequence[int]], pooling: Pooling = "mean", prefix: Sequence[int] = ()
) -> Tensor:
    """Return the vectors of token sequences at every tap.

    Args:
        folder: model.
        sequences: token ids, none of them empty.
        pooling: how the tokens of a sequence count.
        prefix: tokens that stand before each and count nothing.

    Returns:
        [taps, N, H] fp32 on the CPU.
    """
    model = folder.model
    vectors = torch.empty(len(model_tap_names(model)), len(sequences), int(model.config.hidden_size))
    for chosen in _batches([len(sequence) + len(prefix) for sequence in sequences]):
        ids, weights = _pad([sequences[index] for index in chosen], pooling, prefix)
        ids, weights = ids.to(folder.device), weights.to(folder.device)
        # Padding stands behind each sequence, where causal attention never looks.
        output = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False)
        taps = [*output.hidden_states[:-1], output.last_hidden_state]
        if not _is_tied(model):
            taps.append(model.get_output_embeddings().weight[ids])
        for tap, states in enumerate(taps):
            vectors[tap, chosen] = (states.float() * weights.unsqueeze(-1)).sum(dim=1).cpu()
    return vectors


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of sequences in batches, by rising length."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batch and (len(batch) == _MAX_BATCH or (len(batch) + 1) * lengths[index] > _MAX_BATCH_TOKENS):
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


def _is_tied(model: Any) -> bool:
    """Tell whether the output embedding is the input embedding."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight
