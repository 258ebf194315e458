"""How fast the bake is, against Megatron's own preprocessing and against gigatoken alone.

    python -m benchmarks.bake                     # all of it; half an hour on two cores
    python -m benchmarks.bake --repetitions 1 --megabytes 50
    python -m benchmarks.bake --ways giga giga_plain megatron_fast

The text is real, in 24 languages (benchmarks/samples.py), repeated up to the size asked for; the lexicon has 100,000
entries of FreeDict's English-German, the ratio is 0.05. Every way runs in processes of its own on two cores, in
turns, from the first import to the last byte; medians are compared. The last line is one JSON object.

`pool` is Megatron's way (benchmarks/bake_ways.py); `giga_plain` reads the lines as we do and encodes them with
gigatoken in batches; `giga_file` leaves the reading to gigatoken too, which then holds corpus and ids in memory, and
`megatron_fast` gives its ids to megatron-core's builder. `own` and `own_plain` are `giga` and `giga_plain` with a
tokenizer of tools/train_tokenizer.py. All but `pool` and `hf` also run on a corpus four times as large: what each more
megabyte takes has no start-up in it.

Of the ratios, `marginal_vs_giga_plain` and `own_tokenizer_vs_giga_plain` are seconds for each more megabyte over those
of gigatoken in batches with the same tokenizer; `vs_megatron_fast` is seconds of the whole bake over those of
`megatron_fast`, on the first corpus. The others are speeds: as many times as fast.
"""

import argparse
import itertools
import json
import os
import shutil
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
LARGER = 4
VOCAB_SIZE = 32_000
_BATCH_DOCUMENTS = 500
_ON_ONE_SIZE = ("pool", "hf")


def prepare(folder: Path, megabytes: int, lexicon_path: Path | None) -> None:
    """Make corpus.jsonl, english.jsonl, lexicon.tsv, tok/ and own-tok/ in a folder, out of the samples beside it."""
    text = folder / "text"
    if not text.is_dir():
        samples.fetch(text)
    lines = [line for path in sorted(text.glob("*.jsonl")) for line in path.read_bytes().splitlines(keepends=True)]
    _write_corpus(folder / "corpus.jsonl", lines, megabytes)
    (folder / "english.jsonl").write_bytes((text / "en-us.jsonl").read_bytes())
    if not (folder / "tok").is_dir():
        _train_tokenizer(folder / "tok", (json.loads(line)["text"] for line in lines[::4]))
    if not (folder / "own-tok").is_dir():
        command = [sys.executable, "tools/train_tokenizer.py", "--vocab-size", str(VOCAB_SIZE)]
        command += [part for path in sorted(text.glob("*.jsonl")) for part in ("--input", f"{path.stem}={path}")]
        subprocess.run([*command, "--output", str(folder / "own-tok")], check=True, stdout=subprocess.DEVNULL)
    if not (folder / "lexicon.tsv").exists():
        whole = read_lexicon([lexicon_path or text / "freedict-eng-deu.index"], "en", "de")
        words = [entry for entry in whole.entries if entry.word.isalpha()]
        others = [entry for entry in whole.entries if not entry.word.isalpha()]
        Lexicon("en", tuple([*words, *others][:NUM_ENTRIES])).write_tsv(folder / "lexicon.tsv")


def _write_corpus(path: Path, lines: Sequence[bytes], megabytes: int) -> None:
    size = 0
    with path.open("wb") as stream:
        for line in itertools.cycle(lines):
            if size >= megabytes * 1_000_000:
                break
            size += stream.write(line)


