"""The lexicon: words of one source language and their translations into others."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from megatron_prealign.errors import ConfigError
from megatron_prealign.files import atomic_text_file

TSV_COLUMNS = ("source", "translation", "language", "weight")


class Translation(NamedTuple):
    """One translation of a source word."""

    word: str
    """The translation, as written in running text."""

    language: str
    """Language of the translation, for example `de`."""

    weight: float = 1.0
    """Relative probability among the translations of its word; positive, any unit."""


class LexiconEntry(NamedTuple):
    """A source word with all its translations."""

    word: str
    translations: tuple[Translation, ...]


@dataclass(frozen=True)
class Lexicon:
    """A table of unique source words in file order; switch records refer to entries by position."""

    source_language: str
    entries: tuple[LexiconEntry, ...]

    def __post_init__(self) -> None:
        """Check the invariants that other modules rely on."""
        if len({entry.word for entry in self.entries}) != len(self.entries):
            raise ValueError("source words of a lexicon are unique; build it with Lexicon.from_pairs")
        if not all(entry.translations for entry in self.entries):
            raise ValueError("an entry of a lexicon has at least one translation")

    @classmethod
    def from_pairs(cls, source_language: str, pairs: Iterable[tuple[str, Translation]]) -> "Lexicon":
        """Group word pairs by source word, in order of first appearance.

        A repeated pair (same source, translation and language) is kept once with its largest weight: a repeated line
        of a dictionary does not mean that the translation is twice as frequent.
        """
        grouped: defaultdict[str, list[Translation]] = defaultdict(list)
        for word, translation in pairs:
            grouped[word].append(translation)
        entries = (LexiconEntry(word, _without_repeats(translations)) for word, translations in grouped.items())
        return cls(source_language, tuple(entries))

    def __len__(self) -> int:
        return len(self.entries)

    def pairs(self) -> Iterator[tuple[str, Translation]]:
        """Yield every word pair in order."""
        for entry in self.entries:
            for translation in entry.translations:
                yield entry.word, translation

    @property
    def num_pairs(self) -> int:
        """Number of word pairs."""
        return sum(len(entry.translations) for entry in self.entries)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Target languages, sorted."""
        return tuple(sorted({language for entry in self.entries for _, language, _ in entry.translations}))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of source language, words, translations, languages, weights and their order."""
        return hashlib.sha256("".join((f"{self.source_language}\n", *self._tsv_lines())).encode()).hexdigest()

    def split(self, held_out_ratio: float, seed: int) -> tuple["Lexicon", "Lexicon"]:
        """Split source words into (train, held-out).

        Each word is drawn by a hash of (seed, its case-folded form): the result depends neither on order nor on
        other words, and `House` is held out together with `house`.

        Args:
            held_out_ratio: expected share of source words held out, in [0, 1].
            seed: another seed gives another split.
        """
        if not 0.0 <= held_out_ratio <= 1.0:
            raise ConfigError(f"held_out_ratio is {held_out_ratio}; give a number in [0, 1]")
        train: list[LexiconEntry] = []
        held_out: list[LexiconEntry] = []
        for entry in self.entries:
            drawn = _uniform(f"{seed}\t{entry.word.casefold()}") < held_out_ratio
            (held_out if drawn else train).append(entry)
        return Lexicon(self.source_language, tuple(train)), Lexicon(self.source_language, tuple(held_out))

    def write_tsv(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the canonical TSV with its header row, atomically.

        Raises:
            DataError: the file exists and overwrite is off, or its folder does not exist.
        """
        with atomic_text_file(path, overwrite=overwrite) as stream:
            stream.write("\t".join(TSV_COLUMNS) + "\n")
            stream.writelines(self._tsv_lines())

    def _tsv_lines(self) -> Iterator[str]:
        """Yield the rows of the canonical TSV; `repr` of a float reads back to the same float."""
        for word, translations in self.entries:
            for translation, language, weight in translations:
                yield f"{word}\t{translation}\t{language}\t{float(weight)!r}\n"


def _without_repeats(translations: list[Translation]) -> tuple[Translation, ...]:
    """Return each word of a language once, at its first place, with the largest weight."""
    if len({translation[:2] for translation in translations}) == len(translations):
        return tuple(translations)
    known: dict[tuple[str, str], Translation] = {}
    for translation in translations:
        key = translation[:2]
        if key not in known or known[key].weight < translation.weight:
            known[key] = translation
    return tuple(known.values())


def _uniform(key: str) -> float:
    """Return a number in [0, 1) that is a function of the key alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
