"""The manifest of a bake: its content, the comparison with an existing dataset, and publishing."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megatron_prealign import __version__
from megatron_prealign.bake.job import Job, JobSettings
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.dataset.indexed import WrittenFile, optimal_dtype
from megatron_prealign.dataset.manifest import (
    DATA_SUFFIXES,
    FORMAT_VERSION,
    Manifest,
    check_manifest,
    manifest_path,
    read_manifest,
)
from megatron_prealign.errors import DataError
from megatron_prealign.files import sync
from megatron_prealign.text.files import Piece
from megatron_prealign.text.tokenizer import Tokenizer


def make_manifest(
    options: BakeOptions,
    tokenizer: Tokenizer,
    job: Job,
    written: dict[str, WrittenFile],
    counts: dict[str, Any],
    started: float,
) -> Manifest:
    """Return the manifest of a bake that started at `started`, in seconds since the epoch, and wrote these files."""
    files = {suffix: asdict(file) for suffix, file in written.items()}
    content = _description(tokenizer, job.settings) | {"files": files, "counts": counts}
    return Manifest(content, _provenance(options, job, started))


def finished_manifest(prefix: Path, tokenizer: Tokenizer, settings: JobSettings, pieces: Sequence[Piece]) -> Manifest:
    """Return the manifest of an existing dataset that equals what a bake would give, such as that of a requeued job.

    Raises:
        DataError: If it has another input or other settings, or `check_manifest` finds damage.
    """
    if problems := check_manifest(prefix):
        raise DataError([*problems, "pass --overwrite to bake it again"])
    manifest = read_manifest(prefix)
    expected = json.loads(json.dumps(_description(tokenizer, settings)))
    changed = [name for name, value in expected.items() if manifest.content.get(name) != value]
    if manifest.provenance.get("sources") != _sources(pieces):
        changed.append("the input files")
    if changed:
        raise DataError(
            f"{prefix}: already exists, baked with other settings ({', '.join(changed)} changed); choose another "
            "--output-prefix or pass --overwrite"
        )
    return manifest


@contextmanager
def staging(prefix: Path) -> Iterator[Path]:
    """Yield a prefix in a temporary folder next to the final one, so that renames stay in one file system."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        yield Path(folder, prefix.name)


def publish(staged: Path, prefix: Path, manifest: Manifest) -> None:
    """Give the files their final names; at every moment an existing manifest describes the files next to it."""
    manifest_path(staged).write_text(manifest.to_json(), encoding="utf-8", errors="backslashreplace")
    sync(manifest_path(staged))
    manifest_path(prefix).unlink(missing_ok=True)
    for suffix in DATA_SUFFIXES:
        if suffix in manifest.content["files"]:
            os.replace(f"{staged}{suffix}", f"{prefix}{suffix}")
        else:
            Path(f"{prefix}{suffix}").unlink(missing_ok=True)
    sync(prefix.parent)
    os.replace(manifest_path(staged), manifest_path(prefix))
    sync(prefix.parent)


def _description(tokenizer: Tokenizer, settings: JobSettings) -> dict[str, Any]:
    """Return the part of a manifest's content that is known before the bake."""
    return {
        "format_version": FORMAT_VERSION,
        "dtype": optimal_dtype(tokenizer.vocab_size).name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": settings.bos_id,
        "eod_id": settings.eod_id,
        "lexicon_fingerprint": settings.lexicon_fingerprint,
        "lexicon_entries": settings.lexicon_entries,
        "codeswitch_ratio": settings.ratio,
        **settings.table_options,
        "seed": settings.seed,
    }


def _sources(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    paths = dict.fromkeys(piece.path for piece in pieces)
    return [{"path": str(path), "size": path.stat().st_size} for path in paths]


def _provenance(options: BakeOptions, job: Job, started: float) -> dict[str, Any]:
    return {
        "sources": _sources(job.pieces),
        "json_key": options.json_key,
        "tokenizer": str(options.tokenizer_path),
        "backend": job.settings.backend,
        "lexicons": [str(path) for path in options.lexicon_paths],
        "source_language": options.source_language,
        "command": options.command,
        "executor": options.executor,
        "workers": options.num_workers,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "versions": {"megatron-prealign": __version__}
        | {name: _version(name) for name in ("numpy", "tokenizers", "sentencepiece", "gigatoken")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
