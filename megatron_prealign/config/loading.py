"""Load the configuration: YAML files, then command-line overrides, all problems in one error.

defaults  <  model preset  <  --config files (later wins)  <  --section.field value
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from megatron_prealign.config.conversion import convert, did_you_mean, is_none, shown
from megatron_prealign.config.presets import PRESETS
from megatron_prealign.config.root import Config
from megatron_prealign.config.sources import (
    CommandLine,
    Given,
    Source,
    given_at,
    mapping_source,
    read_yaml,
    split_command_line,
)
from megatron_prealign.config.validation import check
from megatron_prealign.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration, and the other options of the command line."""

    config: Config
    """The whole configuration, preset resolved."""

    dry_run: bool
    """Whether to print the arithmetic and stop."""

    places: Mapping[str, str]
    """Where each field that is not a default was given, by "section.field"."""


def load_config(argv: Sequence[str], *, world_size: int | None = None) -> LoadedConfig:
    """Read and check the configuration of a command line.

    Args:
        argv: Command line without the program: `--config FILE`, `--section.field VALUE`, `--dry-run`, `--help`.
        world_size: Number of ranks, where known; layout and batch sizes are checked against it.

    Raises:
        ConfigError: Lists every unknown key, wrong type and contradiction with its place and fix.
        SystemExit: After printing the help for `--help`.
    """
    line = split_command_line(argv)
    if line.help:
        from megatron_prealign.config.help import print_help  # tyro is needed for nothing else

        print_help()
        raise SystemExit(0)
    sources = _sources(line)
    resolved = _resolve(sources)
    problems = resolved.problems
    if all(source.readable for source in sources):  # a file that is missing leaves everything at its default
        problems = [*problems, *_cross_field(resolved, world_size)]
    if problems:
        raise ConfigError(problems)
    return LoadedConfig(resolved.config, line.dry_run, resolved.places)


def read_config(argv: Sequence[str]) -> Config:
    """Read the configuration of a command line, preset resolved; neither data nor a run folder need be named.

    Raises:
        ConfigError: Lists unknown keys and wrong types; contradictions are not checked.
    """
    return _resolve_strictly(*_sources(split_command_line(argv)))


def load_resolved(path: str | Path) -> Config:
    """Read the config.yaml of a run or checkpoint; the files it names need not exist any more.

    Raises:
        ConfigError: The file can't be read, or holds unknown keys or wrong types.
    """
    return _resolve_strictly(read_yaml(path))


def config_from_dict(values: Mapping[str, object], name: str = "configuration") -> Config:
    """Build a configuration from a nested dictionary {section: {field: value}}; errors call it `name`.

    Raises:
        ConfigError: Unknown keys or wrong types.
    """
    return _resolve_strictly(mapping_source(values, name))


def dump_config(config: Config) -> str:
    """Write a configuration as YAML with every field; `load_resolved` reads the same configuration back."""
    plain = TypeAdapter(Config).dump_python(config, mode="json")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


@dataclasses.dataclass
class _Resolved:
    """A configuration with bad entries left at their defaults, and their problems."""

    config: Config
    problems: list[str]
    bad_fields: set[str]
    places: dict[str, str]


def _sources(line: CommandLine) -> list[Source]:
    files = [read_yaml(path) for path in line.config_paths]
    return [*files, Source(problems=line.problems), _read_overrides(line.overrides)]


def _resolve_strictly(*sources: Source) -> Config:
    """Return the configuration of sources without cross-field checks, or raise all their problems."""
    resolved = _resolve(sources)
    if resolved.problems:
        raise ConfigError(resolved.problems)
    return resolved.config


def _resolve(sources: Iterable[Source]) -> _Resolved:
    """Overlay sources, later ones winning, resolve the preset, and convert every value."""
    problems: list[str] = []
    given: dict[str, Given] = {}
    unknown: dict[str, Given] = {}
    for source in sources:
        problems.extend(source.problems)
        for name, value in source.fields.items():
            (given if name in _hints() else unknown)[name] = value
    bad_fields = set()
    for message, likely in _unknown_problems(unknown):
        problems.append(message)
        bad_fields.update(likely)
    with_preset, preset_problems = _with_preset(given)
    if preset_problems:
        problems.extend(preset_problems)
        bad_fields.update(name for name in _hints() if name.startswith("model."))
    values: dict[str, object] = {}
    for name, entry in with_preset.items():
        converted, wrong = convert(name, _hints()[name], entry)
        problems.extend(wrong)
        if wrong:
            bad_fields.add(name)
        else:
            values[name] = converted
    places = {name: entry.place(()) for name, entry in given.items()}
    return _Resolved(_build(values), problems, bad_fields, places)


