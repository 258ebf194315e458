"""Merge of several baked datasets into one, in order, after checks that they match."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from megatron_prealign import __version__
from megatron_prealign.bake.manifest import publish, staging
from megatron_prealign.bake.verify import verify
from megatron_prealign.dataset.indexed import IndexedReader, IndexedWriter, WrittenFile
from megatron_prealign.dataset.manifest import Manifest, existing_files, read_manifest
from megatron_prealign.errors import DataError

# What must be equal for token ids, labels and ends of documents to mean the same.
_SHARED = ("tokenizer_fingerprint", "vocab_size", "dtype", "bos_id", "eod_id")
# What must be equal if words were switched: records name entries of a lexicon.
_OF_LEXICON = ("lexicon_fingerprint", "lexicon_entries")


def merge_datasets(
    prefixes: Sequence[str | Path], output: Path, overwrite: bool = False, command: str = ""
) -> Manifest:
    """Append datasets to one another and return the manifest of the whole.

    Args:
        prefixes: Paths without `.bin`, in the order of the result; each is verified first.
        output: Path of the result without `.bin`.
        overwrite: Replace an existing result.
        command: The command line, for the provenance.

    Raises:
        DataError: Every reason why they can't be merged, before anything is written: damage; another tokenizer, type,
            begin- or end-of-document token or lexicon; an output that exists or is one of the inputs.
    """
    problems = _output_problems(prefixes, output, overwrite)
    for prefix in prefixes:
        problems += verify(prefix)
    if problems:
        raise DataError(problems)
    manifests = [read_manifest(prefix) for prefix in prefixes]
    if problems := _difference_problems(prefixes, [manifest.content for manifest in manifests]):
        raise DataError(problems)
    with staging(output) as staged:
        files = _write(prefixes, manifests, staged)
        manifest = Manifest(_content(manifests, files), _provenance(prefixes, command))
        publish(staged, output, manifest)
    return manifest


def _output_problems(prefixes: Sequence[str | Path], output: Path, overwrite: bool) -> list[str]:
    problems = []
    if len(prefixes) < 2:
        problems.append(f"{len(prefixes)} datasets given; give at least two to merge")
    if output.resolve() in {Path(prefix).resolve() for prefix in prefixes}:
        problems.append(f"{output}: is one of the merged datasets; choose another output")
    elif not overwrite:
        existing = existing_files(output)
        problems += [f"{path}: already exists; choose another output or pass --overwrite" for path in existing]
    return problems


def _difference_problems(prefixes: Sequence[str | Path], contents: Sequence[dict[str, Any]]) -> list[str]:
    """Return what differs but must be equal, compared with the first dataset that has it."""
    problems = []
    for names, has in ((_SHARED, lambda content: True), (_OF_LEXICON, lambda content: content["lexicon_fingerprint"])):
        concerned = [(prefix, content) for prefix, content in zip(prefixes, contents, strict=True) if has(content)]
        for prefix, content in concerned[1:]:
            first_prefix, first = concerned[0]
            problems += [
                f"{prefix}: its {name.replace('_', ' ')} is {content.get(name)}, but that of {first_prefix} is "
                f"{first.get(name)}; bake both with the same one"
                for name in names
                if content.get(name) != first.get(name)
            ]
    return problems


def _write(prefixes: Sequence[str | Path], manifests: Sequence[Manifest], staged: Path) -> dict[str, WrittenFile]:
    dtype = np.dtype(manifests[0].content["dtype"])
    with IndexedWriter(f"{staged}.bin", f"{staged}.idx", dtype) as tokens:
        for prefix in prefixes:
            tokens.append(prefix)
        files = dict(zip((".bin", ".idx"), tokens.close(), strict=True))
    if not any(manifest.has_switches for manifest in manifests):
        return files
    with IndexedWriter(f"{staged}.switch.bin", f"{staged}.switch.idx", np.int32) as switches:
        for prefix, manifest in zip(prefixes, manifests, strict=True):
            if manifest.has_switches:
                switches.append(f"{prefix}.switch")
            else:
                reader = IndexedReader(prefix)
                nothing = np.zeros(len(reader), dtype=np.int32)
                switches.add_documents(np.zeros(0, dtype=np.int32), nothing, np.diff(reader.document_ends))
        return files | dict(zip((".switch.bin", ".switch.idx"), switches.close(), strict=True))


def _content(manifests: Sequence[Manifest], files: dict[str, WrittenFile]) -> dict[str, Any]:
    contents = [manifest.content for manifest in manifests]
    with_lexicon = next((content for content in contents if content["lexicon_fingerprint"]), contents[0])
    names = dict.fromkeys(name for content in contents for name in content)
    # Null where the parts differ: each part's value is in its own manifest.
    same = {
        name: contents[0].get(name) if all(content.get(name) == contents[0].get(name) for content in contents) else None
        for name in names
    }
    return {
        **same,
        **{name: with_lexicon.get(name) for name in _OF_LEXICON},
        "files": {suffix: asdict(written) for suffix, written in files.items()},
        "counts": _sum_counts([content["counts"] for content in contents]),
        "merged_from": [manifest.content_hash for manifest in manifests],
    }


def _sum_counts(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add counts up, including those by language."""
    total: dict[str, Any] = {}
    for part in counts:
        for name, value in part.items():
            if isinstance(value, dict):
                total[name] = _sum_counts([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


def _provenance(prefixes: Sequence[str | Path], command: str) -> dict[str, Any]:
    return {
        "merged": [str(prefix) for prefix in prefixes],
        "command": command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"megatron-prealign": __version__},
    }
