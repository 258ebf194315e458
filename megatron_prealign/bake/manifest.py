"""What the manifest of a bake says, and whether a dataset is what a bake would give."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_prealign import __version__
from megatron_prealign.bake.inputs import Piece
from megatron_prealign.bake.job import Job, JobSettings
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.dataset.indexed import WrittenFile, optimal_dtype
from megatron_prealign.dataset.manifest import FORMAT_VERSION, Manifest, check_manifest, read_manifest
from megatron_prealign.errors import DataError
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
