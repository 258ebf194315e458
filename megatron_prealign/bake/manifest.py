"""What the manifest of a bake says, whether a dataset is what a bake would give, and how one takes its name."""

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
    """Return the manifest of a bake that has ended.

    Args:
        options: What was asked for.
        tokenizer: Whose ids the dataset holds.
        job: Settings and pieces.
        written: The files by suffix.
        counts: What they hold.
        started: Seconds since the epoch.
    """
    files = {suffix: asdict(file) for suffix, file in written.items()}
    content = _description(tokenizer, job.settings) | {"files": files, "counts": counts}
    return Manifest(content, _provenance(options, job, started))


def finished_manifest(prefix: Path, tokenizer: Tokenizer, settings: JobSettings, pieces: Sequence[Piece]) -> Manifest:
    """Return the manifest of a dataset that is what a bake would give: a job that was put back may have ended before.

    Raises:
        DataError: If it is of another input or other settings, or was damaged as far as `check_manifest` sees.
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
            f"{prefix}: already there, and made with other settings ({', '.join(changed)} changed); choose another "
            "--output-prefix or pass --overwrite"
        )
    return manifest


@contextmanager
def staging(prefix: Path) -> Iterator[Path]:
    """Hand out a prefix in a temporary folder beside the final one, so that a rename stays in one file system."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        yield Path(folder, prefix.name)


def publish(staged: Path, prefix: Path, manifest: Manifest) -> None:
    """Give the files their final names; at every moment a manifest that exists describes what lies beside it."""
    manifest_path(staged).write_text(manifest.to_json(), encoding="utf-8")
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
