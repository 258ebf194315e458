"""Files that hold a corpus: names to files, and files to bytes, unpacked."""

import gzip
import io
import re
import sys
import zlib
from collections.abc import Sequence
from glob import has_magic, iglob
from pathlib import Path
from typing import IO, cast

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
TEXT_SUFFIXES = (".txt",)
PARQUET_SUFFIX = ".parquet"
COMPRESSION_SUFFIXES = (".gz", ".zst")
KNOWN_KINDS = f"{', '.join(JSON_SUFFIXES + TEXT_SUFFIXES)}, each also with .gz or .zst, and {PARQUET_SUFFIX}"
_BUFFER_BYTES = 1 << 20


def find_files(names: Sequence[str | Path]) -> tuple[list[Path], list[str], list[str]]:
    """Return the files that names stand for, what is wrong with the names, and what was passed over.

    Folders are searched with their subfolders; files of a folder or of a glob are in natural order (2 before 10).

    Args:
        names: Files, folders and globs, in the order they are to be read in.
    """
    paths: list[Path] = []
    problems: list[str] = []
    notes: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = _visible_files(path)
            known = [file for file in found if is_known(file)]
            paths += known
            if not known:
                problems.append(f"{path}: the folder holds no file of a known kind; known are {KNOWN_KINDS}")
            elif skipped := [str(file.relative_to(path)) for file in found if not is_known(file)]:
                notes.append(f"{path}: {len(skipped)} files of other kinds passed over ({', '.join(skipped[:5])})")
        elif path.exists():
            paths.append(path)
        elif has_magic(str(name)):
            matches = sorted((Path(match) for match in iglob(str(name), recursive=True)), key=_natural)
            paths += [match for match in matches if match.is_file()]
            if not matches:
                problems.append(f"{name}: no file matches")
        else:
            problems.append(f"{path}: no such input file")
    return paths, problems, notes


def open_corpus(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where its name ends in .gz or .zst.

    Raises:
        OSError: If it can't be opened; reading raises `reading_errors` where it is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], io.BufferedReader(gzip.open(path), _BUFFER_BYTES))
    if suffix == ".zst":
        from backports import zstd  # deferred: most corpora do not need it

        # Unlike zstandard's readers this one goes on behind the first frame, and tells where a file is cut short.
        return cast(IO[bytes], io.BufferedReader(zstd.open(path), _BUFFER_BYTES))
    return path.open("rb", buffering=_BUFFER_BYTES)


def reading_errors() -> tuple[type[Exception], ...]:
    """Return what the libraries in use raise for damaged files; one that is not loaded has raised nothing."""
    named = (("backports.zstd", "ZstdError"), ("pyarrow.lib", "ArrowException"))
    loaded = (getattr(sys.modules[module], name) for module, name in named if module in sys.modules)
    return OSError, EOFError, zlib.error, *loaded


def text_suffix(path: Path) -> str:
    """Return the suffix in lower case, below that of a compression if there is one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSION_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_known(path: Path) -> bool:
    """Tell whether a file's name is of a kind that can be read."""
    return text_suffix(path) in JSON_SUFFIXES + TEXT_SUFFIXES or path.suffix.lower() == PARQUET_SUFFIX


def _visible_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which shard-2 comes before shard-10; the text itself breaks ties such as 1 and 01."""
    parts = re.split(r"([0-9]+)", str(path))
    return [*((int(part), "") if part.isdecimal() else (-1, part) for part in parts), (-1, str(path))]
