"""The bake: corpus + tokenizer + lexicon → an indexed dataset with switch records and a manifest.

The input is cut into pieces, each piece is baked to a shard in a work folder, and the shards are appended in the order
of the input. The data files and the manifest's content are a function of the input and the options alone, whatever the
workers, executors and interruptions. Nothing appears under a final name before everything is written; the manifest
comes last.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from megatron_prealign import __version__
from megatron_prealign.data.bake_options import BakeOptions, option_problems, table_options
from megatron_prealign.data.codeswitch import SwitchCounts
from megatron_prealign.data.compile_lexicon import TableOptions, compile_lexicon
from megatron_prealign.data.documents import read_texts
from megatron_prealign.data.encode_piece import EncodingSettings
from megatron_prealign.data.encoders import Backend, make_encoder, probe_gigatoken
from megatron_prealign.data.encoding import probe_of
from megatron_prealign.data.executors import LocalWorkers
from megatron_prealign.data.indexed import IndexedWriter, WrittenFile, optimal_dtype
from megatron_prealign.data.inputs import Piece, cut_into_pieces, expand_inputs
from megatron_prealign.data.job import Job, JobSettings
from megatron_prealign.data.manifest import DATA_SUFFIXES, FORMAT_VERSION, Manifest
from megatron_prealign.data.progress import BakeProgress
from megatron_prealign.data.publish import publish
from megatron_prealign.data.sentences import SentenceSplitter
from megatron_prealign.data.switch_table import SwitchTable
from megatron_prealign.data.tokenizer import Tokenizer, load_tokenizer
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.lexicon.reading import UNREADABLE, read_bytes

_PROBE_BYTES = 200_000
_PROBED_PIECES = 20
_PROBED_WORDS = 2000


@dataclass(frozen=True)
class _Materials:
    """What was loaded while the options were checked."""

    pieces: list[Piece]
    tokenizer: Tokenizer
    table_options: TableOptions
    encoding: EncodingSettings


def bake(
    options: BakeOptions, show_progress: bool = True, log: Callable[[str], None] = lambda message: None
) -> Manifest:
    """Bake a dataset and return its manifest.

    Args:
        options: What to bake.
        show_progress: Whether to show a bar on stderr.
        log: Takes lines about what was decided on the way.

    Raises:
        DataError: Every problem of the options at once, before anything is written; or a bad line of the corpus, a
            corpus without text, a dead worker: then nothing is under the final names, and what is finished waits in
            the work folder for `resume`.
    """
    started = time.time()
    materials = _prepare(options, log)
    num_workers = 1 if options.executor == "ray" else options.num_workers
    with LocalWorkers(num_workers, materials.encoding, materials.pieces, is_ahead=not options.resume) as workers:
        lexicon = _read_lexicon(options)
        table = _compile(options, materials, lexicon)
        options.dataset_prefix.parent.mkdir(parents=True, exist_ok=True)
        with _locked(options.work_folder):
            shutil.rmtree(_done_folder(options.work_folder), ignore_errors=True)
            job = _open_job(options, materials, lexicon, table)
            num_entries = len(lexicon)
            del lexicon, table  # hundreds of megabytes, which the job's folder now holds for the workers
            try:
                _run_tasks(options, job, workers, show_progress)
                return _finish(options, materials, num_entries, job, started)
            except BaseException as error:
                left = len(job.unfinished())
                if left == len(job.pieces) or (not left and isinstance(error, DataError)):
                    shutil.rmtree(job.folder)  # nothing to go on with
                else:
                    finished = f"{len(job.pieces) - left} of {len(job.pieces)} pieces are finished"
                    log(f"{finished}; --resume goes on from there")
                raise


def _prepare(options: BakeOptions, log: Callable[[str], None]) -> _Materials:
    paths, problems, notes = expand_inputs(options.input_paths, options.json_key)
    problems += option_problems(options)
    tokenizer = None
    with _collected(problems):
        tokenizer = load_tokenizer(options.tokenizer_path)
    if tokenizer:
        problems += _special_token_problems(options, tokenizer)
    if options.sentence_language:
        with _collected(problems):
            SentenceSplitter(options.sentence_language)
    with _collected(problems):
        how = table_options(options)
    if problems or tokenizer is None:
        with _collected(problems):
            _read_lexicon(options)
        raise DataError(problems)
    for note in notes:
        log(note)
    pieces = cut_into_pieces(paths)
    begins = options.bos == "always" or (options.bos == "auto" and tokenizer.adds_bos)
    encoding = EncodingSettings(
        tokenizer_path=str(tokenizer.path.absolute()),
        tokenizer_fingerprint=tokenizer.fingerprint,
        backend=_choose_backend(options, pieces, tokenizer, log),
        json_key=options.json_key,
        bos_id=tokenizer.bos_id if begins else None,
        eod_id=tokenizer.eod_id if options.append_eod else None,
        sentence_language=options.sentence_language,
    )
    return _Materials(pieces, tokenizer, how, encoding)


def _read_lexicon(options: BakeOptions) -> Lexicon:
    if not options.lexicon_paths:
        return Lexicon(options.source_language, ())
    lexicon = read_lexicon(options.lexicon_paths, options.source_language, options.target_language)
    unknown = sorted(options.language_weights.keys() - set(lexicon.languages))
    if unknown:
        raise DataError(
            f"--language-weights {', '.join(unknown)}: {_join(options.lexicon_paths)} has no translations into that "
            f"(there are {', '.join(lexicon.languages)})"
        )
    return lexicon


def _special_token_problems(options: BakeOptions, tokenizer: Tokenizer) -> list[str]:
    problems = []
    if options.append_eod and tokenizer.eod_id is None:
        problems.append(
            f"{tokenizer.path}: the tokenizer has no end-of-document token to append; name it as eos_token in a "
            "tokenizer_config.json beside it, or leave out --append-eod"
        )
    if options.bos == "always" and tokenizer.bos_id is None:
        problems.append(
            f"{tokenizer.path}: the tokenizer has no begin-of-document token; name it as bos_token in a "
            "tokenizer_config.json beside it, or leave out --bos always"
        )
    return problems


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except PrealignError as error:
        problems += error.problems


@contextmanager
def _locked(work_folder: Path) -> Iterator[None]:
    """Keep another bake of this machine away from a work folder; the lock goes with its process."""
    with Path(f"{work_folder}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{work_folder}: another bake is writing here; wait for it or stop it") from None
        try:
            yield
        finally:
            Path(stream.name).unlink()


def _open_job(options: BakeOptions, materials: _Materials, lexicon: Lexicon, table: SwitchTable) -> Job:
    settings = JobSettings(
        **asdict(materials.encoding),
        lexicon_fingerprint=lexicon.fingerprint if options.lexicon_paths else None,
        ratio=options.codeswitch_ratio,
        seed=options.seed,
        table_options=materials.table_options.describe(),
        on_error=options.on_error,
    )
    return Job.create(
        options.work_folder,
        settings,
        materials.pieces,
        table,
        resume=options.resume,
        overwrite=options.overwrite,
    )


def _compile(options: BakeOptions, materials: _Materials, lexicon: Lexicon) -> SwitchTable:
    encoder = make_encoder(materials.tokenizer, materials.encoding.backend, is_parallel=False)
    table = compile_lexicon(lexicon, materials.tokenizer, materials.table_options, encoder)
    if options.codeswitch_ratio > 0 and not table.num_entries:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in table.skipped.items() if count)
        raise DataError(f"{_join(options.lexicon_paths)}: no entry can be used with this tokenizer ({reasons})")
    return table


def _choose_backend(
    options: BakeOptions,
    pieces: Sequence[Piece],
    tokenizer: Tokenizer,
    log: Callable[[str], None],
) -> Backend:
    if options.backend == "reference":
        return "reference"
    # Pieces from everywhere in the corpus: languages often come one after the other.
    step = max(1, len(pieces) // _PROBED_PIECES)
    probe = [
        text
        for piece in pieces[::step]
        for text in probe_of(
            (batch.texts for batch in read_texts(piece, options.json_key)), _PROBE_BYTES // _PROBED_PIECES
        )
    ]
    # All dictionaries together as much as the corpus: the reference library is slow, and there may be dozens.
    share = _PROBE_BYTES // max(1, len(options.lexicon_paths))
    reason = probe_gigatoken(tokenizer, [*probe, *(_beginning(path, share) for path in options.lexicon_paths)])
    if reason is None:
        log(f"gigatoken encodes: its ids equal the tokenizer's own on a probe of {len(probe)} documents")
        return "gigatoken"
    if options.backend == "gigatoken":
        raise DataError(f"--backend gigatoken: {reason}; leave it out, or choose reference")
    log(f"the tokenizer's own library encodes; gigatoken, some times as fast, can't: {reason}")
    return "reference"


def _beginning(path: Path, num_bytes: int) -> str:
    """Return some text of a dictionary, whatever its format; nothing where it can't be read."""
    try:
        return read_bytes(path)[:num_bytes].decode(errors="ignore")
    except UNREADABLE:
        return ""


