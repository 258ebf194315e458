r"""What of a language does stage 1 touch? Hold a lexicon against running text, word by word and token by token.

    python examples/real_languages/reach.py --lexicon runs/lexicon/lexicon.tsv --tokenizer runs/tokenizer \
        --text en=runs/descriptions/en.jsonl --text de=runs/descriptions/de.jsonl --output runs/reach.json

For each language, in shares of its running words:

* words: that are in the lexicon as they stand; any_case: whatever their case; forms: with words that differ from one in
  the lexicon by an ending alone;
* whole_tokens: that are one token; tokens_a_word of the text and of the lexicon;
* tokens: running tokens inside words of the lexicon; tokens_met: running tokens that some word of the lexicon has;
* english_tokens: running tokens that English text has more often than the language's;
* ambiguous: lexicon words with several English sources; likeliest: mean weight of an entry's heaviest translation.

With --parallel: in_context, the share of drawn translations of the words of an English paragraph that its translation
has, and by_chance, that another paragraph has.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import regex

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_text_file, output_problems
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.text.documents import read_languages
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.real_languages.lexicon import MIN_STEM, are_forms

SOURCE = "en"
WORD = regex.compile(r"\p{L}[\p{L}\p{M}]*")


def words_of(lexicon: Lexicon, language: str) -> set[str]:
    """Return the words of a language, source words too."""
    if language == lexicon.source_language:
        return {entry.word for entry in lexicon.entries}
    return {translation.word for _, translation in lexicon.pairs() if translation.language == language}


def encode(words: Sequence[str], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Return the tokens of words as inside running text."""
    return dict(zip(words, tokenizer.encode_words(list(words), True), strict=True))


def count_tokens(counts: Mapping[str, int], tokens: Mapping[str, list[int]]) -> Counter[int]:
    """Return how often each token occurs in words that occur so often."""
    found: Counter[int] = Counter()
    for word, count in counts.items():
        for token in tokens[word]:
            found[token] += count
    return found


def reach(
    lexicon: Lexicon, language: str, counts: Counter[str], english: Counter[int], tokenizer: Tokenizer
) -> dict[str, float]:
    """Return the shares of one language.

    Args:
        lexicon: of stage 1.
        language: one of its languages.
        counts: running words of the text as they stand.
        english: running tokens of the English text.
        tokenizer: of the model.
    """
    known = words_of(lexicon, language)
    folded = {word.casefold() for word in known}
    stems: dict[str, list[str]] = defaultdict(list)
    for word in folded:
        stems[word[:MIN_STEM]].append(word)

    def is_form(word: str) -> bool:
        return word in folded or any(are_forms(other, word) for other in stems[word[:MIN_STEM]])

    tokens = encode(list(counts), tokenizer)
    lexicon_tokens = encode(sorted(known), tokenizer)
    running, met = count_tokens(counts, tokens), {token for ids in lexicon_tokens.values() for token in ids}
    num_words, num_tokens, num_english = counts.total(), running.total(), max(english.total(), 1)
    inside = sum(len(tokens[word]) * count for word, count in counts.items() if word in known)
    foreign = sum(n for token, n in running.items() if english[token] / num_english > n / num_tokens)

    def share(condition: Callable[[str], bool]) -> float:
        return round(sum(n for word, n in counts.items() if condition(word)) / num_words, 3)

    sources = Counter(t.word for _, t in lexicon.pairs() if t.language == language)
    weights: dict[str, list[float]] = defaultdict(list)
    for word, t in lexicon.pairs():
        if t.language == language:
            weights[word].append(t.weight)
    return {
        "running_words": num_words,
        "lexicon_words": len(known),
        "words": share(lambda word: word in known),
        "any_case": share(lambda word: word.casefold() in folded),
        "forms": share(lambda word: is_form(word.casefold())),
        "whole_tokens": share(lambda word: len(tokens[word]) == 1),
        "tokens_a_word": round(num_tokens / num_words, 2),
        "tokens_a_lexicon_word": round(sum(map(len, lexicon_tokens.values())) / max(len(known), 1), 2),
        "tokens": round(inside / num_tokens, 3),
        "tokens_met": round(sum(n for token, n in running.items() if token in met) / num_tokens, 3),
        "english_tokens": round(foreign / num_tokens, 3),
        "ambiguous": round(len([word for word, n in sources.items() if n > 1]) / max(len(sources), 1), 3),
        "likeliest": round(sum(max(w) / sum(w) for w in weights.values()) / max(len(weights), 1), 3),
    }


def in_context(lexicon: Lexicon, language: str, rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return how probably a translation drawn for a word of a paragraph is in the paragraph's translation.

    Args:
        lexicon: entries with weighted translations.
        language: of the translations.
        rows: paragraphs by language.
    """
    entries: dict[str, dict[str, float]] = {}
    for word, t in lexicon.pairs():
        if t.language == language:
            entries.setdefault(word.casefold(), {})[t.word.casefold()] = t.weight
    pairs = [
        (set(WORD.findall(row[SOURCE].casefold())), set(WORD.findall(row[language].casefold())))
        for row in rows
        if language in row
    ]

    def hits(shift: int) -> list[float]:
        targets = [pairs[(index + shift) % len(pairs)][1] for index in range(len(pairs))]
        return [
            sum(weight for word, weight in entries[source].items() if word in target) / sum(entries[source].values())
            for (sources, _), target in zip(pairs, targets, strict=True)
            for source in sources & entries.keys()
        ]

    return {name: round(fmean(hits(shift) or [0.0]), 3) for name, shift in (("in_context", 0), ("by_chance", 1))}


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--lexicon", type=path_argument, required=True, help="word pairs of stage 1")
    parser.add_argument("--tokenizer", type=path_argument, required=True, help="tokenizer of the model")
    parser.add_argument("--text", action="append", required=True, metavar="LANGUAGE=FILE", help="text, English too")
    parser.add_argument("--output", type=path_argument, required=True, help="JSON file to write")
    parser.add_argument("--parallel", type=path_argument, help="JSONL of paragraphs by language")
    arguments = parser.parse_args(argv)
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)
    lexicon, tokenizer = read_lexicon([arguments.lexicon], SOURCE), load_tokenizer(arguments.tokenizer)
    texts = read_languages({name: [path] for name, _, path in (one.partition("=") for one in arguments.text)}, "text")
    if SOURCE not in texts:
        raise DataError(f"--text: name a text in {SOURCE}")
    counts = {name: Counter(word for text in found for word in WORD.findall(text)) for name, found in texts.items()}
    english = count_tokens(counts[SOURCE], encode(list(counts[SOURCE]), tokenizer))
    found = {name: reach(lexicon, name, own, english, tokenizer) for name, own in counts.items()}
    if arguments.parallel:
        rows = [json.loads(line) for line in arguments.parallel.read_text(encoding="utf-8").splitlines()]
        for name in counts.keys() - {SOURCE}:
            found[name] |= in_context(lexicon, name, rows)
    with atomic_text_file(arguments.output, overwrite=False) as stream:
        stream.write(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
