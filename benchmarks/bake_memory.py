"""How much memory a bake takes at its height, all its processes together, and how that grows with the corpus.

    python -m benchmarks.bake_memory                  # 50 MB against 500 MB, both backends; ten minutes on two cores
    python -m benchmarks.bake_memory --megabytes 50 1000 --backends gigatoken

Corpus, tokenizer, lexicon of 100,000 entries and options are those of benchmarks/bake.py. Every 20 ms the
proportional set sizes of the whole process tree are added up: a page that several processes share counts once. A height
of a few milliseconds is easily missed, so the largest of several runs counts. The last line is one JSON object, in
megabytes; `growth` is the largest corpus's height over the smallest's, less one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.bake import prepare, ways

_WAYS = {"reference": "hf", "gigatoken": "giga"}
_SECONDS_BETWEEN_SAMPLES = 0.02


def peak_memory(command: Sequence[str]) -> float:
    """Run a command and return the largest sum of the proportional set sizes of its process tree, in megabytes."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        root = psutil.Process(running.pid)
        while running.poll() is None:
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
                    continue
            peak = max(peak, total)
            time.sleep(_SECONDS_BETWEEN_SAMPLES)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return peak / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 500], help="sizes of the corpus")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each; the largest height counts")
    parser.add_argument("--backends", nargs="+", choices=list(_WAYS), default=list(_WAYS), help="who encodes")
    parser.add_argument("--folder", type=Path, default=Path("data-samples"), help="where samples and work go")
    parser.add_argument("--lexicon", type=Path, help="another dictionary than the samples'")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(exist_ok=True)
    peaks: dict[str, dict[int, float]] = {backend: {} for backend in arguments.backends}
    for megabytes in sorted(arguments.megabytes):
        prepare(arguments.folder, megabytes, arguments.lexicon)
        for backend in arguments.backends:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as output:
                command = [*ways(arguments.folder)[_WAYS[backend]], f"{output}/data"]
                peaks[backend][megabytes] = max(peak_memory(command) for _ in range(arguments.repetitions))
            print(f"{backend:>10} {megabytes:6} MB of text {peaks[backend][megabytes]:8.1f} MB", flush=True)
    growth = {backend: sizes[max(sizes)] / sizes[min(sizes)] - 1 for backend, sizes in peaks.items()}
    print(json.dumps({"peak_megabytes": peaks, "growth": growth}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
