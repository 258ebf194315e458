"""The ways that benchmarks/bake.py compares, each a process of its own: start-up counts.

python -m benchmarks.bake_ways pool CORPUS TOKENIZER PREFIX
"""

import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

NUM_WORKERS = 2
BATCH_DOCUMENTS = 2048


class _Encoder:
    """What Megatron's preprocessing runs in each worker: one document a task through its Hugging Face class."""

    tokenizer: ClassVar[Any]

    def __init__(self, tokenizer_path: str) -> None:
        self._path = tokenizer_path

    def initializer(self) -> None:
        from megatron.core.tokenizers.text.libraries.huggingface_tokenizer import HuggingFaceTokenizer

        _Encoder.tokenizer = HuggingFaceTokenizer(self._path, use_fast=True)

    def encode(self, line: str) -> tuple[list[int], int]:
        ids: list[int] = _Encoder.tokenizer.text_to_ids(json.loads(line)["text"])
        return [*ids, _Encoder.tokenizer.eod], len(line)


def pool(corpus: Path, tokenizer_path: Path, prefix: Path) -> None:
    """Tokenize as Megatron's tools/preprocess_data.py does."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    encoder = _Encoder(str(tokenizer_path))
    encoder.initializer()
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(_Encoder.tokenizer.vocab_size))
    with corpus.open(encoding="utf-8") as stream, multiprocessing.Pool(NUM_WORKERS, encoder.initializer) as workers:
        for ids, _ in workers.imap(encoder.encode, stream, 32):
            builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def giga_plain(corpus: Path, tokenizer_path: Path, prefix: Path) -> None:
    """Read JSON, encode streamed batches with all of gigatoken's threads, and write the ids: nothing else."""
    import gigatoken
    import numpy as np

    from megatron_prealign.dataset.indexed import IndexedWriter

    tokenizer = gigatoken.Tokenizer(str(tokenizer_path / "tokenizer.json"))
    with corpus.open("rb") as stream, IndexedWriter(f"{prefix}.bin", f"{prefix}.idx", np.uint16) as writer:
        while texts := [json.loads(line)["text"] for line in itertools.islice(stream, BATCH_DOCUMENTS)]:
            layout = tokenizer.encode_batch(texts, parallel=True).layout
            ids, lengths = np.asarray(layout.content.data), np.diff(np.asarray(layout.offsets))
            writer.add_documents(ids, lengths, np.ones(len(lengths), dtype=np.int64))
        writer.close()


def giga_file(corpus: Path, tokenizer_path: Path, prefix: Path) -> None:
    """Let gigatoken itself read the whole file into memory and encode it, and write the ids; no Python a document."""
    import gigatoken
    import numpy as np

    from megatron_prealign.dataset.indexed import IndexedWriter

    tokenizer = gigatoken.Tokenizer(str(tokenizer_path / "tokenizer.json"))
    layout = tokenizer.encode_files(gigatoken.JsonlFileSource([corpus], "text")).layout
    ids, lengths = np.asarray(layout.content.data), np.diff(np.asarray(layout.offsets))
    with IndexedWriter(f"{prefix}.bin", f"{prefix}.idx", np.uint16) as writer:
        writer.add_documents(ids, lengths, np.ones(len(lengths), dtype=np.int64))
        writer.close()


def megatron_fast(corpus: Path, tokenizer_path: Path, prefix: Path) -> None:
    """Encode the file with gigatoken and add all documents at once to megatron-core's builder.

    The builders of megatron-core 0.16 and 0.19 take one document a call; what is done to the builder here is what a
    newer `add_documents` does, in whole arrays.
    """
    import gigatoken
    import numpy as np
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    tokenizer = gigatoken.Tokenizer(str(tokenizer_path / "tokenizer.json"))
    layout = tokenizer.encode_files(gigatoken.JsonlFileSource([corpus], "text")).layout
    lengths = np.diff(np.asarray(layout.offsets))
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    builder.data_file.write(np.asarray(layout.content.data).astype(np.uint16).data)
    builder.sequence_lengths.extend(lengths.tolist())
    builder.document_indices.extend(range(1, len(lengths) + 1))
    builder.finalize(f"{prefix}.idx")


def main(arguments: Sequence[str]) -> None:
    """Run one way."""
    way, *paths = arguments
    ways = {"pool": pool, "giga_plain": giga_plain, "giga_file": giga_file, "megatron_fast": megatron_fast}
    ways[way](*map(Path, paths))


if __name__ == "__main__":
    main(sys.argv[1:])
