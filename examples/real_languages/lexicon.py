r"""Choose the word pairs that matter in a corpus, hold some out, and make the variants that experiments compare.

    python examples/real_languages/lexicon.py --lexicon runs/dictionaries.tsv --text en=runs/descriptions/en.jsonl \
        --text de=runs/descriptions/de.jsonl --num-words 4000 --output runs/lexicon

* lexicon.tsv: the English words that are most frequent in the English text, but for those that are held out;
* held_out.tsv: a tenth of them, the same words in every variant;
* counts.json: words and pairs, and the share of the running words of each text that lexicon.tsv has.

`--rank-by corpus` weights translations by how often the text of their language has them and drops those that it has
far too seldom, `--inflections` adds the forms of a translation that this text has. `--share` keeps a part of the words.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.files import atomic_folder, output_problems
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.frequency import count_corpus_words
from megatron_prealign.lexicon.lexicon import LexiconEntry, Translation
from megatron_prealign.text.documents import read_languages

SOURCE = "en"
Counts = Mapping[str, Counter[str]]
"""Language → how often its text has each word, case-folded."""
UNSEEN = 0.01
"""What a translation weighs that its text never has, where a word counts 1."""
MIN_OCCURRENCE = 0.02
"""Of a translation in its text, relative to its word in the English text: below it, it renders another sense."""
MIN_STEM, MAX_ENDING = 4, 3
"""Letters that two forms of a word share at least, and that either has more at most."""


def most_frequent(lexicon: Lexicon, counts: Counter[str], num_words: int) -> Lexicon:
    """Keep the entries of the words that the text has most often."""
    ordered = sorted(lexicon.entries, key=lambda entry: (-counts[entry.word.casefold()], entry.word))
    return Lexicon(lexicon.source_language, tuple(ordered[:num_words]))


def ranked_by_corpus(lexicon: Lexicon, counts: Counts) -> Lexicon:
    """Weight each translation by the dictionary's weight times its occurrences in the text of its language."""
    return _mapped(
        lexicon,
        lambda t: [t._replace(weight=t.weight * max(counts[t.language][t.word.casefold()], UNSEEN))],
    )


def plausible(lexicon: Lexicon, counts: Counts, min_occurrence: float = MIN_OCCURRENCE) -> Lexicon:
    """Drop translations that are too rare in their text for what they translate, and words that keep none.

    Dictionaries have `is` → `west` and, of a lexicon that covers little, a single rare sense of a frequent word. All
    forms of a translation count.
    """
    totals = {language: max(words.total(), 1) for language, words in counts.items()}
    relatives = {language: _by_stem(words) for language, words in counts.items()}

    def occurs(word: str, translation: Translation) -> bool:
        language = translation.language
        forms = _forms(translation.word.casefold(), counts[language], relatives[language])
        needed = counts[SOURCE][word.casefold()] / totals[SOURCE] * min_occurrence
        return sum(forms.values()) / totals[language] >= needed

    pairs = [(word, translation) for word, translation in lexicon.pairs() if occurs(word, translation)]
    return Lexicon.from_pairs(lexicon.source_language, pairs)


def heaviest(lexicon: Lexicon, count: int) -> Lexicon:
    """Keep the heaviest translations of each word in each language; their weights sum to 1."""
    entries = []
    for entry in lexicon.entries:
        kept: list[Translation] = []
        for language in sorted({t.language for t in entry.translations}):
            own = sorted((t for t in entry.translations if t.language == language), key=lambda t: -t.weight)[:count]
            total = sum(t.weight for t in own)
            kept += [t._replace(weight=float(f"{t.weight / total:.6g}")) for t in own]
        entries.append(LexiconEntry(entry.word, tuple(kept)))
    return Lexicon(lexicon.source_language, tuple(entries))


def inflected(lexicon: Lexicon, counts: Counts) -> Lexicon:
    """Share the weight of each translation among its forms in the text of its language, by their occurrences."""
    relatives = {language: _by_stem(words) for language, words in counts.items()}

    def forms(translation: Translation) -> list[Translation]:
        language = translation.language
        found = _forms(translation.word.casefold(), counts[language], relatives[language])
        total = sum(found.values())
        return [
            translation._replace(word=_cased_like(translation.word, form), weight=translation.weight * count / total)
            for form, count in found.items()
        ]

    return _mapped(lexicon, forms)


def are_forms(word: str, other: str) -> bool:
    """Tell whether two words share all letters but short endings."""
    shared = 0
    for one, two in zip(word, other, strict=False):
        if one != two:
            break
        shared += 1
    return shared >= max(MIN_STEM, len(word) - 2) and max(len(word), len(other)) - shared <= MAX_ENDING


