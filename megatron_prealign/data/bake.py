"""The bake: corpus + tokenizer + lexicon → an indexed dataset with switch records and a manifest.

The data files and the manifest's content are a function of the input and the options alone, whatever the number of
workers. Nothing appears under a final name before everything is written; the manifest comes last.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from megatron_prealign import __version__
from megatron_prealign.data.bake_batch import BakedBatch, BatchSettings, bake_batches
from megatron_prealign.data.codeswitch import SwitchCounts
from megatron_prealign.data.documents import input_problems, read_batches
from megatron_prealign.data.indexed import IndexedWriter, WrittenFile, optimal_dtype
from megatron_prealign.data.manifest import DATA_SUFFIXES, FORMAT_VERSION, Manifest, manifest_path
from megatron_prealign.data.progress import BakeProgress
from megatron_prealign.data.switch_table import SwitchTable, compile_lexicon
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.output import sync

_RECORD_INTS = 4


@dataclass(frozen=True, kw_only=True)
class BakeOptions:
    """What to bake."""

    input_paths: tuple[Path, ...]
    """Corpus files, in order: JSON lines, or text with a document on each line; also with .gz."""
    tokenizer_path: Path
    """tokenizer.json, a folder with one, or a SentencePiece .model."""
    output_prefix: Path
    """The dataset's files are <output_prefix>_<json_key>_document.*"""
    json_key: str = "text"
    """Key of the text in JSON lines."""
    lexicon_paths: tuple[Path, ...] = ()
    """Dictionaries; merged."""
    source_language: str = "en"
    """Language of the corpus and of the dictionaries' source words."""
    target_language: str | None = None
    """Language of translations in dictionaries that do not name it."""
    codeswitch_ratio: float = 0.0
    """Probability of a word that the lexicon covers to be switched, in [0, 1]."""
    case_transfer: bool = True
    """Also match Capitalised and CAPITALS words and give their translations that form."""
    seed: int = 1
    """Seed of all draws."""
    append_eod: bool = False
    """End every document that is not empty with the tokenizer's end-of-document token."""
    num_workers: int = 1
    """Processes; 1 for none besides this one."""
    overwrite: bool = False
    """Replace an existing dataset."""
    command: str = ""
    """The command line, for the manifest's provenance."""

    @property
    def dataset_prefix(self) -> Path:
        """Path of the dataset without `.bin`."""
        return Path(f"{self.output_prefix}_{self.json_key}_document")


@dataclass(frozen=True)
class _Materials:
    """What was loaded while the options were checked."""

    tokenizer: Tokenizer
    lexicon: Lexicon | None
    table: SwitchTable


def bake(options: BakeOptions, show_progress: bool = True) -> Manifest:
    """Bake a dataset and return its manifest.

    Raises:
        DataError: Every problem of the options at once, before anything is written; or a bad line of the corpus, a
            corpus without text, a dead worker: then nothing is left under the final names.
    """
    started = time.time()
    materials = _prepare(options)
    prefix = options.dataset_prefix
    prefix.parent.mkdir(parents=True, exist_ok=True)
    # Beside the outputs, so that a rename stays within one file system.
    with TemporaryDirectory(prefix=f".{prefix.name}.", dir=prefix.parent) as folder:
        staged = Path(folder, prefix.name)
        files, counts = _write(options, materials, staged, show_progress)
        manifest = Manifest(_content(options, materials, files, counts), _provenance(options, started))
        _publish(staged, prefix, manifest)
    return manifest


def _prepare(options: BakeOptions) -> _Materials:
    problems = [*input_problems(options.input_paths), *_option_problems(options)]
    tokenizer = lexicon = None
    with _collected(problems):
        tokenizer = load_tokenizer(options.tokenizer_path)
    if tokenizer and options.append_eod and tokenizer.eod_id is None:
        problems.append(
            f"{tokenizer.path}: the tokenizer has no end-of-document token to append; name it as eos_token in a "
            "tokenizer_config.json beside it, or leave out --append-eod"
        )
    if options.lexicon_paths:
        with _collected(problems):
            lexicon = read_lexicon(options.lexicon_paths, options.source_language, options.target_language)
    if problems or tokenizer is None:
        raise DataError(problems)
    table = compile_lexicon(lexicon or Lexicon(options.source_language, ()), tokenizer, options.case_transfer)
    if options.codeswitch_ratio > 0 and not table.num_entries:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in table.skipped.items() if count)
        raise DataError(f"{_join(options.lexicon_paths)}: no entry can be used with this tokenizer ({reasons})")
    return _Materials(tokenizer, lexicon, table)


