"""Show samples that a run read, by their positions in its reading order, as in <run_path>/skipped.jsonl.

    python tools/inspect_samples.py runs/own/pretrain --skipped
    python tools/inspect_samples.py runs/own/pretrain --samples 552 553

Run it in the working directory of the run, because its configuration may have relative paths.
"""

import argparse
from collections.abc import Sequence

from rich.console import Console

from megatron_prealign.command_line import HelpFormatter, path_argument, tool
from megatron_prealign.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("run", type=path_argument, help="training.run_path of the run")
    parser.add_argument(
        "--samples", type=int, nargs="+", action="extend", default=[], metavar="N", help="positions, from 0"
    )
    parser.add_argument("--skipped", action="store_true", help="show the samples of skipped steps")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    if not arguments.samples and not arguments.skipped:
        raise ConfigError("no samples chosen; give --samples or --skipped")
    from megatron_prealign.training.samples import read_samples, skipped_samples  # imports take seconds

    positions = [*arguments.samples, *(skipped_samples(arguments.run) if arguments.skipped else [])]
    # Do not wrap lines in a file or a pipe.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for sample in read_samples(arguments.run, positions):
        console.rule(f"sample {sample.position}, of {sample.prefix}", align="left")
        console.print(sample.text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
