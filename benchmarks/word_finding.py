"""How well words are found on token ids alone: precision and recall against the text itself.

    python -m benchmarks.word_finding --tokenizer-model data/tokenizer text/en-us.jsonl text/de.jsonl

The reference reads the text: of every run of characters without white space, brackets, quotes and closing punctuation
at its ends go; what is left is a word that may be switched if it is letters and nothing else, and the run has no sign
of URLs, e-mail addresses or code. It is blind to tokens, as the bake is blind to text. Only for languages with spaces.
The last line is one JSON object: for each file words of the reference, precision and recall.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_prealign.data.documents import read_texts
from megatron_prealign.data.inputs import cut_into_pieces
from megatron_prealign.data.token_classes import classify_vocabulary, is_letters
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.data.words import find_eligible, find_words, token_flags

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


def words_of_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> list[set[tuple[int, int]]]:
    """Return the same for each text, as the bake finds it on token ids."""
    encoded = tokenizer.encode_batch(texts)
    tokens = np.array([index for ids in encoded for index in ids], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in encoded])))
    flags = token_flags(classify_vocabulary(tokenizer.token_bytes, tokenizer.special_ids), tokens, offsets)
    words = find_words(flags, offsets)
    eligible = np.flatnonzero(find_eligible(flags, offsets, words, np.arange(len(words))))
    sizes = np.array([len(data) for data in tokenizer.token_bytes])
    ends = np.concatenate(([0], np.cumsum(sizes[tokens])))
    # Counted from the end: SentencePiece puts a space in front of a text.
    bases = [int(ends[stop]) - len(text.encode()) for stop, text in zip(offsets[1:], texts, strict=True)]
    found: list[set[tuple[int, int]]] = [set() for _ in texts]
    for word in eligible.tolist():
        start, stop, document = int(words.starts[word]), int(words.stops[word]), int(words.documents[word])
        first = int(ends[start]) + (tokenizer.token_bytes[tokens[start]][:1] == b" ")
        base = bases[document]
        found[document].add((first - base, int(ends[stop]) - base))
    return found


def measure(path: Path, tokenizer: Tokenizer, num_documents: int) -> tuple[dict[str, float], list[str]]:
    """Return the reference's words, precision and recall on a file, and examples of what the two disagree on."""
    texts = [text for piece in cut_into_pieces([path]) for batch in read_texts(piece, "text") for text in batch.texts]
    texts = texts[:num_documents]
    expected = correct = found = 0
    examples: list[str] = []
    for text, words in zip(texts, words_of_tokens(texts, tokenizer), strict=True):
        reference = words_of_text(text)
        expected, correct, found = expected + len(reference), correct + len(reference & words), found + len(words)
        raw = text.encode()
        for sign, spans in (("+", words - reference), ("-", reference - words)):
            examples += [f"{sign} {raw[max(a - 12, 0) : b + 12].decode(errors='replace')!r}" for a, b in sorted(spans)]
    return {"words": expected, "precision": correct / found, "recall": correct / expected}, examples


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="+", help="corpora: anything the bake reads, text under the key text")
    parser.add_argument("--tokenizer-model", type=Path, required=True, help="the bake's tokenizer")
    parser.add_argument("--documents", type=int, default=2000, help="documents of each file")
    parser.add_argument("--examples", type=int, default=0, help="disagreements to show (+ found, - missed)")
    arguments = parser.parse_args(argv)
    tokenizer = load_tokenizer(arguments.tokenizer_model)
    results = {}
    for path in arguments.input:
        results[path.name], examples = measure(path, tokenizer, arguments.documents)
        step = max(1, len(examples) // max(arguments.examples, 1))
        print("\n".join(examples[::step][: arguments.examples]), file=sys.stderr)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
