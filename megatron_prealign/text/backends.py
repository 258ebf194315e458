"""Which library encodes: the tokenizer's own, or the faster gigatoken where it is proved to give the same ids."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megatron_prealign.text.encoders import ChunkedEncoder, Encoder, ReferenceEncoder
from megatron_prealign.text.probe import probe_texts
from megatron_prealign.text.ragged import Ragged
from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.text.tokenizer_json import is_plain_split, steps

Backend = Literal["reference", "gigatoken"]
"""The tokenizer's own library, or gigatoken."""

# gigatoken 0.10 remembers every distinct word, at several times its size; it is loaded again after so much text.
_CHARACTERS_OF_A_CACHE = 128 << 20
# With threads it cuts longer texts into fragments.
_MAX_CHARACTERS_IN_PARALLEL = 1 << 20
# Planes that have characters.
_ASSIGNABLE = (range(0x300, 0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE0200))


def make_encoder(tokenizer: Tokenizer, backend: Backend, is_parallel: bool) -> Encoder:
    """Return the encoder of a backend."""
    if backend == "gigatoken":
        return GigatokenEncoder(tokenizer, is_parallel)
    return ChunkedEncoder(tokenizer) if tokenizer.splits_at_spaces else ReferenceEncoder(tokenizer)


def why_not_gigatoken(tokenizer: Tokenizer) -> str | None:
    """Return why gigatoken can't replace a tokenizer's own library, or None if it can.

    It must apply every part of the tokenizer, and give equal ids on a fixed probe; no text of the user decides.
    """
    try:
        encoder = GigatokenEncoder(tokenizer, is_parallel=False)
    except ImportError:
        return "it is not installed"
    except Exception as error:  # the library's own, for unsupported kinds of tokenizers
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"it does not support this tokenizer ({reason})"
    if unlike := unlike_parts(encoder.definition):
        return f"it does not apply this tokenizer's {', '.join(unlike)} as the tokenizer's own library does"
    plain = sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids)
    texts = list(probe_texts(tokenizer, plain))
    ids, lengths = encoder.encode(texts)
    expected, expected_lengths = ReferenceEncoder(tokenizer).encode(texts)
    if not np.array_equal(lengths, expected_lengths) or not np.array_equal(ids, expected):
        return "its ids differ from the tokenizer's own library on a fixed probe"
    return None


class GigatokenEncoder(Encoder):
    """gigatoken; texts with what it would take for something else go to the tokenizer's own library.

    Those are texts that spell out an added token (the reference keeps special tokens as text), or have characters that
    the two libraries know from different versions of Unicode.
    """

    definition: dict[str, Any]
    """The tokenizer.json without vocabulary and merges."""

    def __init__(self, tokenizer: Tokenizer, is_parallel: bool) -> None:
        """Load the tokenizer's file again.

        Raises:
            ImportError: If gigatoken is not installed.
            DataError: If there is no tokenizer.json for a SentencePiece model.
            Exception: Whatever gigatoken raises for an unsupported tokenizer.
        """
        import gigatoken  # deferred: it is optional

        self._load = gigatoken.Tokenizer.from_json
        # Newer versions bound their memory themselves.
        self._is_renewed = not hasattr(gigatoken, "set_max_cache_bytes")
        if tokenizer.definition:
            self.definition, self._json = tokenizer.definition, tokenizer.path.read_text(encoding="utf-8")
        else:
            # Deferred: it imports the tokenizers library.
            from megatron_prealign.text.sentencepiece_conversion import convert_sentencepiece

            self._json = convert_sentencepiece(tokenizer.path, {}).to_str()
            self.definition = json.loads(self._json)
        self._renew()
        self._reference = ReferenceEncoder(tokenizer)
        self._is_parallel = is_parallel
        spelt = "|".join(map(re.escape, sorted(tokenizer.added_tokens, key=len, reverse=True)))
        self._added = re.compile(spelt) if spelt else None
        composes = bool(steps(self.definition, "normalizer"))
        self._disputed = None if _is_sentencepiece(self.definition) else _disputed_characters(composes)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Encode with gigatoken where it agrees with the reference."""
        is_apart = self._are_apart(texts)
        if not is_apart.any():
            return self._encode(texts)
        parts = Ragged.of(*self._encode([text for text, apart in zip(texts, is_apart, strict=True) if not apart]))
        rest = self._reference.encode([text for text, apart in zip(texts, is_apart, strict=True) if apart])
        places = np.where(is_apart, len(parts) - 1 + np.cumsum(is_apart), np.cumsum(~is_apart) - 1)
        return parts.joined(Ragged.of(*rest)).take(places)

    def _are_apart(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which texts are for the reference: bool [len(texts)]."""
        whole = "".join(texts)
        is_apart = np.zeros(len(texts), dtype=bool)
        if self._added and self._added.search(whole):
            is_apart[:] = [self._added.search(text) is not None for text in texts]
        if self._disputed is not None and not whole.isascii():
            # take is twice as fast as indexing.
            places = np.flatnonzero(np.take(self._disputed, np.frombuffer(whole.encode("utf-32-le"), np.uint32)))
            ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
            is_apart[np.searchsorted(ends, places, side="right")] = True
        return is_apart

    def _encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if not texts:
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        longest = max(map(len, texts))
        self._characters_left -= sum(map(len, texts))
        if self._is_renewed and self._characters_left < 0:
            self._renew()
        if not self._is_parallel or longest > _MAX_CHARACTERS_IN_PARALLEL:
            # Nearly as fast, and avoids importing awkward arrays: a third of a second in each process.
            rows = [self._backend.encode(text) for text in texts]
            return np.concatenate(rows).astype(np.int32, copy=False), np.fromiter(map(len, rows), np.int64, len(rows))
        layout = self._backend.encode_batch(list(texts), parallel=True).layout
        offsets = np.asarray(layout.offsets)
        ids = np.asarray(layout.content.data)[offsets[0] : offsets[-1]]
        return ids.astype(np.int32), np.diff(offsets).astype(np.int64)

    def _renew(self) -> None:
        self._backend: Any = self._load(self._json)
        self._characters_left = _CHARACTERS_OF_A_CACHE


