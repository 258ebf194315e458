"""Whether an encoder's memory stays flat over distinct text: random words, which no cache has seen.

    python -m benchmarks.encoder_memory --tokenizer-model TOKENIZER --megabytes 2000
    python -m benchmarks.encoder_memory --tokenizer-model TOKENIZER --megabytes 500 --never-renew

Prints the resident memory of the process after every tenth of the text. The last line is one JSON object: megabytes
after the second tenth and at the end, and the largest.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from megatron_prealign.text import backends
from megatron_prealign.text.backends import make_encoder
from megatron_prealign.text.encoders import limit_threads
from megatron_prealign.text.tokenizer import load_tokenizer

_BATCH = 1 << 20
_PARTS = 10


def distinct_texts(num_bytes: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of a mebibyte of random letters with a space after about every seventh."""
    draw = np.random.default_rng(seed)
    for _ in range(0, num_bytes, _BATCH):
        letters = draw.integers(ord("a"), ord("z") + 1, _BATCH, dtype=np.uint8)
        letters[draw.random(_BATCH) < 1 / 8] = ord(" ")
        yield letters.tobytes().decode("ascii")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer-model", type=Path, required=True, help="tokenizer that gigatoken supports")
    parser.add_argument("--megabytes", type=int, default=2000, help="text to encode")
    parser.add_argument("--backend", choices=("gigatoken", "reference"), default="gigatoken", help="who encodes")
    parser.add_argument("--never-renew", action="store_true", help="keep gigatoken's cache, to see it grow")
    arguments = parser.parse_args(argv)
    limit_threads(1)
    if arguments.never_renew:
        backends._CHARACTERS_OF_A_CACHE = sys.maxsize
    encoder = make_encoder(load_tokenizer(arguments.tokenizer_model), arguments.backend, is_parallel=False)
    process = psutil.Process()
    num_bytes = arguments.megabytes * 1_000_000
    sizes: list[float] = []
    done, peak, started = 0, 0.0, time.perf_counter()
    for text in distinct_texts(num_bytes):
        encoder.encode([text])
        done += len(text)
        size = process.memory_info().rss / 1e6
        peak = max(peak, size)
        if done * _PARTS >= num_bytes * (len(sizes) + 1):
            sizes.append(size)
            seconds = time.perf_counter() - started
            print(f"{done / 1e6:8.0f} MB of text {size:8.0f} MB {done / 1e6 / seconds:6.1f} MB/s", flush=True)
    print(json.dumps({"early": round(sizes[1]), "end": round(sizes[-1]), "peak": round(peak)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
