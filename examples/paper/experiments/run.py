"""Run experiments as a grid of cells and report on them; what is finished is kept and reused.

python examples/paper/experiments/run.py main_table.yaml --dry-run
python examples/paper/experiments/run.py main_table.yaml ablations.yaml --seeds 3 --jobs 2
"""

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from megatron_prealign.errors import DataError

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from examples.paper.experiments import slurm
from examples.paper.experiments.cells import Cell, Result, is_finished, make_cells, read_results
from examples.paper.experiments.chain import Place, data_steps, run_locked
from examples.paper.experiments.grid import Grid, show_cells
from examples.paper.experiments.report import write_reports
from examples.paper.experiments.specs import Experiment, read_experiments, read_scale
from examples.steps import MALLOC_ENVIRONMENT, REPOSITORY, Runner, count_cores, exit_code_of, from_repository


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Run experiments as a grid of cells, one a variant and seed, and report on them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("experiments", nargs="+", type=Path, help="YAML files, as paths or by their names")
    parser.add_argument("--scale", default="small", help="a name in scales/, or a YAML file")
    parser.add_argument("--seeds", type=_count, default=3, help="number of seeds: 1, 2, ...")
    parser.add_argument("--first-seed", type=_count, default=1, help="the first of them")
    parser.add_argument("--jobs", type=_count, default=count_cores(), help="cells that run at once, on one machine")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where cells run")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments"), help="data, runs, models and logs")
    parser.add_argument(
        "--results", type=Path, default=Path("examples/paper/pages/cells"), help="files of finished cells"
    )
    parser.add_argument("--report", type=Path, default=Path("examples/paper/pages"), help="folder of the pages")
    parser.add_argument("--no-report", action="store_true", help="write no pages")
    parser.add_argument("--packages", type=Path, help="folder of packages that are downloaded already")
    parser.add_argument("--dry-run", action="store_true", help="list the cells with their state and time, and stop")
    parser.add_argument("--report-only", action="store_true", help="write the pages of the finished cells, and stop")
    parser.add_argument("--only-data", action="store_true", help="make the data, and stop")
    parser.add_argument("--only-cell", metavar="CELL", help="run one cell")
    parser.add_argument("--redo", action="store_true", help="replace steps that were made with other arguments")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="option of sbatch; repeatable")
    parser.add_argument("--no-submit", action="store_true", help="write the Slurm scripts without submitting them")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = parse_arguments(argv)
    for name in ("output", "results", "report"):
        setattr(arguments, name, from_repository(getattr(arguments, name).resolve()))
    arguments.experiments = [path.resolve() if path.is_file() else path for path in arguments.experiments]
    if Path(arguments.scale).is_file():
        arguments.scale = str(Path(arguments.scale).resolve())
    os.chdir(REPOSITORY)
    console = Console()
    runner = Runner(arguments.output, console, environment(arguments.jobs), arguments.redo, shows_output=False)
    signal.signal(signal.SIGTERM, _interrupt)
    return exit_code_of(runner, lambda: run(arguments, runner))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def environment(jobs: int) -> dict[str, str]:
    """Return the variables of commands of which several run at once."""
    threads = str(max(1, count_cores() // jobs))
    return {**MALLOC_ENVIRONMENT, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(arguments: argparse.Namespace, runner: Runner) -> int:
    """Do what the command line asks for.

    Raises:
        PrealignError: wrong experiments, or damaged files of cells.
        StepError: data could not be made, or jobs not submitted.
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
    packages = arguments.packages.resolve() if arguments.packages else None
    place = Place(arguments.output, arguments.results, packages, command)
    if arguments.dry_run:
        show_cells(cells, results, arguments.jobs, runner.console)
        return 0
    if arguments.report_only:
        report(arguments, experiments, cells, results)
        return 0
    if arguments.only_data:
        for cell in cells:
            for step in data_steps(cell, place):
                run_locked(runner, step, "data")
        return 0
    if arguments.only_cell is not None:
        cells = [cell for cell in cells if cell.key == arguments.only_cell]
        if not cells:
            raise DataError(f"there is no cell {arguments.only_cell} in these experiments; --dry-run lists them")
    if arguments.launcher == "slurm":
        return submit(arguments, [cell for cell in cells if not is_finished(cell, results)], runner)
    grid = Grid(cells, results, place, runner)
    if arguments.no_report:
        grid.run(arguments.jobs)
    else:
        # After every cell, so that a grid that is stopped leaves pages of what it has.
        grid.run(arguments.jobs, lambda found: report(arguments, experiments, cells, found))
        report(arguments, experiments, cells, grid.results)
        runner.console.print(f"Pages: {arguments.report / 'README.md'}", highlight=False)
    for key, reason in grid.failed.items():
        print(f"error: cell {key}: {reason}", file=sys.stderr)
    return 1 if grid.failed else 0


def report(
    arguments: argparse.Namespace, experiments: list[Experiment], cells: list[Cell], results: Mapping[str, Result]
) -> None:
    """Write the pages of all experiments."""
    write_reports(arguments.report, arguments.results, experiments, cells, results)


def submit(arguments: argparse.Namespace, cells: list[Cell], runner: Runner) -> int:
    """Write the scripts of a Slurm array, and submit them."""
    if not cells:
        runner.console.print("All cells are finished.")
        return 0
    command: list[str] = ["examples/paper/experiments/run.py", *map(str, arguments.experiments)]
    for name in ("scale", "seeds", "first_seed", "output", "results", "packages"):
        if (value := getattr(arguments, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    folder = (arguments.output / "slurm").resolve()
    scripts = slurm.write_scripts(cells, folder, command, arguments.jobs, arguments.sbatch)
    runner.console.print(f"Wrote {scripts[0]} and {scripts[1]} for {len(cells)} cells.", highlight=False)
    if not arguments.no_submit:
        data, array = slurm.submit(*scripts)
        runner.console.print(
            f"Submitted {data} (data) and {array} (cells); report with --report-only.", highlight=False
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
