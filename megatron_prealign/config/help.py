"""The --help page: every field with its meaning, unit and default, laid out by tyro."""

import dataclasses
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from megatron_prealign.config.data import BlendEntry, ValidEntry
from megatron_prealign.config.root import Config

_DESCRIPTION = """Pretrain a multilingual language model in two stages: align_init, then pretrain.

Values come from the defaults, then model.preset, then each --config file, then the options below;
later ones win. The option's line says what None means; write it as none."""

_EPILOG = """examples:
  python pretrain_prealign.py --config run.yaml --dry-run
  torchrun --nproc-per-node 8 pretrain_prealign.py --config run.yaml \\
      --model.preset 1b --parallel.tensor_model_parallel_size 2 --training.run_path runs/1b
  ... --alignment.lexicon_paths en-de.tsv en-zh.tsv --data.blend '[{prefix: data/en_text_document, language: en}]'

A file has one mapping per section:
  model:
    preset: tiny
  training:
    run_path: runs/first

exit codes of each process (torchrun returns 1 for all but 0; <run_path>/exit.json keeps them):
  0   finished
  1   a crash; the traceback says why
  2   the configuration, data or a checkpoint was refused; nothing was trained
  3   training can't continue; find the cause before you restart it
  130 stopped by Ctrl+C; nothing was saved
  75  saved and stopped on SIGTERM, SIGUSR1 or training.exit_duration_minutes: start the same command again
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options(Config):
    """The configuration and the command line's own options."""

    config: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ()
    """YAML file of sections; may be repeated, the last file wins."""

    dry_run: Annotated[bool, tyro.conf.arg(name="dry-run", metavar="", help_behavior_hint="")] = False
    """Check the configuration, print what differs from the defaults and the arithmetic, and stop."""


def print_help(prog: str = "pretrain_prealign.py") -> None:
    """Print usage, every option and examples to stdout."""
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_blend_rule)
    try:
        tyro.cli(
            _Options,
            prog=prog,
            description=_DESCRIPTION,
            args=["--help"],
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
            registry=registry,
        )
    except SystemExit:
        print(_EPILOG)


def _blend_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Show a list of datasets as one YAML value; tyro can't show a list of mappings."""
    kinds: dict[object, type] = {tuple[BlendEntry, ...]: BlendEntry, tuple[ValidEntry, ...]: ValidEntry}
    entry = kinds.get(info.type)
    if entry is None:
        return None
    keys = ", ".join(f"{name}: {_first_type(hint).upper()}" for name, hint in get_type_hints(entry).items())
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"[{{{keys}}}, ...]",
        instance_from_str=lambda _: (),
        is_instance=lambda instance: isinstance(instance, tuple),
        str_from_instance=lambda _: ["[]"],
    )


def _first_type(hint: Any) -> str:
    """Return the name of a type, or of the first type of a union."""
    name: str = next(iter(get_args(hint)), hint).__name__
    return name
