"""Merge baked datasets into one: the documents of the first, then those of the second, and so on.

    python tools/merge_datasets.py data/part0_text_document data/part1_text_document --output data/all_text_document

Every dataset is verified first. All must have the same tokenizer, token type and end-of-document token and, if words
were switched, the same lexicon.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from megatron_prealign.bake.merge import merge_datasets
from megatron_prealign.command_line import path_argument, tool


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "datasets", type=path_argument, nargs="+", metavar="DATASET", help="path of a dataset without .bin"
    )
    parser.add_argument("--output", type=path_argument, required=True, help="path of the merged dataset without .bin")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, or 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    command = shlex.join(["merge_datasets.py", *(sys.argv[1:] if argv is None else argv)])
    manifest = merge_datasets(arguments.datasets, arguments.output, arguments.overwrite, command)
    counts = manifest.content["counts"]
    print(f"{arguments.output}: {counts['documents']:,} documents, {counts['tokens']:,} tokens")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
