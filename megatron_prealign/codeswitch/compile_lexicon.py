"""Compilation of a lexicon for one tokenizer: from words to the flat arrays of a switch table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.codeswitch.draws import WeightedChoice
from megatron_prealign.codeswitch.switch_table import Phrases, SwitchTable
from megatron_prealign.codeswitch.token_classes import Token, Vocabulary, classify_vocabulary, is_letters
from megatron_prealign.codeswitch.word_forms import Spellings, TargetForms, TargetWords, WordEncoder
from megatron_prealign.codeswitch.words import hash_words
from megatron_prealign.lexicon import Lexicon, uses_spaces
from megatron_prealign.text.encoders import Encoder
from megatron_prealign.text.languages import script_fits
from megatron_prealign.text.ragged import Ragged, paused_collector, same_spans
from megatron_prealign.text.spelling import WORD_MARKS, fold_case
from megatron_prealign.text.syllables import find_signs
from megatron_prealign.text.tokenizer import Tokenizer

# Longer entries are explanations.
_MAX_WORDS = 5
# Tokens of a word, in languages without spaces.
_MAX_ATOMS = 16


@dataclass(frozen=True)
class TableOptions:
    """How a lexicon is used."""

    case_transfer: bool = True
    """Also match Capitalised and CAPITALS forms of a source word, and give its translations that form."""
    max_translations: int | None = None
    """Most translations per word and language to draw from, those of the largest weights; None for all."""
    excluded_words: frozenset[str] = frozenset()
    """Source words that are never switched, as `fold_case` returns them."""
    language_weights: Mapping[str, float] = field(default_factory=dict)
    """Relative probability of a language among those with a translation of a word; 1 if not named."""

    def describe(self) -> dict[str, Any]:
        """Return the options as plain values."""
        excluded = "\n".join(sorted(self.excluded_words))
        return {
            "case_transfer": self.case_transfer,
            "max_translations": self.max_translations,
            "excluded_words": sha256(excluded.encode()).hexdigest() if excluded else None,
            "language_weights": dict(sorted(self.language_weights.items())),
        }


@paused_collector()
def compile_lexicon(
    lexicon: Lexicon, tokenizer: Tokenizer, options: TableOptions | None = None, encoder: Encoder | None = None
) -> SwitchTable:
    """Compile a lexicon for a tokenizer.

    An entry is skipped if it has other characters than letters, or more than 5 words; a translation if the tokenizer
    can't write it. `encoder` is a faster one that gives the tokenizer's ids.
    """
    options = options or TableOptions()
    encode = WordEncoder(tokenizer, encoder)
    is_spaced = uses_spaces(lexicon.source_language)
    language = lexicon.source_language
    of_letters = [i for i, entry in enumerate(lexicon.entries) if _is_source(entry.word, language, is_spaced)]
    excluded = options.excluded_words
    numbers = [i for i in of_letters if not excluded or fold_case(lexicon.entries[i].word, language) not in excluded]
    entries = [lexicon.entries[number] for number in numbers]
    pairs = [translation for entry in entries for translation in entry.translations]
    language_numbers = {language: number for number, language in enumerate(lexicon.languages)}
    texts, tags, weights_of_pairs = zip(*pairs, strict=True) if pairs else ((), (), ())
    languages = np.array([language_numbers[tag] for tag in tags], dtype=np.int32)
    owners = np.repeat(np.arange(len(entries)), [len(entry.translations) for entry in entries])
    spaced = np.array([uses_spaces(language) for language in lexicon.languages], dtype=bool)
    is_usable = _are_usable(tokenizer, encode, texts, spaced[languages])
    weights = np.array(weights_of_pairs, dtype=np.float64)
    order, groups = _rank_pairs(owners, languages, weights, is_usable, options.max_translations)
    owners, languages, weights = owners[order], languages[order], weights[order]
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    language_weights = np.array([options.language_weights.get(name, 1.0) for name in lexicon.languages])
    usable, num_languages = np.unique(owners[begins], return_counts=True)
    spellings = Spellings.of([entries[owner].word for owner in usable], language, options.case_transfer)
    inner_marks = WORD_MARKS & set("".join(spellings.texts))
    vocabulary = classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids, inner_marks)
    keys = _source_keys(encode, spellings, np.array(numbers, dtype=np.int32)[usable], vocabulary, is_spaced)
    num_entries = len(np.unique(keys["key_groups"]))
    targets = TargetWords.encode([texts[number] for number in order.tolist()], spaced[languages])
    return SwitchTable(
        vocabulary=vocabulary,
        has_signs=np.zeros(0, dtype=bool) if is_spaced else find_signs(vocabulary),
        is_spaced=is_spaced,
        languages=lexicon.languages,
        num_entries=num_entries,
        skipped={
            "source not of letters": len(lexicon) - len(of_letters),
            "source excluded": len(of_letters) - len(entries),
            "source not encodable": len(usable) - num_entries,
            "translation not encodable": len(pairs) - int(is_usable.sum()),
        },
        **keys,
        by_language=WeightedChoice.of(language_weights[languages[begins]], num_languages),
        by_translation=WeightedChoice.of(weights, np.diff(begins, append=len(order))),
        pair_languages=languages,
        targets=TargetForms(targets, languages, lexicon.languages, encode),
    )


def _are_usable(
    tokenizer: Tokenizer, encode: WordEncoder, words: Sequence[str], is_spaced: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which translations the tokenizer can write in all their forms: bool [words]."""
    if tokenizer.encodes_any_text:
        return np.ones(len(words), dtype=bool)
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    rows = np.array([numbers[word] for word in words], dtype=np.int64)
    behind_none, behind_space = (encode(list(numbers), spaced).lengths[rows] > 0 for spaced in (False, True))
    usable: NDArray[np.bool_] = behind_none & (behind_space | ~is_spaced)
    return usable


