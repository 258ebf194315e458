r"""Make a lexicon from the messages of programs and their translations: words in their forms, weighted by use.

    python examples/real_languages/messages.py --languages de it --output runs/messages.tsv

apt-get downloads programs that many volunteers translate (about 90 MB, nothing is installed, nothing of it is in the
repository); the licence of a message is that of its program. IBM model 1 (nltk's) aligns the words of each message with
those of its translation, once in either direction; links found in both count. No model reads the messages themselves.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polib
import regex
from nltk.translate import AlignedSent, IBMModel1

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import DataError
from megatron_prealign.files import output_problems
from megatron_prealign.lexicon import Lexicon
from megatron_prealign.lexicon.lexicon import Translation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.downloads import download_debian, unpack_debian

SOURCE = "en"
LANGUAGES = ("da", "de", "fr", "it")
PACKAGES = (
    "aptitude-common",
    "coreutils",
    "evolution-common",
    "gcc-12-locales",
    "gimp-data",
    "gnome-control-center-data",
    "gnucash-common",
    "gnupg-l10n",
    "inkscape",
    "kate5-data",
    "krita-l10n",
    "synaptic",
    "util-linux-locales",
    "vlc-l10n",
)
OWN_PACKAGES = ("libreoffice-l10n-{language}",)
"""Packages of one language each."""
PLACEHOLDER = regex.compile(r"%[-+ #0-9.$*]*[a-z]+|%\w+%|\$\w+|<[^<>]*>|https?:\S+|--?\w[\w-]*")
"""Of printf, LibreOffice and the shell; tags, addresses and options."""
ACCELERATOR = regex.compile(r"[&_~](?=\p{L})")
"""Marks the key of a menu entry, in Qt, GTK and LibreOffice."""
WORD = regex.compile(r"(?<![\p{L}\p{M}\p{N}'’])\p{L}[\p{L}\p{M}]*+(?![\p{N}'’])")
"""Not beside an apostrophe: half of "don't" or "l'immagine" is no word."""
MAX_WORDS = 40
"""Of a message: alignment takes the product of the lengths."""
ITERATIONS = 5
MIN_LINKS = 2
"""Of a word pair."""
MIN_WEIGHT = 0.02
"""Of a translation, relative to all links of its word."""


def packages_of(languages: Iterable[str]) -> list[str]:
    """Return the packages that have the messages of these languages."""
    return [*PACKAGES, *(name.format(language=language) for language in languages for name in OWN_PACKAGES)]


def read_messages(folder: Path, language: str) -> list[tuple[str, str]]:
    """Return the distinct messages below a folder with their translations, sorted.

    Raises:
        DataError: there is none.
    """
    found: set[tuple[str, str]] = set()
    for path in folder.rglob(f"{language}/LC_MESSAGES/*.mo"):
        for message in polib.mofile(str(path)):
            # Of plural forms the first is the singular.
            translated = message.msgstr_plural.get(0, message.msgstr)
            if message.msgid and translated and message.msgid != translated:
                found.add((message.msgid, translated))
    if not found:
        raise DataError(f"{folder}: no translated messages in {language}; name a folder of packages that have some")
    return sorted(found)


def words_of(message: str) -> list[str]:
    """Return the words of a message as they are written, without placeholders and the marks of keys."""
    return list(WORD.findall(ACCELERATOR.sub("", PLACEHOLDER.sub(" ", message))))


def links(messages: Sequence[tuple[str, str]]) -> dict[str, Counter[str]]:
    """Return English words, in lower case, with the words they are aligned with and how often.

    Args:
        messages: with their translations.
    """
    pairs = [(words_of(one), words_of(other)) for one, other in messages]
    pairs = [(one, other) for one, other in pairs if 0 < len(one) <= MAX_WORDS and 0 < len(other) <= MAX_WORDS]
    casing = _casing(other for _, other in pairs)
    lowered = [([word.lower() for word in one], [word.lower() for word in other]) for one, other in pairs]
    forward, backward = _align(lowered), _align([(other, one) for one, other in lowered])
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (one, other), there, back in zip(lowered, forward, backward, strict=True):
        for source, target in there & {(source, target) for target, source in back}:
            found[one[source]][casing[other[target]]] += 1
    return found


def _align(pairs: Sequence[tuple[list[str], list[str]]]) -> list[set[tuple[int, int]]]:
    """Return, for each pair of texts, the word of the first from which each word of the second most likely comes."""
    sentences = [AlignedSent(second, first) for first, second in pairs]
    IBMModel1(sentences, ITERATIONS)
    return [{(source, target) for target, source in one.alignment if source is not None} for one in sentences]


def _casing(texts: Iterable[list[str]]) -> Mapping[str, str]:
    """Return how each word is written most often inside a text, where no sentence begins."""
    forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words in texts:
        for position, word in enumerate(words):
            # The first word of a text names itself in lower case, without a vote.
            forms[word.lower()][word if position else word.lower()] += position > 0
    return {word: counts.most_common(1)[0][0] for word, counts in forms.items()}


def translations(found: Mapping[str, Counter[str]], language: str) -> Iterator[tuple[str, Translation]]:
    """Yield the word pairs that have links enough, weighted by their share of the word's links."""
    for word, counts in sorted(found.items()):
        for other, count in counts.most_common():
            weight = count / counts.total()
            if count >= MIN_LINKS and weight >= MIN_WEIGHT:
                yield word, Translation(other, language, float(f"{weight:.4g}"))


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=path_argument, required=True, help="TSV to write")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=["de"], help="beside English")
    parser.add_argument("--packages", type=path_argument, help="folder of packages, downloaded already")
    arguments = parser.parse_args(argv)
    if problems := output_problems(arguments.output, overwrite=False):
        raise DataError(problems)
    languages = list(dict.fromkeys(arguments.languages))
    pairs: list[tuple[str, Translation]] = []
    with tempfile.TemporaryDirectory() as scratch:
        packages, unpacked = arguments.packages, Path(scratch) / "unpacked"
        unpacked.mkdir()
        if packages is None:
            packages = Path(scratch)
            download_debian(packages_of(languages), packages, "--packages")
        for name in packages_of(languages):
            unpack_debian(packages, name, unpacked)
        for language in languages:
            messages = read_messages(unpacked, language)
            kept = list(translations(links(messages), language))
            print(f"{language}: {len(messages):,} messages, {len(kept):,} word pairs", flush=True)
            pairs += kept
    Lexicon.from_pairs(SOURCE, pairs).write_tsv(arguments.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