def _run_tasks(options: BakeOptions, job: Job, workers: LocalWorkers, show_progress: bool) -> None:
    with BakeProgress(sum(piece.size for piece in job.pieces), show=show_progress) as progress:
        documents = tokens = consumed = 0

        def count(number: int) -> None:
            nonlocal documents, tokens, consumed
            mark = job.mark(number)
            documents, tokens = documents + mark["documents"], tokens + mark["tokens"]
            consumed += job.pieces[number].size
            progress.update(consumed, documents, tokens)

        if options.executor == "ray":
            from megatron_prealign.data.clusters import bake_on_ray  # deferred: datatrove and ray are optional

            bake_on_ray(job, options.num_workers, options.cluster)
        else:
            workers.bake(job, count)


def submit(options: BakeOptions, log: Callable[[str], None]) -> str:
    """Submit a bake to Slurm and return the id of the job that finishes it.

    Raises:
        DataError: Every problem of the options at once, before anything is written.
    """
    from megatron_prealign.data.clusters import submit_to_slurm

    materials = _prepare(options, log)
    lexicon = _read_lexicon(options)
    table = _compile(options, materials, lexicon)
    options.dataset_prefix.parent.mkdir(parents=True, exist_ok=True)
    job = _open_job(options, materials, lexicon, table)
    return submit_to_slurm(job, options.num_workers, options.cluster, Finish(options))


