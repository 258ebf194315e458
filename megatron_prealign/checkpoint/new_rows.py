"""Initial vocabulary rows for tokens that a model has never seen.

Shape legend: R rows of a vocabulary weight, H hidden_size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from megatron_prealign.config import ModelConfig
from megatron_prealign.errors import PrealignError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.text.languages import uses_spaces
from megatron_prealign.text.tokenizer import Tokenizer

Method = Literal["mean", "zero", "lexicon"]


@dataclass(frozen=True)
class Growth:
    """How a vocabulary may grow."""

    method: Method
    """Value of a new row: the mean of the old rows, zero, or the mean of the rows of a known translation's tokens (of
    all old rows if none is known)."""

    lexicon_paths: tuple[Path, ...] = ()
    """Dictionaries of the method lexicon."""

    source_language: str = "en"
    """Language of the dictionaries' source words."""

    target_language: str | None = None
    """Language of the translations, for files that do not name it."""


@dataclass(frozen=True)
class NewRows:
    """The rows of a grown vocabulary; ids below `num_old` keep their rows."""

    num_old: int
    num_tokens: int
    """Number of old and new tokens."""
    method: Method
    translations: Mapping[int, Sequence[int]]
    """New ids whose row is the mean of the rows of these old ids."""

    def fill(self, rows: Tensor) -> Tensor:
        """Return a vocabulary weight [R or more, H] with the new rows in place.

        Args:
            rows: [R, H] as trained, R at least `num_old`; rows of ids that the new tokenizer lacks are kept.
        """
        old = rows[: self.num_old]
        mean = old.mean(0, dtype=torch.float32)
        new = (torch.zeros_like(mean) if self.method == "zero" else mean).repeat(self.num_tokens - self.num_old, 1)
        for token, parts in self.translations.items():
            new[token - self.num_old] = old[torch.tensor(parts)].mean(0, dtype=torch.float32)
        return torch.cat([old, new.to(rows.dtype), rows[self.num_tokens :]])

    def describe(self) -> str:
        """Describe the new rows in one line."""
        num_new, known = self.num_tokens - self.num_old, len(self.translations)
        what = {
            "zero": "zero",
            "mean": "the mean of the old ones",
            "lexicon": f"{known:,} from a translation, {num_new - known:,} the mean of the old ones",
        }
        return f"{num_new:,} new vocabulary rows: {what[self.method]}"


def fit_tokenizer(
    new: Tokenizer, old: Tokenizer | None, model: ModelConfig, growth: Growth | None, problems: list[str]
) -> NewRows | None:
    """Check that a model can be trained further with a tokenizer, and plan the rows of its new ids.

    Args:
        new: tokenizer of further training.
        old: tokenizer of the model's training, None if unknown.
        model: its model section, vocab_size set.
        growth: how the vocabulary may grow, None if it must not.
        problems: list that problems are appended to.
    """
    vocab_size = int(model.vocab_size or 0)
    num_old = vocab_size if old is None else min(old.vocab_size, vocab_size)
    if old is not None:
        problems += _changed_ids(new, old)
    if growth is None:
        if new.vocab_size > vocab_size:
            problems.append(
                f"{new.path}: {new.vocab_size} ids, but the model has {vocab_size} embedding rows: name the tokenizer "
                "it was trained with, or add rows for new ids (--new-rows)"
            )
        return None
    if new.vocab_size <= num_old:
        problems.append(
            f"--new-rows: {new.path} has {new.vocab_size} ids and the model has {num_old}: none is new; leave it out"
        )
        return None
    translations: dict[int, list[int]] = {}
    try:
        if growth.method == "lexicon":
            translations = _translations(growth, new, old or new, num_old)
    except PrealignError as error:
        problems += error.problems
    return NewRows(num_old, new.vocab_size, growth.method, translations)


def _changed_ids(new: Tokenizer, old: Tokenizer) -> Iterator[str]:
    """Yield a problem if ids of the old tokenizer have another meaning in the new one."""
    pairs = zip(old.token_bytes, new.token_bytes, strict=False)
    differing = [index for index, (there, here) in enumerate(pairs) if there != here]
    if differing:
        first = differing[0]
        yield (
            f"{new.path}: {len(differing)} ids stand for other text than in {old.path}, the first {first}: "
            f"{new.token_bytes[first]!r} instead of {old.token_bytes[first]!r}; use a tokenizer that keeps the old ids"
        )


def _translations(growth: Growth, new: Tokenizer, old: Tokenizer, num_old: int) -> dict[int, list[int]]:
    """Return the old ids of the likeliest known translation of each new token that is a word."""
    candidates = _candidates(read_lexicon(growth.lexicon_paths, growth.source_language, growth.target_language))
    found = {}
    for token in range(num_old, new.vocab_size):
        for word, is_spaced in candidates.get(_word(new.token_bytes[token]), ()):
            ids = old.encode_word(word, is_spaced)
            if ids and max(ids) < num_old and not old.special_ids.intersection(ids):
                found[token] = ids
                break
    return found


def _word(token: bytes) -> str:
    """Return the word that a token spells, without its leading space; empty for a partial character."""
    try:
        return token.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""


def _candidates(lexicon: Lexicon) -> dict[str, list[tuple[str, bool]]]:
    """Return each word's translations in either direction, likeliest first, and whether they take a leading space."""
    weighted: dict[str, list[tuple[float, str, bool]]] = {}
    for word, translation in lexicon.pairs():
        source = (translation.weight, word, uses_spaces(lexicon.source_language))
        target = (translation.weight, translation.word, uses_spaces(translation.language))
        weighted.setdefault(translation.word, []).append(source)
        weighted.setdefault(word, []).append(target)
    return {
        word: [(other, is_spaced) for _, other, is_spaced in sorted(found, key=lambda one: -one[0])]
        for word, found in weighted.items()
    }
