"""Convert checkpoints to Hugging Face folders, and such folders or Megatron-LM checkpoints to checkpoints; CPU only.

python tools/convert_checkpoint.py to-hf --checkpoint runs/pretrain --output exported
python tools/convert_checkpoint.py from-hf --model exported --output imported
python tools/convert_checkpoint.py from-megatron-lm --checkpoint megatron --tokenizer tok --output imported
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_prealign.command_line import path_argument, tool
from megatron_prealign.config.validation import number_ranges
from megatron_prealign.errors import DataError

if TYPE_CHECKING:
    from megatron_prealign.checkpoint.new_rows import Growth
    from megatron_prealign.checkpoint.start import Start


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after an error that the user can fix."""
    options = build_parser().parse_args(argv)
    options.run(options)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    to_hf = _command(commands, "to-hf", _to_hf, "write a checkpoint of any layout as a Hugging Face folder")
    to_hf.add_argument(
        "--checkpoint",
        type=path_argument,
        required=True,
        help="run folder (for its newest checkpoint) or one of its step folders",
    )
    to_hf.add_argument("--output", type=path_argument, required=True, help="folder to write")
    to_hf.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the written weights"
    )
    to_hf.add_argument("--max-shard-size", default="5GB", help="largest weight file, in bytes or with a unit (MB, GB)")
    to_hf.add_argument("--results", type=path_argument, help="output of tools/evaluate.py, for the model card")
    to_hf.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload the folder afterwards; a new repository is private"
    )
    from_hf = _command(commands, "from-hf", _from_hf, "write a Hugging Face folder as a checkpoint to start a run from")
    from_hf.add_argument(
        "--model", type=path_argument, required=True, help="folder with config.json, safetensors and tokenizer"
    )
    from_hf.add_argument(
        "--output", type=path_argument, required=True, help="checkpoint to write, for checkpoint.init_from"
    )
    from_hf.add_argument("--tokenizer", type=path_argument, help="tokenizer to train with; default: the folder's own")
    from_hf.add_argument(
        "--eod-token", metavar="TOKEN", help="special token that ends documents; default: the tokenizer's eos_token"
    )
    _add_vocabulary(from_hf)
    from_megatron_lm = _command(
        commands,
        "from-megatron-lm",
        _from_megatron_lm,
        "write a torch_dist checkpoint of Megatron-LM as a checkpoint to start a run from",
    )
    from_megatron_lm.add_argument(
        "--checkpoint",
        type=path_argument,
        required=True,
        help="folder of an iteration, or its parent (for the newest)",
    )
    from_megatron_lm.add_argument(
        "--output", type=path_argument, required=True, help="checkpoint to write, for checkpoint.init_from"
    )
    from_megatron_lm.add_argument("--tokenizer", type=path_argument, required=True, help="tokenizer to train with")
    from_megatron_lm.add_argument(
        "--old-tokenizer",
        type=path_argument,
        help="tokenizer it was trained with; default: --tokenizer; needs --new-rows",
    )
    _add_vocabulary(from_megatron_lm)
    return parser


def _add_vocabulary(command: argparse.ArgumentParser) -> None:
    """Add the vocabulary options of both imports."""
    command.add_argument(
        "--make-vocab-size-divisible-by",
        type=int,
        default=128,
        help="multiple to which the embedding rows are padded; every later tensor-parallel size must divide it",
    )
    command.add_argument(
        "--new-rows",
        choices=("mean", "zero", "lexicon"),
        help="rows for ids of --tokenizer that the model lacks: mean of the old rows, zero, or mean of the rows of a "
        "translation",
    )
    command.add_argument(
        "--lexicon",
        type=path_argument,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="dictionaries of --new-rows lexicon",
    )
    command.add_argument("--source-language", default="en", help="language of the lexicon's source words")
    command.add_argument("--target-language", help="language of the translations, for dictionaries that do not name it")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    """Add a subcommand with the options common to all."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}; CPU only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--no-verify", action="store_true", help="skip the self-check")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    return parser


def _to_hf(options: argparse.Namespace) -> None:
    # Imported here: megatron-core takes seconds, which --help and a wrong option should not cost.
    from megatron_prealign.checkpoint.folder import resolve_checkpoint
    from megatron_prealign.checkpoint.huggingface import check_output, export_checkpoint, push_to_hub, read_results

    check_output(options.output, options.overwrite)
    checkpoint = resolve_checkpoint(options.checkpoint)
    results = None if options.results is None else read_results(options.results)
    print(f"writing {checkpoint} to {options.output}", file=sys.stderr)
    notes = export_checkpoint(
        checkpoint,
        options.output,
        dtype=options.dtype,
        verify=not options.no_verify,
        overwrite=options.overwrite,
        max_shard_size=options.max_shard_size,
        results=results,
    )
    _print_notes(notes)
    print(f"done: {options.output}", file=sys.stderr)
    if options.push_to_hub:
        print(f"uploaded: {push_to_hub(options.output, options.push_to_hub)}", file=sys.stderr)


def _from_hf(options: argparse.Namespace) -> None:
    from megatron_prealign.checkpoint.huggingface import import_folder

    start = import_folder(
        options.model,
        options.output,
        tokenizer_path=options.tokenizer,
        eod_token=options.eod_token,
        **_start_options(options),
    )
    _report_start(options.output, start)


def _from_megatron_lm(options: argparse.Namespace) -> None:
    from megatron_prealign.checkpoint.megatron_lm import import_megatron_lm

    start = import_megatron_lm(
        options.checkpoint,
        options.output,
        tokenizer_path=options.tokenizer,
        old_tokenizer_path=options.old_tokenizer,
        **_start_options(options),
    )
    _report_start(options.output, start)


def _start_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options common to both imports."""
    limits = number_ranges()["model.make_vocab_size_divisible_by"]
    if (multiple := options.make_vocab_size_divisible_by) not in limits:
        raise DataError(f"--make-vocab-size-divisible-by must be {limits}, got {multiple}")
    return {
        "growth": _growth(options),
        "make_vocab_size_divisible_by": options.make_vocab_size_divisible_by,
        "verify": not options.no_verify,
        "overwrite": options.overwrite,
    }


def _growth(options: argparse.Namespace) -> "Growth | None":
    from megatron_prealign.checkpoint.new_rows import Growth

    if (options.new_rows == "lexicon") != bool(options.lexicon):
        raise DataError("--new-rows lexicon and --lexicon FILE go together: give both or neither")
    if options.new_rows is None:
        return None
    return Growth(options.new_rows, tuple(options.lexicon), options.source_language, options.target_language)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _report_start(output: Path, start: "Start") -> None:
    """Print what was written, and the options that start a run from it."""
    config = start.config
    _print_notes(start.notes)
    if start.new_rows is not None:
        print(start.new_rows.describe(), file=sys.stderr)
    print(
        f"done: {output}: {config.model.architecture}, {config.model.num_layers} layers, "
        f"{config.training.precision}; start from it with --config {output / 'config.yaml'} "
        f"--config YOURS.yaml --checkpoint.init_from {output}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    raise SystemExit(main())