def _train_tokenizer(folder: Path, texts: Iterator[str]) -> None:
    """Train a 32k byte-level BPE with GPT-2's pre-tokenizer, which gigatoken knows."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def ways(folder: Path, corpus_name: str = "corpus.jsonl") -> dict[str, list[str]]:
    """Return the command of each way up to its output prefix."""
    corpus, tokenizer, own = str(folder / corpus_name), str(folder / "tok"), str(folder / "own-tok")
    plain = [sys.executable, "-m", "benchmarks.bake_ways"]
    bake = [sys.executable, "tools/preprocess_codeswitch.py", "--input", corpus, "--append-eod", "--workers", "2"]
    bake += ["--lexicon", str(folder / "lexicon.tsv"), "--target-language", "de"]
    bake += ["--codeswitch-ratio", str(RATIO), "--overwrite"]
    return {
        "pool": [*plain, "pool", corpus, tokenizer],
        "hf": [*bake, "--tokenizer-model", tokenizer, "--backend", "reference", "--output-prefix"],
        "giga": [*bake, "--tokenizer-model", tokenizer, "--backend", "gigatoken", "--output-prefix"],
        "giga_plain": [*plain, "giga_plain", corpus, tokenizer],
        "giga_file": [*plain, "giga_file", corpus, tokenizer],
        "megatron_fast": [*plain, "megatron_fast", corpus, tokenizer],
        "own": [*bake, "--tokenizer-model", own, "--backend", "gigatoken", "--output-prefix"],
        "own_plain": [*plain, "giga_plain", corpus, own],
    }


def time_ways(folder: Path, repetitions: int, chosen: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median seconds of each way on the corpus, and of most on the larger one; they take turns."""
    commands = {(name, False): command for name, command in ways(folder).items() if name in chosen}
    larger = ways(folder, "larger.jsonl").items()
    commands |= {(name, True): command for name, command in larger if name in chosen and name not in _ON_ONE_SIZE}
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in commands}
    # Modules compiled once stay so, as for everyone; some containers switch that off.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repetitions):
        for (name, is_larger), command in commands.items():
            with tempfile.TemporaryDirectory(dir=folder) as output:
                started = time.perf_counter()
                subprocess.run([*command, f"{output}/data"], check=True, capture_output=True, env=environment)
                seconds[name, is_larger].append(time.perf_counter() - started)
            size = f" on {LARGER} times the text" if is_larger else ""
            print(f"{name:>14} {seconds[name, is_larger][-1]:7.1f} s{size}", flush=True)
    medians: dict[bool, dict[str, float]] = {False: {}, True: {}}
    for (name, is_larger), values in seconds.items():
        medians[is_larger][name] = median(values)
    return medians[False], medians[True]


def ratios(seconds: dict[str, float], larger: dict[str, float]) -> dict[str, float]:
    """Return the ratios of the ways that ran; the docstring of this module says which is over which."""
    marginal = {name: larger[name] - seconds[name] for name in larger}
    over = {
        "hf_vs_pool": (seconds, "pool", "hf"),
        "giga_vs_pool": (seconds, "pool", "giga"),
        "giga_vs_giga_plain": (seconds, "giga_plain", "giga"),
        "giga_vs_giga_file": (seconds, "giga_file", "giga"),
        "vs_megatron_fast": (seconds, "giga", "megatron_fast"),
        "vs_megatron_fast_larger": (larger, "giga", "megatron_fast"),
        "marginal_vs_giga_plain": (marginal, "giga", "giga_plain"),
        "own_tokenizer_vs_giga_plain": (marginal, "own", "own_plain"),
    }
    return {
        name: values[upper] / values[lower]
        for name, (values, upper, lower) in over.items()
        if upper in values and lower in values
    }


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
    parser.add_argument("--ways", nargs="+", choices=list(ways(Path())), default=list(ways(Path())), help="which run")
    parser.add_argument("--folder", type=Path, default=Path("data-samples"), help="where samples and work go")
    parser.add_argument("--lexicon", type=Path, help="another dictionary than the samples'")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    prepare(arguments.folder, arguments.megabytes, arguments.lexicon)
    with (arguments.folder / "larger.jsonl").open("wb") as larger_corpus:
        for _ in range(LARGER):
            with (arguments.folder / "corpus.jsonl").open("rb") as corpus:
                shutil.copyfileobj(corpus, larger_corpus)
    seconds, larger = time_ways(arguments.folder, arguments.repetitions, arguments.ways)
    result = {
        **ratios(seconds, larger),
        "switch_mtokens_per_s": switch_speed(arguments.folder, arguments.repetitions),
        "bytes_vs_plain": bytes_ratio(arguments.folder),
        "seconds": seconds,
        "seconds_of_larger": larger,
        "megabytes": arguments.megabytes,
        "repetitions": arguments.repetitions,
        "versions": {name: version(name) for name in ("megatron-core", "tokenizers", "gigatoken", "numpy", "orjson")},
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
