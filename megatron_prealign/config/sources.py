"""Where configuration values come from: YAML files and the command line, each value with its place.

`read_yaml_as` is for the other small YAML files, of jobs and experiments.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from megatron_prealign.errors import DataError

_FORBID = ConfigDict(extra="forbid")

Location = tuple[int | str, ...]
"""Path of keys and indices inside one value, as pydantic reports it."""


@dataclass(frozen=True)
class Given:
    """A value given for one field, and where: `place(location)` names file and line, or the option."""

    value: object
    place: Callable[[Location], str]


def given_at(value: object, place: str) -> Given:
    """Return a value that has one place for all its parts."""
    return Given(value, lambda _: place)


@dataclass
class Source:
    """The fields that a file or command line gives, by "section.field", and the problems of reading it."""

    fields: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    readable: bool = True


@dataclass(frozen=True)
class Entry:
    """One mapping of a list, and its place."""

    place: str
    fields: dict[str, Given]


@dataclass
class CommandLine:
    """A parsed command line; `overrides` are ("section.field", value tokens) in order."""

    config_paths: list[str] = field(default_factory=list)
    overrides: list[tuple[str, list[str]]] = field(default_factory=list)
    dry_run: bool = False
    help: bool = False
    problems: list[str] = field(default_factory=list)


def split_command_line(argv: Sequence[str]) -> CommandLine:
    """Parse a command line; tokens belong to the option before them."""
    line = CommandLine()
    for option, values in _options(argv, line.problems):
        # Both spellings: Megatron writes --num-layers, YAML and Python num_layers.
        name = option.removeprefix("--").replace("-", "_")
        if option in ("-h", "--help"):
            line.help = True
        elif name == "dry_run":
            line.dry_run = True
            if values:
                line.problems.append(f"command line: --dry-run takes no value, got {' '.join(values)!r}; leave it out")
        elif name == "config":
            line.config_paths.extend(value for value in values if value)
            if not all(values) or not values:
                line.problems.append("command line: --config needs a YAML file; write --config FILE")
        else:
            line.overrides.append((name, values))
    return line


def _options(argv: Sequence[str], problems: list[str]) -> list[tuple[str, list[str]]]:
    """Return each option with its values; report tokens before the first option."""
    found: list[tuple[str, list[str]]] = []
    for token in argv:
        if token.startswith("--") or token == "-h":
            option, equals, value = token.partition("=")
            found.append((option, [value] if equals else []))
        elif found:
            found[-1][1].append(token)
        else:
            forms = "--config FILE or --section.field VALUE"
            problems.append(f"command line: {token!r} belongs to no option; write {forms}")
    return found


def read_yaml(path: str | Path) -> Source:
    """Read a file of sections; each field keeps its line.

    Only plain YAML is read (as `yaml.safe_load` does); a file that can't be read becomes a problem.
    """
    source = Source()
    problem = _read_root(path, lambda loader, root: _read_sections(str(path), loader, root, source))
    if problem:
        source.readable = False
        source.problems.append(problem)
    return source


def read_entries(path: str | Path) -> tuple[list[Entry], list[str]]:
    """Read a file with a list of mappings; return them, and every problem of the file itself."""
    entries: list[Entry] = []
    problems: list[str] = []

    def read(loader: yaml.SafeLoader, root: yaml.Node) -> None:
        nodes = root.value if isinstance(root, yaml.SequenceNode) else [root]
        problems.extend(_repeated_keys(str(path), root))
        for node in nodes:
            place = f"{path}:{_line(node)}"
            if node is root or not isinstance(node, yaml.MappingNode):
                problems.append(f"{place}: expected a list of mappings, each like `- name: value`")
                continue
            fields = {
                name: Given(loader.construct_object(value, deep=True), _node_place(str(path), value))
                for name, value in _items(loader, node)
            }
            entries.append(Entry(place, fields))

    problem = _read_root(path, read)
    return ([], [problem]) if problem else (entries, problems)


def repeated_keys(path: str | Path) -> list[str]:
    """Return a problem for each key that occurs twice in one mapping of a YAML file, or why it can't be read."""
    problems: list[str] = []
    problem = _read_root(path, lambda loader, root: problems.extend(_repeated_keys(str(path), root)))
    return [problem] if problem else problems


