"""Log-probabilities of the ways in which a prompt may go on."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_prealign.evaluation.folder import ModelFolder
from megatron_prealign.evaluation.perplexity import Progress, Window, score_windows
from megatron_prealign.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class CompletionScores:
    """What the completions of one prompt score."""

    log_probs: tuple[float, ...]
    """Summed log-probability of each completion's tokens, in nats."""
    num_tokens: tuple[int, ...]

    def best(self, normalised: bool) -> int:
        """Return the index of the best completion: by log-probability, or by that of a token; of equals the first."""
        scores = [
            total / (max(size, 1) if normalised else 1)
            for total, size in zip(self.log_probs, self.num_tokens, strict=True)
        ]
        return scores.index(max(scores))


def completion_windows(tokenizer: Tokenizer, prompt: str, completions: Sequence[str]) -> list[Window]:
    """Return what is to be scored of each completion, behind an end-of-document token where there is one.

    Prompt and completion are encoded together, as text is in training. What all of them and the prompt begin with is
    given, the rest is scored: where a tokenizer joins the prompt's end to a completion, that too.
    """
    start = [] if tokenizer.eod_id is None else [tokenizer.eod_id]
    prompt_ids, *whole = tokenizer.encode_batch([prompt, *(prompt + completion for completion in completions)])
    # Without any given token the first one could not be predicted.
    num_given = max(len(start) + _num_shared([prompt_ids, *whole]), 1)
    return [Window([*start, *ids], len(start) + len(ids) - num_given) for ids in whole]


def _num_shared(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many elements all sequences begin with."""
    differing = (index for index, column in enumerate(zip(*sequences, strict=False)) if len(set(column)) > 1)
    return next(differing, min(map(len, sequences)))


def score_completions(
    folder: ModelFolder,
    prompts: Sequence[tuple[str, Sequence[str]]],
    progress: Progress = lambda done, total: None,
) -> list[CompletionScores]:
    """Score the completions of each prompt.

    Args:
        folder: model and tokenizer.
        prompts: (prompt, completions).
        progress: told the completions done.
    """
    windows = [completion_windows(folder.tokenizer, prompt, completions) for prompt, completions in prompts]
    losses = iter(score_windows(folder, [one for group in windows for one in group], progress))
    return [
        CompletionScores(tuple(-float(next(losses).sum()) for _ in group), tuple(one.num_scored for one in group))
        for group in windows
    ]
