"""How well words are found on token ids alone: precision and recall against the text itself.

    python -m benchmarks.word_finding --tokenizer-model data/tokenizer text/en-us.jsonl text/de.jsonl

The reference reads the text: of every run of characters without white space, brackets, quotes and closing punctuation
at its ends go; what is left is a word that may be switched if it is letters and nothing else, and the run has no sign
of URLs, e-mail addresses or code. It is blind to tokens, as the bake is blind to text.

Where the language puts no spaces between words, the words are those of a lexicon, and the reference takes the longest
match, character by character:

    python -m benchmarks.word_finding --tokenizer-model data/tokenizer zh.jsonl --lexicon zh-en.tsv --language zh

With `--segmenter` the reference takes the words of a lexicon that a segmenter finds: pythainlp's newmm for Thai,
khmercut for Khmer, both of PyPI. They also tell whether a match cuts a written syllable (Thai character clusters, Khmer
character clusters); without them Unicode's grapheme clusters do.

The last line is one JSON object: for each file words of the reference, precision, recall, the share of the words that
token boundaries begin and end, and the share of the words found that cut a syllable.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import regex

from megatron_prealign.codeswitch.codeswitch import find_matches
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.codeswitch.token_classes import classify_vocabulary, is_letters
from megatron_prealign.codeswitch.words import Words, find_eligible, find_words, token_flags
from megatron_prealign.lexicon import read_lexicon
from megatron_prealign.text.documents import read_texts
from megatron_prealign.text.files import cut_into_pieces
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

_TAINTS = frozenset("@\\_=<>{}|~^#$`/&%+*")
_ENDS = ("Ps", "Pe", "Pi", "Pf")


def words_of_text(text: str) -> set[tuple[int, int]]:
    """Return (first byte, byte behind the last) of every word that may be switched, as the text shows it."""
    found = set()
    start = 0
    for chunk in text.split(" "):
        for part, offset in _split_white(chunk):
            core = _core(part)
            if core and not _TAINTS & set(part) and "www" not in part:
                begin = part.index(core)
                first = start + len((chunk[:offset] + part[:begin]).encode())
                found.add((first, first + len(core.encode())))
        start += len(chunk.encode()) + 1
    return found


def _split_white(chunk: str) -> list[tuple[str, int]]:
    parts, position = [], 0
    for part in chunk.split():
        position = chunk.index(part, position)
        parts.append((part, position))
        position += len(part)
    return parts


def _core(part: str) -> str:
    first, last = 0, len(part)
    while first < last and _may_stand_before(part[first]):
        first += 1
    while last > first and _may_stand_behind(part[last - 1]):
        last -= 1
    core = part[first:last]
    return core if is_letters(core) else ""


def _may_stand_before(character: str) -> bool:
    return character in "\"'¿¡–—" or unicodedata.category(character) in _ENDS


def _may_stand_behind(character: str) -> bool:
    category = unicodedata.category(character)
    return character in "\"'.,;:!?…–—" or category in _ENDS or (category == "Po" and not character.isascii())


def matches_of_text(text: str, lexicon: Collection[str], longest: int) -> set[tuple[int, int]]:
    """Return the same of the words of a lexicon, the longest that begins at each character first."""
    found = set()
    position = 0
    while position < len(text):
        sizes = range(min(longest, len(text) - position), 0, -1)
        size = next((size for size in sizes if text[position : position + size] in lexicon), 0)
        if size and not _is_tainted(text, position):
            first = len(text[:position].encode())
            found.add((first, first + len(text[position : position + size].encode())))
        position += size or 1
    return found


Segmenter = Callable[[str], list[str]]


def segmenters(name: str | None) -> tuple[Segmenter | None, Segmenter]:
    """Return what cuts a text into words, and what cuts it into written syllables."""
    if name is None:
        return None, partial(regex.findall, r"\X")
    if name == "newmm":
        from pythainlp.tokenize import tcc_p, word_tokenize

        return partial(word_tokenize, engine="newmm"), lambda text: list(tcc_p.tcc(text))
    import khmercut

    # It takes one sign of punctuation for a part of the word before.
    return khmercut.tokenize, lambda text: khmercut.seg_kcc(text.replace("\u17d6", "\u17d4"))


def ends_of(pieces: Sequence[str]) -> list[int]:
    """Return the bytes of a text at which its consecutive pieces begin, and its end."""
    return [0, *accumulate(len(piece.encode()) for piece in pieces)]


def matches_of_segmenter(text: str, segment: Segmenter, lexicon: Collection[str]) -> set[tuple[int, int]]:
    """Return (first byte, byte behind the last) of the words of a lexicon that a segmenter finds."""
    found = set()
    for part, start in _split_white(text):
        if _TAINTS & set(part) or "www" in part:
            continue
        pieces = segment(part)
        ends = ends_of(pieces)
        before = len(text[:start].encode())
        found |= {
            (before + first, before + stop)
            for piece, first, stop in zip(pieces, ends, ends[1:], strict=False)
            if piece in lexicon
        }
    return found


def _is_tainted(text: str, position: int) -> bool:
    start = max(text.rfind(white, 0, position) for white in " \n\t\u3000") + 1
    chunk = text[start:].split(maxsplit=1)[0]
    return bool(_TAINTS & set(chunk)) or "www" in chunk


class Tokens:
    """Some texts as tokens, and the bytes of each text where a token begins or ends."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        """Encode them."""
        encoded = tokenizer.encode_batch(texts)
        self.ids = np.array([index for ids in encoded for index in ids], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in encoded])))
        self._begins_spaced = np.array([data[:1] == b" " for data in tokenizer.token_bytes])
        sizes = np.array([len(data) for data in tokenizer.token_bytes])
        ends = np.concatenate(([0], np.cumsum(sizes[self.ids])))
        # Counted from the end: SentencePiece puts a space in front of a text.
        bases = ends[self.offsets[1:]] - [len(text.encode()) for text in texts]
        self._ends = ends
        self._bases = bases

    def spans(self, words: Words) -> list[set[tuple[int, int]]]:
        """Return (first byte, byte behind the last) of words in each text."""
        firsts = self._ends[words.starts] + self._begins_spaced[self.ids[words.starts]] - self._bases[words.documents]
        stops = self._ends[words.stops] - self._bases[words.documents]
        found: list[set[tuple[int, int]]] = [set() for _ in self._bases]
        for document, first, stop in zip(words.documents.tolist(), firsts.tolist(), stops.tolist(), strict=True):
            found[document].add((first, stop))
        return found

    def boundaries(self, document: int) -> set[int]:
        """Return the bytes at which tokens of a text begin, behind their space, and end."""
        first, stop = self.offsets[document : document + 2]
        ends = self._ends[first : stop + 1] - self._bases[document]
        return {*ends.tolist(), *(ends[:-1] + self._begins_spaced[self.ids[first:stop]]).tolist()}


def eligible_words(tokens: Tokens, tokenizer: Tokenizer) -> Words:
    """Return the words that may be switched, as the bake finds them on token ids."""
    vocabulary = classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids)
    flags = token_flags(vocabulary, tokens.ids, tokens.offsets)
    words = find_words(flags, tokens.offsets)
    return words.take(np.flatnonzero(find_eligible(flags, tokens.offsets, words)))


def measure(
    texts: Sequence[str],
    tokens: Tokens,
    expected: Sequence[set[tuple[int, int]]],
    words: Words,
    cut: Segmenter,
) -> tuple[dict[str, float], list[str]]:
    """Return the reference's words, precision, recall, shares at boundaries and cut, and examples of disagreement."""
    total = correct = found = bounded = num_cut = 0
    examples: list[str] = []
    for number, (text, reference, spans) in enumerate(zip(texts, expected, tokens.spans(words), strict=True)):
        total, correct, found = total + len(reference), correct + len(reference & spans), found + len(spans)
        boundaries = tokens.boundaries(number)
        bounded += sum(first in boundaries and stop in boundaries for first, stop in reference)
        syllables = frozenset(ends_of(cut(text)))
        num_cut += sum(first not in syllables or stop not in syllables for first, stop in spans)
        raw = text.encode()
        for sign, missed in (("+", spans - reference), ("-", reference - spans)):
            examples += [f"{sign} {raw[max(a - 12, 0) : b + 12].decode(errors='replace')!r}" for a, b in sorted(missed)]
    shares = {"precision": correct / found, "recall": correct / total, "at_token_boundaries": bounded / total}
    return {"words": total, **shares, "cutting_a_syllable": num_cut / found}, examples


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="+", help="corpora: anything the bake reads, text under the key text")
    parser.add_argument("--tokenizer-model", type=Path, required=True, help="the bake's tokenizer")
    parser.add_argument("--documents", type=int, default=2000, help="documents of each file")
    parser.add_argument("--examples", type=int, default=0, help="disagreements to show (+ found, - missed)")
    parser.add_argument("--lexicon", type=Path, help="for languages without spaces: source words in its first column")
    parser.add_argument("--language", default="zh", help="source language of the lexicon")
    parser.add_argument("--segmenter", choices=("newmm", "khmercut"), help="take the words that it finds as reference")
    arguments = parser.parse_args(argv)
    tokenizer = load_tokenizer(arguments.tokenizer_model)
    lexicon = read_lexicon([arguments.lexicon], arguments.language) if arguments.lexicon else None
    table = compile_lexicon(lexicon, tokenizer) if lexicon else None
    segment, cut = segmenters(arguments.segmenter)
    results = {}
    for path in arguments.input:
        batches = (batch for piece in cut_into_pieces([path]) for batch in read_texts(piece, "text"))
        texts = list(islice((text for batch in batches for text in batch.texts), arguments.documents))
        tokens = Tokens(texts, tokenizer)
        if lexicon and table:
            entries = {lexicon.entries[number].word for number in table.key_entries}
            longest = max(map(len, entries))
            expected = [
                matches_of_segmenter(text, segment, entries) if segment else matches_of_text(text, entries, longest)
                for text in texts
            ]
            words = find_matches(table, tokens.ids, tokens.offsets).spans
        else:
            expected = [words_of_text(text) for text in texts]
            words = eligible_words(tokens, tokenizer)
        results[path.name], examples = measure(texts, tokens, expected, words, cut)
        step = max(1, len(examples) // max(arguments.examples, 1))
        print("\n".join(examples[::step][: arguments.examples]), file=sys.stderr)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