def _with_preset(given: dict[str, Given]) -> tuple[dict[str, Given], list[str]]:
    """Add the values of model.preset for fields that are not given."""
    entry = given.get("model.preset")
    if entry is None or is_none(entry.value):
        return given, []
    name = entry.value if isinstance(entry.value, str) else shown(entry.value)
    preset = PRESETS.get(name)
    if preset is None:
        hint = f"; choose from {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}"
        return given, [f"{entry.place(())}: model.preset: unknown preset {shown(entry.value)}{hint}"]
    place = f"preset {entry.value}"
    return {f"model.{name}": given_at(value, place) for name, value in preset.values.items()} | given, []


def _build(values: Mapping[str, object]) -> Config:
    """Build the configuration from converted values; other fields keep their defaults."""
    sections = {}
    for section in dataclasses.fields(Config):
        prefix = f"{section.name}."
        fields = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        sections[section.name] = typing.get_type_hints(Config)[section.name](**fields)
    return Config(**sections)


def _cross_field(resolved: _Resolved, world_size: int | None) -> list[str]:
    """Return contradictions between fields, without those that may follow from a field already reported."""
    found = []
    for problem in check(resolved.config, world_size=world_size):
        if resolved.bad_fields.isdisjoint(problem.fields):
            places = [f"{name} from {resolved.places[name]}" for name in problem.fields if name in resolved.places]
            found.append(problem.message + (f" [{', '.join(places)}]" if places else ""))
    return found


@cache
def _hints() -> dict[str, object]:
    """Return the type of every field, by "section.field"."""
    return {
        f"{section}.{name}": hint
        for section, section_type in typing.get_type_hints(Config).items()
        for name, hint in typing.get_type_hints(section_type).items()
    }


def _read_overrides(overrides: Iterable[tuple[str, list[str]]]) -> Source:
    """Turn the tokens of each override into a value: YAML for lists and mappings, the text itself otherwise."""
    source = Source()
    given, problems = source.fields, source.problems
    for name, tokens in overrides:
        place = f"command line: --{name}"
        if not tokens:
            problems.append(f"{place} needs a value; write --{name} VALUE")
        elif _is_sequence(_hints().get(name)):
            parsed = [_parse_token(token, place, problems) for token in tokens]
            is_whole = len(parsed) == 1 and (not isinstance(parsed[0], str | dict) or is_none(parsed[0]))
            given[name] = given_at(parsed[0] if is_whole else parsed, place)
        elif len(tokens) > 1:
            problems.append(f"{place} takes one value, got {tokens}; quote a value that has spaces")
        else:
            given[name] = given_at(tokens[0], place)
    return source


def _parse_token(token: str, place: str, problems: list[str]) -> object:
    """Parse a list or mapping written as YAML; any other text stays as it is."""
    if not token.lstrip().startswith(("[", "{")):
        return token
    try:
        return yaml.safe_load(token)
    except yaml.YAMLError as error:
        problems.append(f"{place}: {token!r} is not valid YAML: {getattr(error, 'problem', None) or error}")
        return []


def _unknown_problems(unknown: Mapping[str, Given]) -> Iterable[tuple[str, list[str]]]:
    """Yield (problem, fields probably meant) for every unknown key, and once for an unknown section."""
    sections = list(typing.get_type_hints(Config))
    seen_sections = set()
    for name, entry in unknown.items():
        section, _, key = name.rpartition(".")
        place = entry.place(())
        homes = [known for known in _hints() if known.endswith(f".{key}")]
        if not section:
            hint = f"; write --{homes[0]}" if homes else did_you_mean(key, _hints())
            yield f"{place}: unknown option{hint or '; --help lists all options'}", homes
        elif section in sections:
            siblings = [known.split(".")[1] for known in _hints() if known.startswith(f"{section}.")]
            hint = f"; it belongs to {homes[0]}" if homes else did_you_mean(key, siblings)
            likely = [f"{section}.{match}" for match in difflib.get_close_matches(key, siblings, n=1)]
            yield f"{place}: unknown key {name}{hint or '; --help lists all keys'}", homes + likely
        elif section not in seen_sections:
            seen_sections.add(section)
            hint = did_you_mean(section, sections) or f"; sections are {', '.join(sections)}"
            meant = difflib.get_close_matches(section, sections, n=1)
            likely = [known for known in _hints() if known.split(".")[0] in meant]
            yield f"{place}: unknown section {section}{hint}", likely


def _is_sequence(hint: object) -> bool:
    """Return whether a field takes several values."""
    return any(typing.get_origin(kind) in (tuple, list) for kind in (hint, *typing.get_args(hint)))