def unlike_parts(definition: dict[str, Any]) -> list[str]:
    """Return the parts of a tokenizer.json that gigatoken leaves out or applies in another way."""
    model = definition["model"]
    normalizers, splits = steps(definition, "normalizer"), steps(definition, "pre_tokenizer")
    normalized = [token["content"] for token in definition.get("added_tokens") or () if token.get("normalized")]
    unlike = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if _is_sentencepiece(definition):
        # Precompiled works on grapheme clusters and Strip on white space: both depend on the version of Unicode.
        is_known = all(step["type"] == "Prepend" or _replaces_a_string(step) for step in normalizers)
        is_split_known = all(step["type"] in ("Metaspace", "Split") for step in splits)
        unlike += ["ignore_merges"] if model.get("ignore_merges") else []
        is_found = not normalizers or not re.search("[ \u2581]", "".join(normalized))
    else:
        is_known = all(step["type"] == "NFC" for step in normalizers)
        is_split_known = _is_byte_level(splits)
        # gigatoken also finds, in decomposed text, what is spelt with composed characters.
        is_found = not normalizers or all(token["content"].isascii() for token in definition.get("added_tokens") or ())
    unlike += [] if is_known else ["normalizer"]
    unlike += [] if is_split_known else ["pre_tokenizer"]
    return unlike if is_found else [*unlike, "added_tokens found after normalising"]


def _is_sentencepiece(definition: dict[str, Any]) -> bool:
    return bool(definition["model"].get("byte_fallback"))


def _replaces_a_string(step: dict[str, Any]) -> bool:
    return step["type"] == "Replace" and "String" in step["pattern"]


def _is_byte_level(splits: Sequence[dict[str, Any]]) -> bool:
    """Return whether the steps are GPT-2's, or plain splits by regular expressions before the bytes."""
    if not splits or splits[-1]["type"] != "ByteLevel":
        return False
    *regexes, last = splits
    if not regexes:
        return bool(last.get("use_regex", True))
    return not last.get("use_regex", True) and not last["add_prefix_space"] and all(map(is_plain_split, regexes))


@cache
def _disputed_characters(composes: bool) -> NDArray[np.bool_]:
    """Return by code point what the libraries may classify or compose differently: bool [0x110000].

    They were built with different versions of Unicode, which agree on what Python's own knows; only the composing of
    the tokenizers library is older.
    """
    disputed = np.zeros(0x110000, dtype=bool)
    codes = list(chain.from_iterable(_ASSIGNABLE))
    disputed[[code for code in codes if unicodedata.category(chr(code)) == "Cn"]] = True
    if composes:
        from tokenizers import normalizers  # deferred: not needed for SentencePiece

        compose = normalizers.NFC().normalize_str
        for sign in map(chr, codes):
            if unicodedata.combining(sign):
                # A mark of class 1 and one of class 240: any other mark changes places with one of them.
                first, texts = sign, [f"a{sign}\u0334", f"a\u0345{sign}"]
            elif unicodedata.decomposition(sign)[:1] not in ("", "<"):
                texts = [sign, unicodedata.normalize("NFD", sign)]
                first = texts[1][0]
            else:
                continue
            known = [unicodedata.normalize("NFC", text) for text in texts]
            if list(map(compose, texts)) != known:
                disputed[[ord(sign), ord(first)]] = True
            # What becomes ASCII may complete an added token that is found after normalising.
            disputed[ord(sign)] |= known[0].isascii()
    return disputed
