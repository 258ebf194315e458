"""A lexicon compiled for one tokenizer: flat arrays that map token ids of source words to ids of translations.

Each source word is entered as it appears after a space and without one; as written, capitalised, and in capitals. A
word matches only if its token ids are exactly those of an entered form, and its translations take the same form.
The arrays are cheap to share, so all workers use one compilation.
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch import compiled
from megatron_prealign.codeswitch.draws import WeightedChoice
from megatron_prealign.codeswitch.token_classes import Vocabulary
from megatron_prealign.codeswitch.word_forms import TargetForms, TargetWords, WordEncoder
from megatron_prealign.codeswitch.words import hash_words
from megatron_prealign.text.ragged import Ragged, same_spans

if TYPE_CHECKING:
    from megatron_prealign.codeswitch.scan import Scanner

_MULTIPLIERS = (np.uint32(0x9E3779B1), np.uint32(0x85EBCA77))
_PLACES_PER_PAIR = 16


@dataclass(frozen=True)
class Phrases:
    """Source forms of several atoms: a Bloom filter on the first tokens of two atoms excludes where none can begin."""

    sizes: NDArray[np.int64]
    """Numbers of atoms that occur, from 2, rising."""
    places: NDArray[np.bool_]
    """Whether the tokens of some phrase hash to this place: [a power of two]."""

    @classmethod
    def of(cls, sizes: NDArray[np.int64], firsts: NDArray[Any], seconds: NDArray[Any]) -> Self:
        """Build the filter.

        Args:
            sizes: int64 [P], atoms of each phrase, at least 2.
            firsts: int [P], first token of the first atom.
            seconds: int [P], first token of the second atom.
        """
        places = np.zeros(1 << (_PLACES_PER_PAIR * len(sizes)).bit_length(), dtype=bool)
        phrases = cls(np.unique(sizes).astype(np.int64), places)
        places[phrases._places_of(firsts, seconds)] = True
        return phrases

    def may_begin(self, firsts: NDArray[Any], seconds: NDArray[Any]) -> NDArray[np.bool_]:
        """Return whether a phrase may begin, by the first tokens of two atoms: bool [N]; False is certain."""
        found: NDArray[np.bool_] = self.places[self._places_of(firsts, seconds)]
        return found

    def _places_of(self, firsts: NDArray[Any], seconds: NDArray[Any]) -> NDArray[np.uint32]:
        mixed = firsts.astype(np.uint32) * _MULTIPLIERS[0] ^ seconds.astype(np.uint32) * _MULTIPLIERS[1]
        # The high bits are the well-mixed ones of a product.
        return mixed >> np.uint32(33 - len(self.places).bit_length())


@dataclass(frozen=True)
class SwitchTable:
    """Everything that the code-switch needs to know of a tokenizer and a lexicon."""

    vocabulary: Vocabulary
    """Classes of the tokens."""
    has_signs: NDArray[np.bool_]
    """Whether a token may be part of a written syllable: [V] in languages without spaces, else empty."""
    is_spaced: bool
    """Whether the source language puts spaces between words."""
    languages: tuple[str, ...]
    """Target languages, sorted."""
    num_entries: int
    """Entries of the lexicon that can match."""
    skipped: dict[str, int]
    """Why other entries and pairs can't be used, and their numbers."""
    key_hashes: NDArray[np.uint64]
    """Hash of the token ids of each source form: [keys], sorted."""
    key_tokens: Ragged
    """The token ids themselves, in the same order."""
    key_entries: NDArray[np.int32]
    """Lexicon entry of each source form: its position in the file."""
    key_groups: NDArray[np.int32]
    """The same among the usable entries: the group of `by_language`."""
    key_forms: NDArray[np.int8]
    """Which of the forms it is."""
    single_keys: NDArray[np.int32]
    """Source form that is this single token, or -1: [V]. Most words of a text are one token."""
    phrases: Phrases
    """Source forms of several words, or of several tokens in languages without spaces."""
    buckets: NDArray[np.int32]
    """Where the keys with each value of the leading bits of the hash begin: [2**bits + 1]."""
    by_language: WeightedChoice
    """Entry to one of its languages."""
    by_translation: WeightedChoice
    """Language of an entry to one of its translations in it."""
    pair_languages: NDArray[np.int32]
    """Language of each translation."""
    targets: TargetForms
    """Token ids of each form of each translation."""

    def save(self, folder: Path) -> None:
        """Write a new folder with one file per array, which `load` can map."""
        folder.mkdir()
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            value = value.words if isinstance(value, TargetForms) else value
            is_group = isinstance(value, Ragged | WeightedChoice | Phrases)
            parts = {part.name: getattr(value, part.name) for part in fields(value)} if is_group else {"": value}
            for part, array in parts.items():
                if isinstance(array, np.ndarray):
                    np.save(folder / f"{item.name}.{part}.npy", array, allow_pickle=False)
                else:
                    plain[item.name] = array
        (folder / "plain.json").write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encode: WordEncoder) -> Self:
        """Map the arrays of a folder that `save` wrote; `encode` gives the ids of words under the same tokenizer."""
        values: dict[str, Any] = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
        values["languages"] = tuple(values["languages"])
        parts: dict[str, dict[str, Any]] = {}
        for path in folder.glob("*.npy"):
            name, part = path.stem.split(".")
            parts.setdefault(name, {})[part] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        kinds: dict[str, type[Any]] = {
            "by_language": WeightedChoice,
            "by_translation": WeightedChoice,
            "key_tokens": Ragged,
            "phrases": Phrases,
            "targets": TargetWords,
            "vocabulary": Vocabulary,
        }
        for name, arrays in parts.items():
            values[name] = kinds[name](**arrays) if name in kinds else arrays[""]
        targets = TargetForms(values["targets"], values["pair_languages"], values["languages"], encode)
        return cls(**values | {"targets": targets})

    @cached_property
    def longest_key(self) -> int:
        """Tokens of the longest source form."""
        return int(self.key_tokens.lengths.max(initial=0))

    @cached_property
    def key_ends(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which tokens begin and which end a source form of several tokens: bool [V] each."""
        is_long = self.key_tokens.lengths > 1
        begins, ends = (np.zeros(len(self.vocabulary), dtype=bool) for _ in range(2))
        begins[self.key_tokens.values[self.key_tokens.offsets[:-1][is_long]]] = True
        ends[self.key_tokens.values[self.key_tokens.offsets[1:][is_long] - 1]] = True
        return begins, ends

    @cached_property
    def scanner(self) -> "Scanner | None":
        """The compiled search of a language with spaces; None for others, and where it is not compiled."""
        return compiled.Scanner(self) if self.is_spaced and compiled is not None else None

    def find(self, tokens: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look words up.

        Args:
            tokens: int [T].
            starts: int64 [N], first token of each word.
            lengths: int64 [N], tokens of each word.

        Returns:
            int64 [N], the key with the token ids of the word; -1 if there is none.
        """
        found = np.where(lengths == 1, self.single_keys[tokens[starts]], -1).astype(np.int64)
        if not len(self.key_hashes):
            return found
        pending = np.flatnonzero((lengths > 1) & (lengths <= self.longest_key))
        # Looking up the first and last token of a word avoids most hashes.
        begins, ends = self.key_ends
        pending = pending[begins[tokens[starts[pending]]]]
        pending = pending[ends[tokens[starts[pending] + lengths[pending] - 1]]]
        hashes = hash_words(tokens, starts[pending], lengths[pending])
        shift = np.uint64(64 - (len(self.buckets) - 1).bit_length() + 1)
        bucket = (hashes >> shift).astype(np.int64)
        candidates, stops = self.buckets[bucket], self.buckets[bucket + 1]
        active = np.arange(len(pending))
        while len(active := active[candidates[active] < stops[active]]):
            keys, words = candidates[active], pending[active]
            same: NDArray[np.bool_] = self.key_hashes[keys] == hashes[active]
            # Equal hashes prove nothing: a hit counts only if every id is the same.
            same &= self.key_tokens.lengths_of(keys) == lengths[words]
            key_starts, hits = self.key_tokens.offsets[keys[same]], words[same]
            same[same] = same_spans(self.key_tokens.values, key_starts, tokens, starts[hits], lengths[hits])
            found[words[same]] = keys[same]
            active = active[~same]
            candidates[active] += 1
        return found
