"""Loss of words, and over groups of them: those a lexicon has or not, and by how frequent they are.

A word is found on token ids, as code-switching finds it; in languages written without spaces each token of letters is
one. Its loss is the sum over its tokens, so that words count alike however many tokens they are cut into.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.token_classes import classify_vocabulary
from megatron_prealign.codeswitch.words import find_letter_tokens, find_words, token_flags
from megatron_prealign.evaluation.perplexity import ScoredDocument, finite_exp
from megatron_prealign.lexicon import uses_spaces
from megatron_prealign.text.tokenizer import Tokenizer


class WordFinder:
    """Finds the words of a language in token ids."""

    def __init__(self, tokenizer: Tokenizer, language: str) -> None:
        """Classify the vocabulary."""
        self._tokenizer = tokenizer
        self._vocabulary = classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids)
        self._find = find_words if uses_spaces(language) else find_letter_tokens

    def __call__(self, tokens: Sequence[int]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Return the words of one document, case-folded, and where the tokens of each begin and end: [W], [W]."""
        ids = np.array(tokens, dtype=np.int64)
        offsets = np.array([0, len(ids)], dtype=np.int64)
        found = self._find(token_flags(self._vocabulary, ids, offsets), offsets)
        words = [self._text(tokens[start:stop]) for start, stop in zip(found.starts, found.stops, strict=True)]
        return words, found.starts, found.stops

    def _text(self, tokens: Sequence[int]) -> str:
        data = b"".join(self._tokenizer.token_bytes[token] for token in tokens)
        return data.decode("utf-8", errors="replace").strip(" ").casefold()


@dataclass(frozen=True)
class WordLosses:
    """The words of documents that were predicted whole."""

    words: list[str]
    """Case-folded, in order."""
    losses: NDArray[np.float64]
    """Summed over the tokens of each word, in nats: [words]."""
    num_tokens: NDArray[np.int64]
    """Tokens of each word: [words]."""


def word_losses(documents: Iterable[ScoredDocument], finder: WordFinder) -> WordLosses:
    """Return the losses of all words of scored documents."""
    words: list[str] = []
    losses: list[NDArray[np.float64]] = [np.empty(0)]
    num_tokens: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    for document in documents:
        found, starts, stops = finder(document.tokens)
        unscored = len(document.tokens) - len(document.losses)
        is_whole = starts >= unscored
        sums = np.concatenate(([0.0] * (unscored + 1), np.cumsum(document.losses.numpy())))
        words += [word for word, whole in zip(found, is_whole, strict=True) if whole]
        losses.append((sums[stops] - sums[starts])[is_whole])
        num_tokens.append((stops - starts)[is_whole])
    return WordLosses(words, np.concatenate(losses), np.concatenate(num_tokens))


def group_losses(found: WordLosses, group_of: Callable[[str], str], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return for each group of words its words, tokens, mean loss of a word (nats) and e to it; none without words."""
    numbers = {group: number for number, group in enumerate(groups)}
    members = np.array([numbers[group_of(word)] for word in found.words], dtype=np.int64)
    results = {}
    for number, group in enumerate(groups):
        chosen = members == number
        count = int(chosen.sum())
        loss = float(found.losses[chosen].mean()) if count else math.nan
        results[group] = {
            "words": count,
            "tokens": int(found.num_tokens[chosen].sum()),
            "word_loss": loss if math.isfinite(loss) else None,
            "word_perplexity": finite_exp(loss),
        }
    return results


def count_words(documents: Iterable[Sequence[int]], finder: WordFinder) -> Counter[str]:
    """Count the words of documents given as token ids."""
    counts: Counter[str] = Counter()
    for tokens in documents:
        counts.update(finder(tokens)[0])
    return counts
