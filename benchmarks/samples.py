"""Real multilingual text and a dictionary of Debian, for the benchmarks; never committed.

The text is LibreOffice's help (MPL-2.0) in 24 languages, a page a document, every line once; the dictionary is
FreeDict's English-German (GPL). They are downloaded with `apt-get download`, which needs no root, and unpacked beside
each other.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from megatron_prealign.files import atomic_folder, atomic_text_file

LANGUAGES = (
    *("en-us", "de", "fr", "es", "it", "pl", "pt-br", "ru", "zh-cn", "zh-tw", "ja", "ko", "hi", "tr", "nl", "sv"),
    *("cs", "da", "el", "fi", "hu", "pt", "ca", "vi"),
)
DICTIONARIES = ("eng-deu",)
# Elements that end a line of text.
_BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "br", "caption", "dd", "div", "dl", "dt", "li", "ol", "p", "pre", "ul"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "table", "td", "tr"),
    )
)
_HIDDEN = frozenset(("head", "script", "style"))


class _PageText(HTMLParser):
    """The text of an HTML page, a line a block."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _HIDDEN
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _HIDDEN
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._parts.append("\n")

    @property
    def text(self) -> str:
        """Everything read so far."""
        lines = (line.strip() for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)


def fetch(folder: Path) -> None:
    """Fill a folder with <language>.jsonl and the dictd files of the dictionaries."""
    packages = [f"libreoffice-help-{language}" for language in LANGUAGES]
    packages += [f"dict-freedict-{name}" for name in DICTIONARIES]
    with atomic_folder(folder) as staged:
        work = staged / "work"
        work.mkdir()
        subprocess.run(["apt-get", "download", *packages], cwd=work, check=True, stdout=subprocess.DEVNULL)
        for package in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, work], check=True)
        seen: set[str] = set()  # of all languages: what is not translated is the same English in each
        for language in LANGUAGES:
            with atomic_text_file(staged / f"{language}.jsonl") as stream:
                for text in _pages(work / "usr/share/libreoffice/help" / _region_in_capitals(language)):
                    lines = [line for line in text.split("\n") if line not in seen]
                    seen.update(lines)
                    if lines:
                        stream.write(json.dumps({"text": "\n".join(lines)}, ensure_ascii=False) + "\n")
        for path in (work / "usr/share/dictd").iterdir():
            shutil.move(path, staged / path.name)
        shutil.rmtree(work)


def _region_in_capitals(language: str) -> str:
    """Return the name of a language's folder: pt-br is pt-BR there."""
    language, _, region = language.partition("-")
    return f"{language}-{region.upper()}" if region else language


def _pages(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.html")):
        page = _PageText()
        page.feed(path.read_text(encoding="utf-8"))
        if page.text:
            yield page.text


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the samples unless they are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data-samples/text"), help="folder to fill")
    output = parser.parse_args(argv).output
    if output.is_dir():
        print(f"{output}: already there")
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        fetch(output)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}; Debian's apt-get and dpkg-deb are needed, after apt-get update", file=sys.stderr)
        return 2
    print(f"{output}: {sum(path.stat().st_size for path in output.iterdir()) / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
