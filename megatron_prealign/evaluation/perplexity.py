"""Perplexity of a language, per token and per byte, on documents that each stand alone.

A document is its token ids behind an end-of-document token, as training sees the start of a document; where the
tokenizer has none, its first token is not predicted. Documents longer than the model's window are read in overlapping
windows: each token is predicted once, and all but those of the first window with at least window - stride tokens
before them. The end-of-document token behind a document is not counted.

Shape legend: B windows of a batch, S positions, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""

_IGNORE = -100
# Logits of a batch: 2^26 numbers are 256 MiB in fp32.
_MAX_BATCH_LOGITS = 2**26


@dataclass(frozen=True)
class Perplexity:
    """How well documents of one language were predicted."""

    total_loss: float
    """Sum over predicted tokens of -log p, in nats."""
    num_tokens: int
    """Predicted tokens."""
    num_bytes: int
    """Bytes of the documents' text in UTF-8."""
    num_documents: int

    @property
    def loss(self) -> float:
        """Return the mean loss of a predicted token, in nats."""
        return self.total_loss / self.num_tokens

    def to_json(self) -> dict[str, float | int | None]:
        """Return the numbers of a results file; infinite ones, which JSON can't hold, as none."""
        bits = self.total_loss / self.num_bytes / math.log(2)
        return {
            "perplexity": finite_exp(self.loss),
            "loss": self.loss if math.isfinite(self.loss) else None,
            "tokens": self.num_tokens,
            "byte_perplexity": finite_exp(self.total_loss / self.num_bytes),
            "bits_per_byte": bits if math.isfinite(bits) else None,
            "bytes": self.num_bytes,
            "documents": self.num_documents,
        }


@dataclass(frozen=True)
class Window:
    """A stretch of a document: all tokens but the last are input, the last `num_scored` are predicted and counted."""

    tokens: Sequence[int]
    num_scored: int


def document_windows(tokens: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Cut a document so that each token but the first is scored exactly once.

    Args:
        tokens: of the whole document, with what precedes its first predicted token.
        window: input tokens the model takes at once.
        stride: tokens scored by each window after the first, at most `window`.
    """
    scored = 1
    for start in range(0, len(tokens), stride):
        end = min(start + window + 1, len(tokens))
        if end > scored:
            yield Window(tokens[start:end], end - scored)
        scored = end
        if end == len(tokens):
            return


@dataclass(frozen=True)
class ScoredDocument:
    """A document and how each of its tokens was predicted."""

    tokens: list[int]
    losses: Tensor
    """float64, in nats, of all tokens but a first one that nothing stands before."""


def measure_perplexity(
    folder: ModelFolder,
    texts: Iterable[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Perplexity:
    """Measure the perplexity of a folder's model on documents; empty ones are left out.

    Args:
        folder: model and tokenizer.
        texts: documents of one language.
        window: input tokens at once; none = what the model was trained on.
        stride: tokens between windows of a long document; none = half the window.
        progress: told the windows done.

    Raises:
        DataError: nothing to predict.
    """
    kept = [text for text in texts if text.strip()]
    documents = score_documents(folder, kept, window=window, stride=stride, progress=progress)
    return sum_up(documents, kept)


def score_documents(
    folder: ModelFolder,
    texts: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Progress = lambda done, total: None,
) -> list[ScoredDocument]:
    """Return the loss of every token of documents; the arguments are those of `measure_perplexity`.

    Raises:
        DataError: nothing to predict.
    """
    window = window or folder.window
    stride = stride or max(window // 2, 1)
    prefix = [] if folder.tokenizer.eod_id is None else [folder.tokenizer.eod_id]
    encoded = folder.tokenizer.encode_batch(texts)
    windows: list[Window] = []
    counts = []
    for ids in encoded:
        before = len(windows)
        windows.extend(document_windows([*prefix, *ids], window, stride))
        counts.append(len(windows) - before)
    if not windows:
        raise DataError("no document has a token to predict; give a file with text")
    scored = iter(score_windows(folder, windows, progress))
    nothing = torch.empty(0, dtype=torch.float64)
    return [
        ScoredDocument(ids, torch.cat([nothing, *(next(scored) for _ in range(count))]))
        for ids, count in zip(encoded, counts, strict=True)
    ]


def sum_up(documents: Sequence[ScoredDocument], texts: Sequence[str]) -> Perplexity:
    """Return the perplexity over scored documents and their texts."""
    return Perplexity(
        total_loss=sum(float(document.losses.sum()) for document in documents),
        num_tokens=sum(len(document.losses) for document in documents),
        num_bytes=sum(len(text.encode()) for text in texts),
        num_documents=len(texts),
    )


@torch.inference_mode()
def score_windows(folder: ModelFolder, windows: Sequence[Window], progress: Progress) -> list[Tensor]:
    """Return the losses of what each window scores, float64, in nats; batches hold windows of similar length."""
    by_length = sorted(range(len(windows)), key=lambda index: len(windows[index].tokens))
    max_tokens = max(_MAX_BATCH_LOGITS // int(folder.model.config.vocab_size), 1)
    results: list[Tensor] = [torch.empty(0)] * len(windows)
    done = 0
    for batch in _batches([(index, len(windows[index].tokens)) for index in by_length], max_tokens):
        inputs, targets = pad_windows([windows[index] for index in batch])
        logits = _logits(folder.model, inputs.to(folder.device))
        losses = cross_entropy(
            logits.flatten(0, 1).float(), targets.to(folder.device).flatten(), ignore_index=_IGNORE, reduction="none"
        )
        rows = losses.double().cpu().view(targets.shape)
        for index, row, row_targets in zip(batch, rows, targets, strict=True):
            results[index] = row[row_targets != _IGNORE]
        done += len(batch)
        progress(done, len(windows))
    return results


def _logits(model: Any, inputs: Tensor) -> Tensor:
    """Return logits [B, S, V]; padding stands behind each window, where causal attention never looks."""
    logits: Tensor = model(input_ids=inputs, use_cache=False).logits
    return logits


def pad_windows(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """Return inputs [B, S], padded with 0, and targets [B, S], `-100` where nothing is scored; both int64."""
    length = max(len(one.tokens) for one in windows) - 1
    inputs = torch.zeros(len(windows), length, dtype=torch.int64)
    targets = torch.full((len(windows), length), _IGNORE, dtype=torch.int64)
    for row, one in enumerate(windows):
        tokens = torch.tensor(one.tokens)
        size = len(tokens) - 1
        inputs[row, :size] = tokens[:-1]
        targets[row, size - one.num_scored : size] = tokens[len(tokens) - one.num_scored :]
    return inputs, targets


def _batches(lengths: Sequence[tuple[int, int]], max_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of windows in batches of at most `max_tokens` padded tokens (at least one window).

    Args:
        lengths: number and length of each window, by rising length.
        max_tokens: of a batch.
    """
    batch: list[int] = []
    for index, length in lengths:
        if batch and (len(batch) + 1) * length > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def finite_exp(value: float) -> float | None:
    """Return e^value, none where it is too large for a float or not a number."""
    try:
        result = math.exp(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None