def _option_problems(options: BakeOptions) -> list[str]:
    problems = []
    if not 0.0 <= options.codeswitch_ratio <= 1.0:
        problems.append(f"--codeswitch-ratio {options.codeswitch_ratio}: must lie in [0, 1]")
    if options.codeswitch_ratio > 0 and not options.lexicon_paths:
        problems.append(f"--codeswitch-ratio {options.codeswitch_ratio} needs a --lexicon; give one, or the ratio 0")
    if not options.json_key or "/" in options.json_key:
        problems.append(f"--json-key {options.json_key!r}: becomes part of file names, so it can't be empty or hold /")
    if options.num_workers < 1:
        problems.append(f"--workers {options.num_workers}: must be at least 1")
    prefix = options.dataset_prefix
    existing = [path for path in _final_paths(prefix) if path.exists()]
    if existing and not options.overwrite:
        problems.append(f"{_join(existing)}: already there; choose another --output-prefix or pass --overwrite")
    parent = next(parent for parent in prefix.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        problems.append(f"{prefix.parent}: can't be written to")
    return problems


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except PrealignError as error:
        problems += error.problems


def _write(
    options: BakeOptions, materials: _Materials, staged: Path, show_progress: bool
) -> tuple[dict[str, WrittenFile], dict[str, Any]]:
    """Write the data files under a temporary prefix; return what they are and what they hold."""
    tokenizer = materials.tokenizer
    settings = BatchSettings(
        tokenizer_path=tokenizer.path,
        json_key=options.json_key,
        table=materials.table,
        ratio=options.codeswitch_ratio,
        seed=options.seed,
        append_eod=options.append_eod,
    )
    counts = SwitchCounts()
    dtype = optimal_dtype(tokenizer.vocab_size)
    total = sum(path.stat().st_size for path in options.input_paths)
    paths = {suffix: Path(f"{staged}{suffix}") for suffix in DATA_SUFFIXES}
    with (
        IndexedWriter(paths[".bin"], paths[".idx"], dtype, tokenizer.vocab_size - 1) as tokens,
        IndexedWriter(paths[".switch.bin"], paths[".switch.idx"], np.int32) as switches,
        BakeProgress(total, show=show_progress) as progress,
    ):
        batches = read_batches(options.input_paths)
        for batch in bake_batches(batches, settings, tokenizer, options.num_workers):
            _append(batch, tokens, switches)
            counts.add(batch.counts)
            progress.update(batch.consumed, tokens.num_documents, tokens.num_tokens)
        if not tokens.num_tokens:
            held = f"{tokens.num_documents} documents, all empty" if tokens.num_documents else "no document"
            raise DataError(f"{_join(options.input_paths)}: holds {held}; there is nothing to bake")
        files = dict(zip((".bin", ".idx"), tokens.close(), strict=True))
        if counts.switched:
            files |= dict(zip((".switch.bin", ".switch.idx"), switches.close(), strict=True))
        sizes = {"documents": tokens.num_documents, "sequences": tokens.num_sequences, "tokens": tokens.num_tokens}
    return files, sizes | asdict(counts)


def _append(batch: BakedBatch, tokens: IndexedWriter, switches: IndexedWriter) -> None:
    tokens.add_documents(batch.tokens, batch.sequence_lengths, batch.sequences_per_document)
    lengths = batch.record_counts * _RECORD_INTS
    switches.add_documents(batch.records.reshape(-1), lengths, batch.sequences_per_document)


def _content(
    options: BakeOptions, materials: _Materials, files: dict[str, WrittenFile], counts: dict[str, Any]
) -> dict[str, Any]:
    tokenizer, lexicon = materials.tokenizer, materials.lexicon
    return {
        "format_version": FORMAT_VERSION,
        "files": {suffix: asdict(written) for suffix, written in files.items()},
        "dtype": optimal_dtype(tokenizer.vocab_size).name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id if options.append_eod else None,
        "lexicon_fingerprint": lexicon.fingerprint if lexicon else None,
        "lexicon_entries": len(lexicon) if lexicon else 0,
        "codeswitch_ratio": options.codeswitch_ratio,
        "case_transfer": options.case_transfer,
        "seed": options.seed,
        "counts": counts,
    }


def _provenance(options: BakeOptions, started: float) -> dict[str, Any]:
    return {
        "sources": [{"path": str(path), "size": path.stat().st_size} for path in options.input_paths],
        "json_key": options.json_key,
        "tokenizer": str(options.tokenizer_path),
        "lexicons": [str(path) for path in options.lexicon_paths],
        "source_language": options.source_language,
        "command": options.command,
        "workers": options.num_workers,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 3),
        "versions": {"megatron-prealign": __version__}
        | {name: _version(name) for name in ("numpy", "tokenizers", "sentencepiece")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _publish(staged: Path, prefix: Path, manifest: Manifest) -> None:
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


def _final_paths(prefix: Path) -> list[Path]:
    return [*(Path(f"{prefix}{suffix}") for suffix in DATA_SUFFIXES), manifest_path(prefix)]


def _join(paths: tuple[Path, ...] | list[Path]) -> str:
    return ", ".join(map(str, paths))