def _rank_pairs(
    owners: NDArray[np.int64],
    languages: NDArray[np.int32],
    weights: NDArray[np.float64],
    is_usable: NDArray[np.bool_],
    max_translations: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the word pairs to keep by entry, language and falling weight, and the group of each: both int64 [N]."""
    order = np.lexsort((-weights, languages, owners))
    order = order[is_usable[order]]
    groups = owners[order] * (int(languages.max(initial=0)) + 1) + languages[order]
    if max_translations is None:
        return order, groups
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    ranks = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return order[ranks < max_translations], groups[ranks < max_translations]


def _is_source(word: str, language: str, is_spaced: bool) -> bool:
    if is_spaced:
        return is_letters(word) or (word.count(" ") < _MAX_WORDS and all(map(is_letters, word.split(" "))))
    # A foreign word would be found inside longer ones.
    return is_letters(word) and script_fits(word, language)


def _source_keys(
    encode: WordEncoder,
    spellings: Spellings,
    entries: NDArray[np.int32],
    vocabulary: Vocabulary,
    is_spaced: bool,
) -> dict[str, Any]:
    """Return the key fields of a SwitchTable: of equal spellings, the one with precedence."""
    # Each spelling without a space before it, then each with one; empty if it can't be encoded.
    blocks = [encode(spellings.texts, spaced) for spaced in (False, True)]
    values = np.concatenate([block.values for block in blocks])
    forms = Ragged.of(values, np.concatenate([block.lengths for block in blocks]))
    starts, all_lengths = forms.offsets, forms.lengths
    by_form = np.flatnonzero(all_lengths)
    hashes = hash_words(values, starts[by_form], all_lengths[by_form])
    order = np.argsort(hashes, kind="stable")
    rows, hashes = by_form[order], hashes[order]
    # The first of equal forms is kept; equal hashes alone prove nothing.
    runs = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    heads = rows[np.repeat(runs, np.diff(runs, append=len(rows)))]
    is_equal = (rows != heads) & (all_lengths[rows] == all_lengths[heads])
    is_equal[is_equal] = same_spans(
        values, starts[rows[is_equal]], values, starts[heads[is_equal]], all_lengths[rows[is_equal]]
    )
    rows, hashes = rows[~is_equal], hashes[~is_equal]
    keys = Ragged.of(*forms.take(rows))
    # One or two buckets per key: most hold at most one, and more would not fit into a processor's cache.
    bits = max(2, len(rows).bit_length())
    leading = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    is_single = np.flatnonzero(keys.lengths == 1)
    single_keys = np.full(len(vocabulary), -1, dtype=np.int32)
    single_keys[keys.values[keys.offsets[is_single]]] = is_single
    is_behind_space, numbers = np.divmod(rows, max(1, len(spellings.texts)))
    groups = spellings.owners[numbers]
    return {
        "key_hashes": hashes,
        "key_tokens": keys,
        "key_entries": entries[groups],
        "key_groups": groups.astype(np.int32),
        "key_forms": (2 * spellings.cases[numbers] + is_behind_space).astype(np.int8),
        "single_keys": single_keys,
        "phrases": _phrases(keys, vocabulary, is_spaced),
        "buckets": np.concatenate(([0], np.cumsum(np.bincount(leading, minlength=1 << bits)))).astype(np.int32),
    }


def _phrases(keys: Ragged, vocabulary: Vocabulary, is_spaced: bool) -> Phrases:
    """Return the phrases: source forms of several words, or of several tokens in languages without spaces."""
    rows = np.repeat(np.arange(len(keys)), keys.lengths)
    is_first = np.zeros(len(rows), dtype=bool)
    is_first[keys.offsets[:-1]] = True
    begins = ~is_first
    if is_spaced:
        begins &= (vocabulary.flags[keys.values] & np.uint16(Token.SPACED | Token.LONE_SPACE)) != 0
    places = np.flatnonzero(begins)
    long, places_of_seconds, num_others = np.unique(rows[places], return_index=True, return_counts=True)
    seconds = keys.values[places[places_of_seconds]]
    is_findable = num_others < _MAX_ATOMS
    firsts = keys.values[keys.offsets[long]]
    return Phrases.of(1 + num_others[is_findable], firsts[is_findable], seconds[is_findable])
