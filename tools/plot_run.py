"""Plot training runs: one HTML page with the curves of a run folder, or of several side by side.

python tools/plot_run.py runs/own/align_init --output runs/own/align_init.html

Reads metrics.jsonl and config.yaml of each folder. The page is self-contained: losses (also by language and at switched
positions), word retrieval at every tap, learning rate, norms, speed and memory.
"""

import argparse
import sys
from collections.abc import Sequence

from megatron_prealign.command_line import path_argument, tool
from megatron_prealign.errors import DataError, PrealignError
from megatron_prealign.files import atomic_text_file, output_problems


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=path_argument, metavar="RUN", help="folder of a run (training.run_path)"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="HTML file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")
    options = parser.parse_args(argv)
    _plot(options)
    print(f"wrote {options.output}", file=sys.stderr)
    return 0


def _plot(options: argparse.Namespace) -> None:
    from megatron_prealign.reports.run_page import read_runs, render_runs

    problems = output_problems(options.output, options.overwrite)
    try:
        runs = read_runs(options.runs)
    except PrealignError as error:
        problems += error.problems
    if problems:
        raise DataError(problems)
    with atomic_text_file(options.output, options.overwrite) as stream:
        stream.write(render_runs(runs))


if __name__ == "__main__":
    raise SystemExit(main())
