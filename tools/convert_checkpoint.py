"""Convert checkpoints: `to-hf` writes a complete Hugging Face folder from a checkpoint of any parallel layout.

python tools/convert_checkpoint.py to-hf --checkpoint runs/pretrain --output exported
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_prealign.errors import PrealignError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    options = _parser().parse_args(argv)
    try:
        _to_hf(options)
    except (PrealignError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    to_hf = commands.add_parser(
        "to-hf",
        help="write a Hugging Face folder",
        description="Write weights, config and tokenizer as a Hugging Face folder; CPU only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    to_hf.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder (its newest checkpoint) or one of its step folders"
    )
    to_hf.add_argument("--output", type=Path, required=True, help="folder to make")
    to_hf.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the written weights"
    )
    to_hf.add_argument("--max-shard-size", default="5GB", help="largest weight file, in bytes or with a unit")
    to_hf.add_argument("--no-verify", action="store_true", help="leave out the self-check of logits and tokenizer")
    to_hf.add_argument("--overwrite", action="store_true", help="replace the output folder if it exists")
    return parser


def _to_hf(options: argparse.Namespace) -> None:
    # megatron-core takes seconds to import; --help and a wrong option should not wait for it.
    from megatron_prealign.checkpoint.huggingface import check_output, export_model
    from megatron_prealign.checkpoint.sharded import load_full_model, resolve_checkpoint

    check_output(options.output, options.overwrite)
    checkpoint = resolve_checkpoint(options.checkpoint)
    print(f"loading {checkpoint}", file=sys.stderr)
    model, config = load_full_model(checkpoint)
    print(f"writing {options.output}" + ("" if options.no_verify else ", checking logits"), file=sys.stderr)
    export_model(
        model,
        config,
        checkpoint / "tokenizer",
        options.output,
        dtype=options.dtype,
        verify=not options.no_verify,
        overwrite=options.overwrite,
        max_shard_size=options.max_shard_size,
    )
    print(f"done: {options.output}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
