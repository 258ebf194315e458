"""Verify baked datasets byte by byte, and report everything that is wrong with them.

    python tools/verify_dataset.py data/en_text_document data/de_text_document --tokenizer-model tok/

checks the manifest's own hash, sizes and hashes of all files, header, pointers and document ends, the end-of-document
token, that ids are in range, and that switch records are sorted, inside their sequences, and refer to existing labels
and lexicon entries. The exit status is 0 if all datasets are intact, else 1.
"""

import argparse
import json
from collections.abc import Sequence

from megatron_prealign.bake.verify import verify
from megatron_prealign.command_line import path_argument, tool
from megatron_prealign.text.tokenizer import load_tokenizer


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "datasets", type=path_argument, nargs="+", metavar="DATASET", help="path of a dataset without .bin"
    )
    parser.add_argument(
        "--tokenizer-model", type=path_argument, metavar="PATH", help="the tokenizer they must have been baked with"
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object that maps each dataset to its problems"
    )
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return 0, 1 if a dataset is damaged, 2 after an error that the user can fix."""
    arguments = build_parser().parse_args(argv)
    tokenizer = load_tokenizer(arguments.tokenizer_model) if arguments.tokenizer_model else None
    found = {str(prefix): verify(prefix, tokenizer) for prefix in arguments.datasets}
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for prefix, problems in found.items():
            for problem in problems:
                print(f"problem: {problem}")
            print(f"{prefix}: {'problems found' if problems else 'no problems found'}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
