"""Convert checkpoints to Hugging Face folders and back; CPU only.

python tools/convert_checkpoint.py to-hf --checkpoint runs/pretrain --output exported
python tools/convert_checkpoint.py from-hf --model exported --output imported
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_prealign.errors import PrealignError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    options = _parser().parse_args(argv)
    try:
        options.run(options)
    except (PrealignError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    to_hf = _command(commands, "to-hf", _to_hf, "write a checkpoint of any layout as a Hugging Face folder")
    to_hf.add_argument(
        "--checkpoint", type=Path, required=True, help="run folder (its newest checkpoint) or one of its step folders"
    )
    to_hf.add_argument("--output", type=Path, required=True, help="folder to make")
    to_hf.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the written weights"
    )
    to_hf.add_argument("--max-shard-size", default="5GB", help="largest weight file, in bytes or with a unit")
    to_hf.add_argument("--results", type=Path, help="output of tools/evaluate.py, for the model card")
    to_hf.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload the folder afterwards; a new repository is private"
    )
    from_hf = _command(commands, "from-hf", _from_hf, "write a Hugging Face folder as a checkpoint to start a run from")
    from_hf.add_argument("--model", type=Path, required=True, help="folder with config.json, safetensors and tokenizer")
    from_hf.add_argument("--output", type=Path, required=True, help="checkpoint to make, for checkpoint.init_from")
    from_hf.add_argument("--tokenizer", type=Path, help="tokenizer to train with; left out = the folder's own")
    from_hf.add_argument(
        "--make-vocab-size-divisible-by",
        type=int,
        default=128,
        help="multiple to which the embedding rows are padded; a multiple of every tensor-parallel size to come",
    )
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    """Add a subcommand with the options that all of them have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description,
        description=f"{description.capitalize()}; CPU only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--no-verify", action="store_true", help="leave out the self-check of logits and tokenizer")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    return parser


def _to_hf(options: argparse.Namespace) -> None:
    # megatron-core takes seconds to import; --help and a wrong option should not wait for it.
    from megatron_prealign.checkpoint.folder import resolve_checkpoint
    from megatron_prealign.checkpoint.huggingface import check_output, export_checkpoint, push_to_hub, read_results

    check_output(options.output, options.overwrite)
    checkpoint = resolve_checkpoint(options.checkpoint)
    results = None if options.results is None else read_results(options.results)
    print(f"writing {checkpoint} to {options.output}", file=sys.stderr)
    export_checkpoint(
        checkpoint,
        options.output,
        dtype=options.dtype,
        verify=not options.no_verify,
        overwrite=options.overwrite,
        max_shard_size=options.max_shard_size,
        results=results,
    )
    print(f"done: {options.output}", file=sys.stderr)
    if options.push_to_hub:
        print(f"uploaded: {push_to_hub(options.output, options.push_to_hub)}", file=sys.stderr)


def _from_hf(options: argparse.Namespace) -> None:
    from megatron_prealign.checkpoint.huggingface import import_folder

    config = import_folder(
        options.model,
        options.output,
        tokenizer_path=options.tokenizer,
        make_vocab_size_divisible_by=options.make_vocab_size_divisible_by,
        verify=not options.no_verify,
        overwrite=options.overwrite,
    )
    print(
        f"done: {options.output}: {config.model.architecture}, {config.model.num_layers} layers, "
        f"{config.training.precision}; start from it with --config {options.output / 'config.yaml'} "
        f"--config YOURS.yaml --checkpoint.init_from {options.output}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    raise SystemExit(main())