def describe(lexicon: Lexicon, counts: Counts) -> dict[str, Any]:
    """Return how many words and pairs there are by language, and the share of the running words that they are."""
    words = {SOURCE: {entry.word.casefold() for entry in lexicon.entries}}
    for _, translation in lexicon.pairs():
        words.setdefault(translation.language, set()).add(translation.word.casefold())
    pairs = Counter(translation.language for _, translation in lexicon.pairs())
    return {
        language: {
            "words": len(found),
            "pairs": pairs[language],
            "running_words_ratio": round(
                sum(counts[language][word] for word in found) / max(counts[language].total(), 1), 4
            ),
        }
        for language, found in sorted(words.items())
    }


def _mapped(lexicon: Lexicon, change: Any) -> Lexicon:
    pairs = [(entry.word, new) for entry in lexicon.entries for t in entry.translations for new in change(t)]
    return Lexicon.from_pairs(lexicon.source_language, pairs)


def _by_stem(words: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for word in words:
        found[word[:MIN_STEM]].append(word)
    return found


def _forms(word: str, counts: Counter[str], relatives: Mapping[str, list[str]]) -> dict[str, int]:
    """Return a word and its forms in a text with their occurrences, at least 1 for the word itself."""
    known = relatives.get(word[:MIN_STEM], ()) if len(word) >= MIN_STEM else ()
    return {
        word: max(counts[word], 1),
        **{form: counts[form] for form in known if form != word and are_forms(word, form)},
    }


def _cased_like(word: str, form: str) -> str:
    return form[:1].upper() + form[1:] if word[:1].isupper() else form


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--lexicon", type=path_argument, required=True, help="TSV of tools/build_lexicon.py")
    parser.add_argument(
        "--text", action="append", required=True, metavar="LANGUAGE=FILE", help="text of English and each language"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    parser.add_argument("--num-words", type=int, default=4000, help="English words")
    parser.add_argument("--max-translations", type=int, default=2, help="of a word in each language, the heaviest")
    parser.add_argument("--held-out-ratio", type=float, default=0.1, help="share of the English words, (0, 1)")
    parser.add_argument("--share", type=float, default=1.0, help="of the other words that is kept, (0, 1]")
    parser.add_argument("--rank-by", choices=("dictionary", "corpus"), default="dictionary", help="weights")
    parser.add_argument("--inflections", action="store_true", help="add forms of translations that the text has")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of words")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = build_parser().parse_args(argv)
    _check(arguments)
    texts = read_languages({name: [path] for name, _, path in (one.partition("=") for one in arguments.text)}, "text")
    counts = {name: count_corpus_words(found, name) for name, found in texts.items()}
    lexicon = most_frequent(read_lexicon([arguments.lexicon], SOURCE), counts[SOURCE], arguments.num_words)
    if missing := sorted(set(lexicon.languages) - set(counts)):
        raise ConfigError(f"--text: there is none in {', '.join(missing)}, which {arguments.lexicon} has")
    trained, held_out = lexicon.split(arguments.held_out_ratio, arguments.seed)
    held_out = heaviest(held_out, arguments.max_translations)
    if arguments.share < 1:
        _, trained = trained.split(arguments.share, arguments.seed + 1)
    if arguments.rank_by == "corpus":
        trained = plausible(ranked_by_corpus(trained, counts), counts)
    trained = heaviest(trained, arguments.max_translations)
    if arguments.inflections:
        trained = inflected(trained, counts)
    described = describe(trained, counts)
    with atomic_folder(arguments.output) as folder:
        trained.write_tsv(folder / "lexicon.tsv")
        held_out.write_tsv(folder / "held_out.tsv")
        (folder / "counts.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(described))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    problems = []
    for name, low in (("num_words", 2), ("max_translations", 1)):
        if getattr(arguments, name) < low:
            problems.append(f"--{name.replace('_', '-')} is {getattr(arguments, name)}; give at least {low}")
    if not 0 < arguments.held_out_ratio < 1:
        problems.append(f"--held-out-ratio is {arguments.held_out_ratio}; give a number above 0 and below 1")
    if not 0 < arguments.share <= 1:
        problems.append(f"--share is {arguments.share}; give a number above 0, at most 1")
    problems += [f"--text {text}: write LANGUAGE=FILE" for text in arguments.text if not all(text.partition("="))]
    if not any(text.startswith(f"{SOURCE}=") for text in arguments.text):
        problems.append(f"--text: name a text in {SOURCE}")
    if problems:
        raise ConfigError(problems)
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)


if __name__ == "__main__":
    raise SystemExit(main())