def _read_root(path: str | Path, read: Callable[[yaml.SafeLoader, yaml.Node], None]) -> str | None:
    """Call `read` with the loader and the root node unless the file is empty; return why it can't be read, if so."""
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        try:
            root = loader.get_single_node()
            if root is not None:
                read(loader, root)
        finally:
            loader.dispose()
    except FileNotFoundError:
        return f"{path}: no such file; check the path"
    except (OSError, ValueError) as error:
        return f"{path}: can't be read: {error}"
    except yaml.YAMLError as error:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            return f"{path}:{error.problem_mark.line + 1}: not valid YAML: {error.problem or error.context}"
        return f"{path}: not valid YAML: {error}"
    return None


def _read_sections(path: str, loader: yaml.SafeLoader, root: yaml.Node, source: Source) -> None:
    """Collect the fields of every section mapping below the root node."""
    if not isinstance(root, yaml.MappingNode):
        source.problems.append(f"{path}:{_line(root)}: a configuration is a mapping of sections, like `model: ...`")
        return
    source.problems.extend(_repeated_keys(path, root))
    for section, section_node in _items(loader, root):
        if isinstance(section_node, yaml.ScalarNode) and section_node.tag == "tag:yaml.org,2002:null":
            continue  # a section whose lines are all commented out
        if not isinstance(section_node, yaml.MappingNode):
            line = _line(section_node)
            source.problems.append(f"{path}:{line}: {section} is a section: put its fields on lines below it")
            continue
        for name, node in _items(loader, section_node):
            value = _construct(loader, node)
            source.fields[f"{section}.{name}"] = Given(value, _node_place(path, node))


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return the value of a node; some, such as 2024-99-99, have none, for which PyYAML raises many types."""
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise yaml.constructor.ConstructorError(None, None, f"no such value ({error})", node.start_mark) from None


def _items(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    """Yield key and value node of a mapping, `<<` merges resolved."""
    loader.flatten_mapping(node)
    for key, value in node.value:
        yield str(_construct(loader, key)), value


def _node_place(path: str, node: yaml.Node) -> Callable[[Location], str]:
    """Return a function from a location inside the value of `node` to its file and line."""

    def place(location: Location) -> str:
        found = node
        for step in location:
            child = _child(found, step)
            if child is None:
                break
            found = child
        return f"{path}:{_line(found)}"

    return place


def _child(node: yaml.Node, step: int | str) -> yaml.Node | None:
    """Return the node of a key or index below `node`; for a key, the key's own node."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return cast(yaml.Node, node.value[step])
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return cast(yaml.Node, value)
    return None


def _repeated_keys(path: str, root: yaml.Node) -> Iterator[str]:
    """Yield a problem for each key that occurs twice in one mapping, of which YAML would silently keep the last."""
    nodes, visited = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in visited or isinstance(node, yaml.ScalarNode):  # an alias points at its anchor's node
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += reversed(node.value)
            continue
        nodes += [value for _, value in reversed(node.value)]
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                first = lines[key.value]
                yield f"{path}:{_line(key)}: {key.value} is given twice (first on line {first}); keep one of them"
            lines.setdefault(key.value, _line(key))


def _line(node: yaml.Node) -> int:
    """Return the line of a node, counted from 1."""
    return node.start_mark.line + 1


def mapping_source(values: Mapping[str, object], name: str) -> Source:
    """Make a source from a nested dictionary {section: {field: value}}; `name` is its place."""
    source = Source()
    for section, fields in values.items():
        if isinstance(fields, Mapping):
            source.fields.update({f"{section}.{key}": given_at(value, name) for key, value in fields.items()})
        else:
            source.problems.append(f"{name}: {section} must be a mapping of fields, got {fields!r}")
    return source


def read_yaml_as(path: Path, kind: Any, **more: object) -> Any:
    """Read a YAML file as a type.

    Args:
        path: of the file.
        kind: what it holds, for pydantic.
        more: keys that the file does not hold itself.

    Raises:
        DataError: it can't be read, or holds something else; every problem with its key.
    """
    if problems := repeated_keys(path):
        raise DataError(problems)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a mapping of keys to values")
    try:
        return validate_as({**content, **more}, kind)
    except DataError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from None


def validate_as(content: Mapping[str, Any], kind: Any) -> Any:
    """Return plain data as a type; unknown keys are refused.

    Raises:
        DataError: every problem with its key.
    """
    try:
        # In a list, because pydantic takes no settings for a dataclass itself.
        return TypeAdapter(list[kind], config=_FORBID).validate_python([content])[0]
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            where = ".".join(str(step) for step in detail["loc"][1:] if "[" not in str(step))
            problems.append(f"{where}: {detail['msg'].removeprefix('Input ')}")
        raise DataError(list(dict.fromkeys(problems))) from None