class Finish:
    """The last job of a bake on a cluster: it bakes what the tasks could not, and makes one dataset of the shards."""

    def __init__(self, options: BakeOptions) -> None:
        """Take what was asked for."""
        self._options = replace(options, executor="local", resume=True, overwrite=False, num_workers=1)

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Run; the arguments are datatrove's."""
        bake(self._options, show_progress=False, log=print)


def _finish(options: BakeOptions, materials: _Materials, num_entries: int, job: Job, started: float) -> Manifest:
    """Append the shards to one dataset, publish it, and remove the work folder."""
    prefix = options.dataset_prefix
    staged = job.folder / prefix.name
    files, counts, skipped = _merge(options, materials.tokenizer, job, staged)
    provenance = _provenance(options, materials, job, started) | {"skipped_examples": skipped}
    manifest = Manifest(_content(materials.tokenizer, num_entries, job.settings, files, counts), provenance)
    job.may_replace()
    publish(staged, prefix, manifest)
    # A folder that is half removed would look like a bake to go on with.
    os.replace(job.folder, _done_folder(job.folder))
    shutil.rmtree(_done_folder(job.folder))
    return manifest


def _done_folder(work_folder: Path) -> Path:
    return work_folder.with_name(f"{work_folder.name}-done")


def _merge(
    options: BakeOptions, tokenizer: Tokenizer, job: Job, staged: Path
) -> tuple[dict[str, WrittenFile], dict[str, Any], list[str]]:
    """Write the data files under a temporary prefix; return what they are, what they hold, and skipped lines."""
    counts = SwitchCounts()
    num_skipped = 0
    examples: list[str] = []
    paths = {suffix: Path(f"{staged}{suffix}") for suffix in DATA_SUFFIXES}
    with (
        IndexedWriter(
            paths[".bin"], paths[".idx"], optimal_dtype(tokenizer.vocab_size), tokenizer.vocab_size - 1
        ) as tokens,
        IndexedWriter(paths[".switch.bin"], paths[".switch.idx"], np.int32) as switches,
    ):
        for number in range(len(job.pieces)):
            mark = job.mark(number)
            tokens.append(job.shard_prefix(number))
            switches.append(f"{job.shard_prefix(number)}.switch")
            num_skipped += mark.pop("skipped")
            examples += mark.pop("examples")
            counts.add(SwitchCounts(**{name: mark[name] for name in asdict(counts)}))
        if not tokens.num_tokens:
            held = f"{tokens.num_documents} documents, all empty" if tokens.num_documents else "no document"
            raise DataError(f"{_join(options.input_paths)}: holds {held}; there is nothing to bake")
        files = dict(zip((".bin", ".idx"), tokens.close(), strict=True))
        if counts.switched:
            files |= dict(zip((".switch.bin", ".switch.idx"), switches.close(), strict=True))
        sizes = {"documents": tokens.num_documents, "sequences": tokens.num_sequences, "tokens": tokens.num_tokens}
    return files, sizes | {"skipped": num_skipped} | asdict(counts), examples[:20]


def _content(
    tokenizer: Tokenizer,
    num_entries: int,
    settings: JobSettings,
    files: dict[str, WrittenFile],
    counts: dict[str, Any],
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "files": {suffix: asdict(written) for suffix, written in files.items()},
        "dtype": optimal_dtype(tokenizer.vocab_size).name,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": settings.bos_id,
        "eod_id": settings.eod_id,
        "lexicon_fingerprint": settings.lexicon_fingerprint,
        "lexicon_entries": num_entries,
        "codeswitch_ratio": settings.ratio,
        **settings.table_options,
        "seed": settings.seed,
        "counts": counts,
    }


def _provenance(options: BakeOptions, materials: _Materials, job: Job, started: float) -> dict[str, Any]:
    sources = dict.fromkeys(piece.path for piece in materials.pieces)
    return {
        "sources": [{"path": str(path), "size": path.stat().st_size} for path in sources],
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


def _join(paths: tuple[Path, ...] | list[Path]) -> str:
    return ", ".join(map(str, paths))
