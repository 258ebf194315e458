"""Log-probabilities of tokens: of documents, each read on its own, and of the completions of a prompt.

A document is its token ids after those that training puts before them (`text.frame`): a begin-of-document token, or the
end-of-document token of another document; if the tokenizer has neither, the first token is not predicted. Documents
longer than the model's window are read in overlapping windows: each token is predicted once, and all but those of the
first window with at least window - stride tokens before them. The end-of-document token behind it is not counted.

Shape legend: B windows of a batch, S positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from megatron_prealign.errors import DataError
from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.vectors import batches_by_length

_IGNORE = -100
# Logits at once: 2^26 numbers are 256 MiB in fp32.
_MAX_LOGITS = 2**26


@dataclass(frozen=True)
class Window:
    """A part of a document: all tokens but the last are input, the last `num_scored` are predicted and counted."""

    tokens: Sequence[int]
    num_scored: int


def document_windows(tokens: Sequence[int], window: int, stride: int) -> Iterator[Window]:
    """Cut a document so that each token but the first is scored exactly once.

    Args:
        tokens: the whole document, with what precedes its first predicted token.
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
    """A document and the loss of each of its tokens."""

    tokens: list[int]
    losses: Tensor
    """float64, in nats, of all tokens, but not of a first one without a token before it."""

    def num_given_bytes(self, text: str, token_bytes: Sequence[bytes]) -> int:
        """Return the bytes of the document's text whose token was given, not predicted."""
        given = b"".join(token_bytes[token] for token in self.tokens[: len(self.tokens) - len(self.losses)])
        # A SentencePiece model puts a space before a text.
        return len(given) - (given.startswith(b" ") and not text.startswith(" "))


def score_documents(
    folder: ModelFolder,
    texts: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ScoredDocument]:
    """Return the loss of every token of documents.

    Args:
        folder: model and tokenizer.
        texts: documents.
        window: input tokens at once; `None` = the sequence length of training.
        stride: tokens between windows of a long document; `None` = half the window.
        progress: called with the windows done and their number.

    Raises:
        DataError: there is nothing to predict.
    """
    window = window or folder.window
    stride = stride or max(window // 2, 1)
    encoded = folder.tokenizer.encode_batch(texts)
    cut = [list(document_windows([*folder.document_start, *ids], window, stride)) for ids in encoded]
    windows = [one for parts in cut for one in parts]
    if not windows:
        raise DataError("no document has a token to predict; give a file with text")
    scored = iter(score_windows(folder, windows, progress))
    nothing = torch.empty(0, dtype=torch.float64)
    return [
        ScoredDocument(ids, torch.cat([nothing, *(next(scored) for _ in parts)]))
        for ids, parts in zip(encoded, cut, strict=True)
    ]


@torch.inference_mode()
def score_windows(folder: ModelFolder, windows: Sequence[Window], progress: Callable[[int, int], None]) -> list[Tensor]:
    """Return the losses of the scored tokens of each window, float64, in nats."""
    max_tokens = max(_MAX_LOGITS // folder.vocab_size, 1)
    results: list[Tensor] = [torch.empty(0)] * len(windows)
    done = 0
    for batch in batches_by_length([len(one.tokens) for one in windows], max_tokens):
        chosen = [windows[index] for index in batch]
        # Padding follows each window, where causal attention never looks.
        losses = token_losses(folder, *pad_windows(chosen))
        for index, row in zip(batch, torch.split(losses, [one.num_scored for one in chosen]), strict=True):
            results[index] = row
        done += len(batch)
        progress(done, len(windows))
    return results


@torch.inference_mode()
def token_losses(folder: ModelFolder, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the losses of all positions with a target, row by row, float64 [N] on the CPU, in nats.

    The logits of a long document are larger than the model, so those of a part of it exist at a time.

    Args:
        folder: model.
        inputs: token ids, int64 [B, S].
        targets: token to predict at each position, int64 [B, S]; -100 where there is none.
    """
    inputs, targets = inputs.to(folder.device), targets.to(folder.device)
    is_scored = targets != _IGNORE
    size = max(_MAX_LOGITS // folder.vocab_size, 1)
    states, head = folder.states_and_head(inputs)
    parts = zip(torch.split(states[is_scored], size), torch.split(targets[is_scored], size), strict=True)
    losses = [cross_entropy(head(part).float(), expected, reduction="none").double() for part, expected in parts]
    return torch.cat([torch.empty(0, dtype=torch.float64), *(part.cpu() for part in losses)])


def pad_windows(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """Return inputs [B, S], padded with 0, and targets [B, S], -100 at positions that are not scored; both int64."""
    length = max(len(one.tokens) for one in windows) - 1
    inputs = torch.zeros(len(windows), length, dtype=torch.int64)
    targets = torch.full((len(windows), length), _IGNORE, dtype=torch.int64)
    for row, one in enumerate(windows):
        tokens = torch.tensor(one.tokens)
        size = len(tokens) - 1
        inputs[row, :size] = tokens[:-1]
        targets[row, size - one.num_scored : size] = tokens[len(tokens) - one.num_scored :]
    return inputs, targets


@dataclass(frozen=True)
class CompletionScores:
    """Scores of the completions of one prompt."""

    log_probs: tuple[float, ...]
    """Summed log-probability of each completion's tokens, in nats."""
    num_tokens: tuple[int, ...]

    def best(self, normalised: bool) -> int:
        """Return the index of the best completion, by sum or by mean log-probability; the first of equal ones."""
        scores = [
            total / (max(size, 1) if normalised else 1)
            for total, size in zip(self.log_probs, self.num_tokens, strict=True)
        ]
        return scores.index(max(scores))


def completion_windows(folder: ModelFolder, prompt: str, completions: Sequence[str]) -> list[Window]:
    """Return each completion after its prompt, encoded together as text is in training.

    The tokens that the prompt and all completed texts share at the beginning are given, the others are scored: also the
    end of the prompt where the tokenizer joins it to a completion.
    """
    start = folder.document_start
    prompt_ids, *whole = folder.tokenizer.encode_batch([prompt, *(prompt + completion for completion in completions)])
    # Without a given token the first one could not be predicted.
    num_given = max(len(start) + _num_shared([prompt_ids, *whole]), 1)
    return [Window([*start, *ids], len(start) + len(ids) - num_given) for ids in whole]


def _num_shared(sequences: Sequence[Sequence[int]]) -> int:
    """Return the number of elements that all sequences share at the beginning."""
    differing = (index for index, column in enumerate(zip(*sequences, strict=False)) if len(set(column)) > 1)
    return next(differing, min(map(len, sequences)))


def score_completions(
    folder: ModelFolder,
    prompts: Sequence[tuple[str, Sequence[str]]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CompletionScores]:
    """Score the completions of each (prompt, completions); `progress` is called with the completions done."""
    windows = [completion_windows(folder, prompt, completions) for prompt, completions in prompts]
    losses = iter(score_windows(folder, [one for group in windows for one in group], progress))
    return [
        CompletionScores(tuple(-float(next(losses).sum()) for _ in group), tuple(one.num_scored for one in group))
        for group in windows
    ]
