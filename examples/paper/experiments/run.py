"""Run experiments as a grid of cells and report on them; what is finished is kept and reused.

python examples/paper/experiments/run.py main_table.yaml --dry-run
python examples/paper/experiments/run.py main_table.yaml ablations.yaml --seeds 3 --jobs 2
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_prealign.command_line import tool
from megatron_prealign.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from examples.paper.experiments.cells import Cell, Result, is_finished, make_cells, read_results
from examples.paper.experiments.chain import Place
from examples.paper.experiments.grid import Grid, show_cells
from examples.paper.experiments.report import write_reports
from examples.paper.experiments.slurm import write_chain
from examples.paper.experiments.specs import read_experiments, read_scale
from examples.steps import (
    Runner,
    absolute_path,
    count_cores,
    example_parser,
    repository_path,
    run_example,
    side_by_side_environment,
)

PAGES = Path("examples/paper/pages")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = example_parser(__doc__, "runs/experiments")
    parser.add_argument("experiments", nargs="+", type=Path, help="YAML files, as paths or by their names")
    parser.add_argument("--scale", default="small", help="a name in scales/, or a YAML file")
    parser.add_argument("--seeds", type=_count, default=3, help="number of seeds: 1, 2, ...")
    parser.add_argument("--first-seed", type=_count, default=1, help="the first of them")
    parser.add_argument("--jobs", type=_count, default=count_cores(), help="cells that run at once, on one machine")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where cells run")
    parser.add_argument("--results", type=repository_path, default=PAGES / "cells", help="files of finished cells")
    parser.add_argument("--report", type=repository_path, default=PAGES, help="folder of the pages")
    parser.add_argument("--no-report", action="store_true", help="write no pages")
    parser.add_argument("--packages", type=absolute_path, help="folder of packages that are downloaded already")
    parser.add_argument("--dry-run", action="store_true", help="list the cells with their state and time, and stop")
    parser.add_argument("--report-only", action="store_true", help="write the pages of the finished cells, and stop")
    parser.add_argument("--only-data", action="store_true", help="make the data, and stop")
    parser.add_argument("--only-cell", metavar="CELL", help="run one cell")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="option of sbatch; repeatable")
    parser.add_argument("--no-submit", action="store_true", help="write the chain of Slurm jobs without submitting it")
    arguments = parser.parse_args(argv)
    arguments.experiments = [path.resolve() if path.is_file() else path for path in arguments.experiments]
    if Path(arguments.scale).is_file():
        arguments.scale = str(Path(arguments.scale).resolve())
    return arguments


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = parse_arguments(argv)
    environment = side_by_side_environment(arguments.jobs) | {"TOKENIZERS_PARALLELISM": "false"}
    return run_example(arguments, lambda runner: run(arguments, runner), environment, shows_output=False)


def run(arguments: argparse.Namespace, runner: Runner) -> int:
    """Do what the command line asks for.

    Raises:
        PrealignError: wrong experiments, or damaged files of cells.
        StepError: data could not be made.
    """
    if arguments.packages and not arguments.packages.is_dir():
        raise DataError(f"--packages {arguments.packages}: no such folder")
    scale = read_scale(arguments.scale)
    experiments = read_experiments(arguments.experiments, scale)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cells = make_cells(experiments, scale, seeds)
    results = read_results(arguments.results, cells)
    names = " ".join(f"{experiment.name}.yaml" for experiment in experiments)
    command = f"python examples/paper/experiments/run.py {names} --scale {scale.name} --seeds {arguments.seeds}"
    command += f" --first-seed {arguments.first_seed}" if arguments.first_seed > 1 else ""
    place = Place(arguments.output, arguments.results, arguments.packages, command)
    chosen = [cell for cell in cells if arguments.only_cell in (None, cell.key)]
    if not chosen:
        raise DataError(f"there is no cell {arguments.only_cell} in these experiments; --dry-run lists them")
    grid = Grid(chosen, results, place, runner)

    def report(found: Mapping[str, Result]) -> None:
        write_reports(arguments.report, arguments.results, experiments, cells, found)

    if arguments.dry_run:
        show_cells(cells, results, arguments.jobs, runner.console)
    elif arguments.report_only:
        report(results)
    elif arguments.only_data:
        grid.make_data(chosen)
    elif arguments.launcher == "slurm":
        return submit(arguments, [cell for cell in chosen if not is_finished(cell, results)], runner)
    elif arguments.no_report:
        grid.run(arguments.jobs)
    else:
        # After every cell, so that a grid that is stopped leaves pages of what it has.
        grid.run(arguments.jobs, report)
        report(grid.results)
        runner.console.print(f"Pages: {arguments.report / 'README.md'}", highlight=False)
    for key, reason in grid.failed.items():
        print(f"error: cell {key}: {reason}", file=sys.stderr)
    return 1 if grid.failed else 0


def submit(arguments: argparse.Namespace, cells: list[Cell], runner: Runner) -> int:
    """Write a chain of Slurm jobs, and submit it."""
    if not cells:
        runner.console.print("All cells are finished.")
        return 0
    command: list[str] = ["examples/paper/experiments/run.py", *map(str, arguments.experiments)]
    for name in ("scale", "seeds", "first_seed", "output", "results", "packages"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    chain = write_chain(cells, arguments.output, command, arguments.jobs, arguments.sbatch)
    runner.console.print(f"Wrote {chain} for {len(cells)} cells; report with --report-only.", highlight=False)
    return 0 if arguments.no_submit else subprocess.run([sys.executable, "tools/submit.py", chain]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
