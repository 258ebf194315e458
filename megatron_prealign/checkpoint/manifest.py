"""Write and check the manifest of a checkpoint: SHA-256 and size of every file, and its own hash.

It detects damage, not tampering: whoever can write a checkpoint can write its manifest.
"""

import json
import os
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatron_prealign.dataset.manifest import Manifest, file_hash
from megatron_prealign.errors import CheckpointError
from megatron_prealign.files import sync

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
# Configuration and counters: every rank hashes files up to this size, and a share of the larger ones.
_SMALL_BYTES = 1 << 16
_SHARD_SUFFIX = ".distcp"
_NUM_THREADS = min(8, os.cpu_count() or 1)

Entry = dict[str, Any]
"""sha256 (hex) and size (bytes) of a file."""


def seal_files(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Sync files to disk and return hash and size of each; hashing overlaps with writing."""
    paths = {name: folder / name for name in names}
    with ThreadPoolExecutor(2 * _NUM_THREADS) as pool:
        synced = pool.map(sync, paths.values())
        hashes = pool.map(file_hash, paths.values())
        entries = {
            name: {"sha256": sha256, "size": path.stat().st_size}
            for (name, path), sha256 in zip(paths.items(), hashes, strict=True)
        }
        list(synced)
    return entries


def write_manifest(checkpoint: Path, known: Mapping[str, Entry]) -> None:
    """Write the manifest of an otherwise complete checkpoint, and sync everything to disk.

    Args:
        checkpoint: folder of the checkpoint.
        known: entries of files that are already synced, possibly by other hosts.

    Raises:
        CheckpointError: a file of `known` is not visible on this host.
    """
    lost = [name for name, entry in known.items() if _size(checkpoint / name) != entry["size"]]
    if lost:
        raise CheckpointError(
            f"{checkpoint}: {', '.join(sorted(lost))} not visible on host {socket.gethostname()}; "
            "training.run_path must be on a disk that all hosts share"
        )
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.name != MANIFEST]
    names = [path.relative_to(checkpoint).as_posix() for path in paths if path.is_file()]
    files = {**known, **seal_files(checkpoint, [name for name in names if name not in known])}
    content = {"format_version": FORMAT_VERSION, "files": dict(sorted(files.items()))}
    provenance = {"host": socket.gethostname(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
    (checkpoint / MANIFEST).write_text(Manifest(content, provenance).to_json(), encoding="utf-8")
    for path in (checkpoint / MANIFEST, *(path for path in paths if path.is_dir()), checkpoint):
        sync(path)


def read_manifest(checkpoint: Path) -> dict[str, Entry]:
    """Return the entries of a checkpoint's manifest by file name.

    Raises:
        CheckpointError: the manifest is missing, malformed, of another version, or its hash differs.
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
            f"{path}: missing, so the checkpoint may be incomplete; to use it unchecked, pass --checkpoint.verify false"
        ) from None
    except (OSError, ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not the manifest of a checkpoint ({error!r}); use another checkpoint") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, but this version of the program reads {FORMAT_VERSION}; "
            "install the version that wrote it"
        )
    if whole.get("content_hash") != Manifest(content).content_hash:
        raise CheckpointError(f"{path}: its content does not match its own hash; it was edited or damaged")
    return entries


def quick_problems(checkpoint: Path, *, with_shards: bool = True) -> list[str]:
    """Return problems of the manifest, all sizes and the hashes of small files; shards only if asked for."""
    try:
        expected = read_manifest(checkpoint)
    except CheckpointError as error:
        return error.problems
    problems = []
    for name, file in expected.items():
        if name.endswith(_SHARD_SUFFIX) and not with_shards:
            continue
        size = _size(checkpoint / name)
        if size is None:
            problems.append(f"{checkpoint / name}: missing")
        elif size != file["size"]:
            problems.append(f"{checkpoint / name}: {size} bytes, but the manifest says {file['size']}")
        elif size <= _SMALL_BYTES and (problem := _hash_problem(checkpoint / name, file["sha256"])) is not None:
            problems.append(problem)
    return problems


def hash_problems(checkpoint: Path, share: int = 0, num_shares: int = 1) -> list[str]:
    """Return the problems of the hashes of one share of a checkpoint's files, which are read completely."""
    try:
        expected = read_manifest(checkpoint)
    except CheckpointError as error:
        return error.problems
    # Sorted by size to make the shares even.
    names = sorted(expected, key=lambda name: (-expected[name]["size"], name))[share::num_shares]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda name: _hash_problem(checkpoint / name, expected[name]["sha256"]), names)
        return [problem for problem in found if problem is not None]


def all_problems(checkpoint: Path) -> list[str]:
    """Return all problems of a checkpoint; compares hashes only if all sizes are right."""
    return quick_problems(checkpoint) or hash_problems(checkpoint)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _hash_problem(path: Path, expected: str) -> str | None:
    try:
        found = file_hash(path)
    except OSError as error:
        return f"{path}: can't be read ({error.strerror})"
    return None if found == expected else f"{path}: its content does not match the hash in the manifest"
