"""The manifest of a baked dataset: its identity (`content`, hashed) and origin (`provenance`)."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_prealign.errors import DataError

FORMAT_VERSION = 1
DATA_SUFFIXES = (".bin", ".idx", ".switch.bin", ".switch.idx")
"""Suffixes of a dataset's files; the last two only if something was switched."""


class _Relied(BaseModel):
    """The required part; a bake writes more."""

    model_config = ConfigDict(extra="allow", strict=True)


class _File(_Relied):
    size: int
    sha256: str


class _Content(_Relied):
    format_version: int
    files: dict[str, _File]
    tokenizer_fingerprint: str
    vocab_size: int
    lexicon_fingerprint: str | None
    seed: int
    counts: dict[str, int | dict[str, int]]


class _Whole(_Relied):
    content: _Content
    content_hash: str
    provenance: dict[str, Any] = {}


@dataclass(frozen=True)
class Manifest:
    """The identity of one baked dataset."""

    content: dict[str, Any]
    """Everything that determines its bytes, and their hashes; equal for any number of workers."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Sources, versions, command and times; not hashed."""

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `content`."""
        canonical = json.dumps(self.content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    @property
    def has_switches(self) -> bool:
        """Whether there are switch records."""
        return ".switch.idx" in self.content["files"]

    def to_json(self) -> str:
        """Return the text of the file."""
        whole = {"content": self.content, "content_hash": self.content_hash, "provenance": self.provenance}
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def manifest_path(prefix: str | Path) -> Path:
    """Return the path of a dataset's manifest."""
    return Path(f"{prefix}.json")


def existing_files(prefix: str | Path) -> list[Path]:
    """Return the existing files of a dataset."""
    paths = [*(Path(f"{prefix}{suffix}") for suffix in DATA_SUFFIXES), manifest_path(prefix)]
    return [path for path in paths if path.exists()]


def read_manifest(prefix: str | Path) -> Manifest:
    """Read the manifest of the dataset at a prefix and compare its content with its own hash.

    Raises:
        DataError: If it is missing, malformed, of another format version, or was edited.
    """
    path = manifest_path(prefix)
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        suffix = next((suffix for suffix in (*reversed(DATA_SUFFIXES), ".json") if str(prefix).endswith(suffix)), "")
        fix = f"leave out {suffix}" if suffix else "bake the dataset with tools/preprocess_codeswitch.py"
        raise DataError(f"{path}: no such manifest; {fix}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a manifest ({error}); bake the dataset again") from None
    content = whole.get("content") if isinstance(whole, dict) else None
    format_version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(format_version, int) and format_version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {format_version}, but this version reads {FORMAT_VERSION}; bake it again"
        )
    try:
        _Whole.model_validate(whole)
        manifest = Manifest(whole["content"], whole.get("provenance", {}))
        is_sound = whole["content_hash"] == manifest.content_hash
        if {*manifest.content["files"]} not in ({*DATA_SUFFIXES[:2]}, {*DATA_SUFFIXES}):
            raise DataError(f"{path}: it lists {', '.join(manifest.content['files']) or 'no files'}; bake it again")
    except (ValidationError, RecursionError, UnicodeError):
        raise DataError(f"{path}: not the manifest of a baked dataset; bake the dataset again") from None
    if not is_sound:
        raise DataError(
            f"{path}: its content does not match its own hash: it was edited or damaged; bake the dataset again"
        )
    return manifest


def check_manifest(prefix: str | Path, *, with_hashes: bool = True) -> list[str]:
    """Return what is wrong with a dataset according to sizes and the hashes of `.idx` files; fast.

    `megatron_prealign.bake.verify` checks everything. The `.idx` files may be gigabytes: `with_hashes` reads them.
    """
    try:
        files: dict[str, dict[str, Any]] = read_manifest(prefix).content["files"]
    except DataError as error:
        return error.problems
    problems = []
    for suffix in DATA_SUFFIXES:
        path = Path(f"{prefix}{suffix}")
        if suffix not in files:
            if path.exists():
                problems.append(f"{path}: not in the manifest: it is left over from another bake; delete it")
        elif not path.is_file():
            problems.append(f"{path}: missing, but in the manifest; bake it again")
        elif path.stat().st_size != files[suffix]["size"]:
            problems.append(f"{path}: {path.stat().st_size} bytes, but the manifest says {files[suffix]['size']}")
        elif with_hashes and suffix.endswith(".idx") and file_hash(path) != files[suffix]["sha256"]:
            problems.append(f"{path}: its content does not match the hash in the manifest")
    return problems


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
