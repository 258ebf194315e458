"""The manifest of a checkpoint: SHA-256 and size of every file, itself hashed; and what it proves.

It tells damage, not origin: who can write a checkpoint can write its manifest.
"""

import json
import os
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_prealign.data.manifest import Manifest, file_hash
from megatron_prealign.errors import CheckpointError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_NUM_THREADS = min(8, os.cpu_count() or 1)

Entry = dict[str, Any]
"""sha256 (hex) and size (bytes) of a file."""


def describe_files(checkpoint: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Return hash and size of files of a checkpoint, by name; in threads, for hashing frees the interpreter."""
    names = list(names)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        hashes = list(pool.map(lambda name: file_hash(checkpoint / name), names))
    return {
        name: {"sha256": sha256, "size": (checkpoint / name).stat().st_size}
        for name, sha256 in zip(names, hashes, strict=True)
    }


def file_names(checkpoint: Path) -> list[str]:
    """Return the names of a checkpoint's files relative to it, sorted; the manifest is none of them."""
    paths = (path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.as_posix() != MANIFEST)


def write_manifest(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint that is whole but for it."""
    content = {"format_version": FORMAT_VERSION, "files": describe_files(checkpoint, file_names(checkpoint))}
    provenance = {"host": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    (checkpoint / MANIFEST).write_text(Manifest(content, provenance).to_json(), encoding="utf-8")


def read_manifest(checkpoint: Path) -> dict[str, Entry]:
    """Return the files that a checkpoint's manifest names.

    Raises:
        CheckpointError: It is missing, malformed, of another version, or does not have the hash that it names.
    """
    path = checkpoint / MANIFEST
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        content = whole["content"]
        version, files = content["format_version"], content["files"]
        entries = {
            str(name): {"sha256": str(file["sha256"]), "size": int(file["size"])} for name, file in files.items()
        }
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing, so nothing shows that the checkpoint is whole; to trust it as it is, pass "
            "--checkpoint.verify false"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the manifest of a checkpoint ({error!r})") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}")
    if whole.get("content_hash") != Manifest(content).content_hash:
        raise CheckpointError(f"{path}: its content does not have the hash that it names")
    return entries


def all_problems(checkpoint: Path) -> list[str]:
    """Return what is wrong with a checkpoint; hashes are looked at only where all sizes are right."""
    try:
        expected = read_manifest(checkpoint)
    except CheckpointError as error:
        return error.problems
    problems = []
    for name, file in expected.items():
        path = checkpoint / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif (size := path.stat().st_size) != file["size"]:
            problems.append(f"{path}: {size} bytes, the manifest says {file['size']}")
    if problems:
        return problems
    try:
        found = describe_files(checkpoint, expected)
    except OSError as error:
        return [f"{error.filename}: can't be read ({error.strerror})"]
    return [
        f"{checkpoint / name}: its content does not have the hash that the manifest names"
        for name, file in found.items()
        if file["sha256"] != expected[name]["sha256"]
    ]
