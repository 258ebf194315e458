"""Baked datasets: by hand, with megatron-core's own builder, switch records and a manifest; and small real bakes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_prealign.bake.bake import bake
from megatron_prealign.bake.options import BakeOptions
from megatron_prealign.dataset.manifest import DATA_SUFFIXES, FORMAT_VERSION, Manifest, file_hash, manifest_path

Documents = Sequence[tuple[np.ndarray, np.ndarray]]
"""Tokens [T] and switch records [n, 4] of each document."""


def random_documents(
    rng: np.random.Generator, num_documents: int, vocab_size: int, longest: int, switch_ratio: float = 0.3
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw documents of 1 to `longest` random tokens with switches of 1 to 4 tokens, some of them adjacent."""
    documents = []
    for _ in range(num_documents):
        tokens = rng.integers(0, vocab_size, rng.integers(1, longest + 1))
        records = []
        position = 0
        while position < len(tokens):
            length = int(min(rng.integers(1, 5), len(tokens) - position))
            if rng.random() < switch_ratio:
                records.append((position, length, int(rng.integers(0, vocab_size)), int(rng.integers(0, 100))))
            position += length
        documents.append((tokens, np.array(records, dtype=np.int32).reshape(-1, 4)))
    return documents


def write_baked(prefix: Path, documents: Documents, vocab_size: int, fingerprint: str = "f" * 64) -> str:
    """Write .bin/.idx, .switch.bin/.idx and the manifest; return the prefix."""
    for suffix in DATA_SUFFIXES:
        Path(f"{prefix}{suffix}").unlink(missing_ok=True)
    _write(f"{prefix}", [tokens for tokens, _ in documents], np.uint16)
    if any(len(records) for _, records in documents):
        _write(f"{prefix}.switch", [records.reshape(-1) for _, records in documents], np.int32)
    paths = {suffix: Path(f"{prefix}{suffix}") for suffix in DATA_SUFFIXES}
    content = {
        "format_version": FORMAT_VERSION,
        "files": {
            suffix: {"sha256": file_hash(path), "size": path.stat().st_size}
            for suffix, path in paths.items()
            if path.exists()
        },
        "tokenizer_fingerprint": fingerprint,
        "vocab_size": vocab_size,
        "lexicon_fingerprint": None,
        "seed": 0,
        "counts": {},
    }
    manifest_path(prefix).write_text(Manifest(content).to_json(), encoding="utf-8")
    return str(prefix)


def _write(prefix: str, sequences: Sequence[np.ndarray], dtype: type) -> None:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequence in sequences:
        builder.add_document(sequence, [len(sequence)])
    builder.finalize(f"{prefix}.idx")


def bake_switched(folder: Path, tokenizer: Path, texts: Sequence[str]) -> Path:
    """Bake texts into a new folder, every covered word switched; return the dataset's path without `.bin`."""
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    (folder / "lexicon.tsv").write_text("the\tdie\tde\nbank\t银行\tzh\nis\tist\tde\n", encoding="utf-8")
    options = BakeOptions(
        input_paths=(folder / "corpus.jsonl",),
        tokenizer_path=tokenizer,
        output_prefix=folder / "en",
        lexicon_paths=(folder / "lexicon.tsv",),
        codeswitch_ratio=1.0,
        append_eod=True,
    )
    bake(options, show_progress=False)
    return options.dataset_prefix
