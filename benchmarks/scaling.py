"""How the parts grow: seconds, memory and bytes at several sizes, and what one more of each costs.

    python -m benchmarks.scaling                      # all parts without the bake; twenty minutes
    python -m benchmarks.scaling index lexicon        # some of them
    python -m benchmarks.scaling bake --folder data-samples   # after benchmarks/samples.py and benchmarks/bake.py

Every size runs in a process of its own. Seconds are CPU seconds of one thread, so other work on the machine hardly
changes them; memory is the rise of the resident size from before the part to its height. Words are random letters,
documents have random lengths. docs/scaling.md takes its numbers from here.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
Numbers = dict[str, float]
_LETTERS = np.frombuffer(b"etaoinshrdlucmfwyp", dtype=np.uint8)
_LANGUAGES = ("de", "fr", "es", "it", "nl", "sv", "da", "fi")
_WORD = 11  # letters: no two of a million are equal
_MEAN_DOCUMENT = 1000
_SAMPLE = 4096


class _Meter:
    """CPU seconds and the rise of memory since it was made."""

    def __init__(self) -> None:
        self._seconds, self._peak = time.process_time(), _peak_bytes()

    def read(self) -> Numbers:
        """Return both."""
        return {"seconds": time.process_time() - self._seconds, "memory": _peak_bytes() - self._peak}


def _peak_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def index(num_documents: int) -> Numbers:
    """Order the samples of one epoch: samples of 4,096 tokens from documents of 1,000 on average."""
    from megatron_prealign.dataset.samples import order_samples

    lengths = np.random.default_rng(0).integers(1, 2 * _MEAN_DOCUMENT, num_documents, dtype=np.int32)
    documents = [np.arange(num_documents, dtype=np.int32)]
    meter = _Meter()
    arrays = order_samples(lengths, documents, np.array([lengths.sum(dtype=np.int64)]), _SAMPLE, seed=1)
    return {**meter.read(), "bytes": sum(array.nbytes for array in arrays)}


def mix(num_samples: int, num_datasets: int) -> Numbers:
    """Deal the samples of a run out to datasets."""
    from megatron_prealign.dataset.mix import deal_out

    meter = _Meter()
    arrays = deal_out([1 / num_datasets] * num_datasets, num_samples)
    return {**meter.read(), "bytes": sum(array.nbytes for array in arrays)}


def merge(megabytes: int) -> Numbers:
    """Append a shard to a dataset, as the end of a bake does with all of them."""
    from megatron_prealign.dataset.indexed import IndexedWriter

    lengths = np.full(megabytes * 500, _MEAN_DOCUMENT)
    with tempfile.TemporaryDirectory() as folder:
        with IndexedWriter(f"{folder}/shard.bin", f"{folder}/shard.idx", np.uint16) as shard:
            for part in np.array_split(lengths, max(megabytes // 64, 1)):
                shard.add_documents(np.ones(int(part.sum()), dtype=np.uint16), part, np.ones_like(part))
            shard.close()
        meter = _Meter()
        with IndexedWriter(f"{folder}/data.bin", f"{folder}/data.idx", np.uint16) as whole:
            whole.append(f"{folder}/shard")
            whole.close()
        return {**meter.read(), "bytes of .idx": Path(folder, "data.idx").stat().st_size}


def _lexicon(num_entries: int, num_languages: int) -> Any:
    from megatron_prealign.lexicon import Lexicon
    from megatron_prealign.lexicon.lexicon import LexiconEntry, Translation

    letters = np.random.default_rng(0).choice(_LETTERS, (num_entries, 1 + num_languages, _WORD))
    texts = letters.view(f"S{_WORD}")[..., 0].astype(f"U{_WORD}").tolist()
    entries = (
        LexiconEntry(word, tuple(map(Translation, others, _LANGUAGES[:num_languages]))) for word, *others in texts
    )
    return Lexicon("en", tuple(entries))


def lexicon(num_entries: int, num_languages: int) -> Numbers:
    """Compile a lexicon for the code-switch."""
    from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
    from megatron_prealign.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    table = _lexicon(num_entries, num_languages)
    meter = _Meter()
    compile_lexicon(table, tokenizer)
    return meter.read()


def words(num_entries: int, num_languages: int) -> Numbers:
    """Lay a lexicon out as items to align, and make a microbatch of 1,024 entries."""
    from megatron_prealign.pairs.words import WordBatches, WordTable
    from megatron_prealign.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    source = _lexicon(num_entries, num_languages)
    meter = _Meter()
    table = WordTable.build(source, tokenizer, 16)
    found = meter.read()
    batches = WordBatches(table, 1, 1024, row_length=256)
    batches.batch(0)
    meter = _Meter()
    for number in range(1, 11):
        batches.batch(number, rank=0, size=64)
    return {**found, "milliseconds of a microbatch": meter.read()["seconds"] * 100}


def loss(num_items: int, num_ranks: int) -> Numbers:
    """Compute the contrastive loss of one rank and tap, with the vectors of the others as given."""
    import torch

    from megatron_prealign.alignment.contrastive import ContrastiveTargets, contrastive_loss

    torch.set_num_threads(1)
    hidden, own = 1024, num_items // num_ranks
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(num_items, hidden, generator=generator), dim=1)
    groups = torch.arange(num_items) // 2
    targets = ContrastiveTargets.build(groups, torch.zeros((0, 2), dtype=torch.int64), 0, own)
    vectors = unit[:own].clone().requires_grad_()

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        return unit if tensor.dim() == 2 else torch.zeros(num_items)

    meter = _Meter()
    contrastive_loss(vectors, targets, 0.1, gather=gather).backward()  # type: ignore[no-untyped-call]
    return {**meter.read(), "bytes": 4.0 * num_items * (hidden + 1)}


def bake(megabytes: int, backend: str, folder: str) -> Numbers:
    """Bake with one worker; CPU seconds of all processes."""
    from benchmarks.bake import prepare, ways

    prepare(Path(folder), megabytes, None)
    command = ways(Path(folder))[backend]
    command[command.index("--workers") + 1] = "1"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        subprocess.run([*command, f"{output}/data"], check=True, capture_output=True)
        (manifest,) = Path(output).glob("*.json")
        content = json.loads(manifest.read_text(encoding="utf-8"))["content"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": seconds,
        "memory": 1024.0 * after.ru_maxrss,
        "tokens": content["counts"]["tokens"],
        "bytes": sum(file["size"] for file in content["files"].values()),
    }


PARTS: Mapping[str, tuple[Callable[..., Numbers], Sequence[tuple[Any, ...]]]] = {
    "index": (index, [(100_000,), (1_000_000,), (10_000_000,)]),
    "mix": (mix, [(1_000_000, 5), (2_000_000, 5), (1_000_000, 500), (2_000_000, 500)]),
    "lexicon": (lexicon, [(10_000, 1), (100_000, 1), (1_000_000, 1), (10_000, 8), (100_000, 8)]),
    "words": (words, [(10_000, 1), (100_000, 1), (1_000_000, 1), (10_000, 8), (100_000, 8)]),
    "loss": (loss, [(2048, 1), (8192, 1), (8192, 8), (32_768, 8), (32_768, 64)]),
    "merge": (merge, [(100,), (1_000,)]),
    "bake": (bake, [(20, "hf"), (60, "hf"), (20, "giga"), (60, "giga")]),
}
"""By name: what measures it, and its sizes: the first number is the one that grows."""


def measure(part: str, size: Sequence[Any]) -> Numbers:
    """Return the numbers of one size, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", part, "--size", *map(str, size)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    numbers: Numbers = json.loads(printed.splitlines()[-1])
    return numbers


def report(part: str, folder: str) -> None:
    """Print the numbers of a part's sizes, and what one more of what grows adds."""
    before: tuple[tuple[Any, ...], Numbers] | None = None
    for size in PARTS[part][1]:
        numbers = measure(part, (*size, folder) if part == "bake" else size)
        print(f"{part} {size}:", _shown(numbers), flush=True)
        if before is not None and before[0][1:] == size[1:] and before[0][0] < size[0]:
            slopes = {name: (value - before[1][name]) / (size[0] - before[0][0]) for name, value in numbers.items()}
            print("    one more:", _shown(slopes), flush=True)
        before = size, numbers


def _shown(numbers: Numbers) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all but the bake")
    parser.add_argument("--folder", default="data-samples", help="samples of the bake")
    parser.add_argument("--size", nargs="+", help="measure one size here and print its numbers as JSON")
    options = parser.parse_args(argv)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    if options.size is not None:
        (part,) = options.parts
        print(json.dumps(PARTS[part][0](*(int(value) if value.isdigit() else value for value in options.size))))
        return 0
    for part in options.parts or [name for name in PARTS if name != "bake"]:
        report(part, options.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
