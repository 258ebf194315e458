"""How fast the bake is, against Megatron's own preprocessing and against gigatoken alone.

    python -m benchmarks.bake                     # all of it; half an hour on two cores
    python -m benchmarks.bake --repetitions 1 --megabytes 50

The text is real, in 24 languages (benchmarks/samples.py), repeated up to the size asked for; the lexicon has 100,000
entries of FreeDict's English-German, the ratio is 0.05. Every way runs in processes of its own on two cores, in
turns, from the first import to the last byte; medians are compared. The last line is one JSON object.

`pool` is Megatron's way (benchmarks/bake_ways.py); `giga_plain` reads the lines as we do and encodes them with
gigatoken in batches, and `giga_file` leaves the reading to gigatoken too, which then holds corpus and ids in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from benchmarks import samples
from megatron_prealign.bake.piece import encode_documents
from megatron_prealign.codeswitch.codeswitch import codeswitch
from megatron_prealign.codeswitch.compile_lexicon import compile_lexicon
from megatron_prealign.lexicon import Lexicon, read_lexicon
from megatron_prealign.text.backends import make_encoder
from megatron_prealign.text.tokenizer import load_tokenizer

NUM_ENTRIES = 100_000
RATIO = 0.05
_BATCH_DOCUMENTS = 500


def prepare(folder: Path, megabytes: int, lexicon_path: Path | None) -> None:
    """Make corpus.jsonl, english.jsonl, lexicon.tsv and tok/ in a folder, out of the samples beside it."""
    text = folder / "text"
    if not text.is_dir():
        samples.fetch(text)
    lines = [line for path in sorted(text.glob("*.jsonl")) for line in path.read_bytes().splitlines(keepends=True)]
    size = 0
    with (folder / "corpus.jsonl").open("wb") as stream:
        while size < megabytes * 1_000_000:
            for line in lines:
                size += stream.write(line)
                if size >= megabytes * 1_000_000:
                    break
    (folder / "english.jsonl").write_bytes((text / "en-us.jsonl").read_bytes())
    if not (folder / "tok").is_dir():
        _train_tokenizer(folder / "tok", (json.loads(line)["text"] for line in lines[::4]))
    if not (folder / "lexicon.tsv").exists():
        whole = read_lexicon([lexicon_path or text / "freedict-eng-deu.index"], "en", "de")
        words = [entry for entry in whole.entries if entry.word.isalpha()]
        others = [entry for entry in whole.entries if not entry.word.isalpha()]
        Lexicon("en", tuple([*words, *others][:NUM_ENTRIES])).write_tsv(folder / "lexicon.tsv")


def _train_tokenizer(folder: Path, texts: Iterator[str]) -> None:
    """Train a 32k byte-level BPE with GPT-2's pre-tokenizer, which gigatoken knows."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=32_000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def ways(folder: Path) -> dict[str, list[str]]:
    """Return the command of each way up to its output prefix."""
    corpus, tokenizer = str(folder / "corpus.jsonl"), str(folder / "tok")
    plain = [sys.executable, "-m", "benchmarks.bake_ways"]
    bake = [sys.executable, "tools/preprocess_codeswitch.py", "--input", corpus, "--tokenizer-model", tokenizer]
    bake += ["--append-eod", "--workers", "2", "--lexicon", str(folder / "lexicon.tsv"), "--target-language", "de"]
    bake += ["--codeswitch-ratio", str(RATIO), "--overwrite"]
    return {
        "pool": [*plain, "pool", corpus, tokenizer],
        "hf": [*bake, "--backend", "reference", "--output-prefix"],
        "giga": [*bake, "--backend", "gigatoken", "--output-prefix"],
        "giga_plain": [*plain, "giga_plain", corpus, tokenizer],
        "giga_file": [*plain, "giga_file", corpus, tokenizer],
    }


def time_ways(folder: Path, repetitions: int) -> dict[str, float]:
    """Return the median seconds of each way; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways(folder)}
    # Modules compiled once stay so, as for everyone; some containers switch that off.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repetitions):
        for name, command in ways(folder).items():
            with tempfile.TemporaryDirectory(dir=folder) as output:
                started = time.perf_counter()
                subprocess.run([*command, f"{output}/data"], check=True, capture_output=True, env=environment)
                seconds[name].append(time.perf_counter() - started)
            print(f"{name:>10} {seconds[name][-1]:7.1f} s", flush=True)
    return {name: median(values) for name, values in seconds.items()}


def switch_speed(folder: Path, repetitions: int) -> float:
    """Return the million tokens that the code-switch alone does in a second of one core."""
    tokenizer = load_tokenizer(folder / "tok")
    encoder = make_encoder(tokenizer, "gigatoken", is_parallel=True)
    table = compile_lexicon(read_lexicon([folder / "lexicon.tsv"], "en"), tokenizer, encoder=encoder)
    lines = (folder / "corpus.jsonl").read_bytes()[:50_000_000].splitlines()[:-1]
    texts = [json.loads(line)["text"] for line in lines]
    batches = []
    for start in range(0, len(texts), _BATCH_DOCUMENTS):
        encoded = encode_documents(texts[start : start + _BATCH_DOCUMENTS], encoder, eod_id=tokenizer.eod_id)
        batches.append((encoded.tokens, np.concatenate(([0], np.cumsum(encoded.sequence_lengths)))))
    num_tokens = sum(len(tokens) for tokens, _ in batches)
    speeds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        for tokens, offsets in batches:
            codeswitch(tokens, offsets, table, RATIO, seed=1)
        speeds.append(num_tokens / (time.perf_counter() - started) / 1e6)
    return median(speeds)


def bytes_ratio(folder: Path) -> float:
    """Return the bytes of a switched dataset of English text, records included, over those of the plain one."""
    sizes = []
    for ratio in ("0", str(RATIO)):
        with tempfile.TemporaryDirectory(dir=folder) as output:
            command = [*ways(folder)["giga"], f"{output}/data", "--codeswitch-ratio", ratio]
            command[command.index("--input") + 1] = str(folder / "english.jsonl")
            subprocess.run(command, check=True, capture_output=True)
            sizes.append(sum(path.stat().st_size for path in Path(output).glob("*.[bi][id][nx]")))
    return sizes[1] / sizes[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="runs of each way; the median counts")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the corpus")
    parser.add_argument("--folder", type=Path, default=Path("data-samples"), help="where samples and work go")
    parser.add_argument("--lexicon", type=Path, help="another dictionary than the samples'")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    prepare(arguments.folder, arguments.megabytes, arguments.lexicon)
    seconds = time_ways(arguments.folder, arguments.repetitions)
    result = {
        "hf_vs_pool": seconds["pool"] / seconds["hf"],
        "giga_vs_pool": seconds["pool"] / seconds["giga"],
        "giga_vs_giga_plain": seconds["giga_plain"] / seconds["giga"],
        "giga_vs_giga_file": seconds["giga_file"] / seconds["giga"],
        "switch_mtokens_per_s": switch_speed(arguments.folder, arguments.repetitions),
        "bytes_vs_plain": bytes_ratio(arguments.folder),
        "seconds": seconds,
        "megabytes": arguments.megabytes,
        "repetitions": arguments.repetitions,
        "versions": {name: version(name) for name in ("megatron-core", "tokenizers", "gigatoken", "numpy", "orjson")},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
