"""What an experiment's YAML, a scale's YAML and the shared lists say, checked: all problems in one error."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from megatron_prealign.config import config_from_dict
from megatron_prealign.config.sources import Entry, given_at, read_yaml_as
from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.evaluation.task_list import make_task

FOLDER = Path(__file__).resolve().parent
CONDITION = re.compile(r"(?P<variant>\w+)\.(?P<measure>\S+) *(?P<sign>[<>]) *(?P<number>\d+(\.\d+)?)")
"""What `testable_if` says."""


@dataclass(frozen=True, kw_only=True)
class StageFile:
    """A stage that a scale offers to the chains of its variants."""

    text: str
    """Which of the recipe's texts it reads, for example plain or switched."""
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sections of its configuration, over the scale's."""
    steps: PositiveInt | None = None
    """Optimizer steps; none = what is left of the scale's tokens."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Model, optimizer, tokens and data sizes that every variant of every experiment shares."""

    name: str
    """The file's."""
    steps: PositiveInt
    """Optimizer steps of a single stage of language modelling: all variants see that many tokens."""
    minutes: PositiveFloat
    """What such a training takes, for estimates before anything is measured."""
    data: dict[str, dict[str, Any]]
    """Recipe → its parameters."""
    config: dict[str, dict[str, Any]]
    """Sections of every stage's configuration."""
    stages: dict[str, StageFile]
    """What the chains of variants are made of."""
    evaluations: dict[str, list[dict[str, Any]]]
    """Recipe → tasks, as tools/evaluate.py takes them; {names} stand for files of the recipe."""
    processes: PositiveInt = 1
    """Ranks of a training on one machine."""

    @property
    def step_tokens(self) -> int:
        """Tokens of one step of language modelling."""
        return int(self.config["training"]["global_batch_size"]) * int(self.config["data"]["seq_length"])


@dataclass(frozen=True, kw_only=True)
class VariantFile:
    """A method, as a list of methods or an experiment writes it."""

    title: str | None = None
    """What tables call it; none = its name."""
    extends: str | None = None
    """Method whose stages, data and configuration it starts from."""
    stages: list[str | dict[str, dict[str, Any]]] | None = None
    """Chain of stages of the scale: names, or {name: overrides}; overrides are text, steps, section.field."""
    data: dict[str, Any] = field(default_factory=dict)
    """Parameters of the recipe, over the scale's."""
    config: dict[str, Any] = field(default_factory=dict)
    """section.field → value, for every stage."""


@dataclass(frozen=True)
class Stage:
    """One stage of a chain, its configuration complete but for paths, seed and steps."""

    name: str
    text: str
    steps: int | None
    config: dict[str, dict[str, Any]]

    @property
    def aligns(self) -> bool:
        """Tell whether it trains on word pairs."""
        alignment = self.config.get("alignment", {})
        return self.config["training"]["stage"] == "align_init" or int(alignment.get("maintain_interval", 0)) > 0

    @property
    def reads_lexicon(self) -> bool:
        """Tell whether the lexicon has a part in what it learns."""
        return self.aligns or self.text == "switched" or self.config["data"].get("codeswitch") == "online"


@dataclass(frozen=True)
class Variant:
    """A method at a scale."""

    name: str
    title: str
    stages: tuple[Stage, ...]
    data: dict[str, Any]
    """All parameters of the recipe."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper, or this project, says that a variant does."""

    text: str
    """The claim in a sentence."""
    where: str
    """Where it is made."""
    measure: str
    """Key of the measure that decides."""
    variant: str
    against: str
    """The variant it is held against, with the same seeds."""
    at_most: float | None = None
    """For measures where lower is better: greatest ratio of the means; none = lower beyond the interval."""
    at_least: float | None = None
    """For measures where higher is better: smallest difference of the means; none = higher beyond the interval."""
    no_worse_than: float | None = None
    """Instead: a ratio up to this is no loss, and the interval must not go beyond it."""
    testable_if: str | None = None
    """`VARIANT.MEASURE > NUMBER` or `<`: where it does not hold, this scale can't tell."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis that the variants lie on."""

    label: str
    values: dict[str, float]
    """Variant → position."""


@dataclass(frozen=True, kw_only=True)
class ExperimentFile:
    """An experiment's YAML."""

    title: str
    question: str
    """A paragraph: what is compared and why."""
    baseline: str
    """The variant that the others are compared with."""
    variants: dict[str, VariantFile | None]
    """Name → definition; without one, the method of that name in methods.yaml."""
    measures: list[str]
    """Keys of measures.yaml, in the order of the table."""
    recipe: str = "english_clone"
    """Where the data comes from."""
    claims: list[Claim] = field(default_factory=list)
    axis: Axis | None = None
    """Variants as points of a curve."""
    unranked: list[str] = field(default_factory=list)
    """Variants that are no competitors, such as a ceiling: never in bold."""
    evaluations: list[dict[str, Any]] | None = None
    """Tasks instead of the scale's."""
    notes: list[str] = field(default_factory=list)
    """Paragraphs under the results: what was looked into, what to make of it."""

    @property
    def named_measures(self) -> list[str]:
        """Return the measures of the table and of the claims, each once."""
        return list(dict.fromkeys([*self.measures, *(claim.measure for claim in self.claims)]))


@dataclass(frozen=True)
class Experiment:
    """An experiment at a scale."""

    name: str
    file: ExperimentFile
    variants: dict[str, Variant]
    evaluations: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a number is called and read."""

    title: str
    better: Literal["lower", "higher"]
    digits: int = 3


def read_measures() -> dict[str, Measure]:
    """Return the measures that reports can show."""
    measures: dict[str, Measure] = read_yaml_as(FOLDER / "measures.yaml", dict[str, Measure])
    return measures


def read_scale(name: str) -> Scale:
    """Read a scale by its name in scales/, or by the path of its file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"scales/{name}.yaml"
    known = ", ".join(sorted(found.stem for found in (FOLDER / "scales").glob("*.yaml")))
    if not path.is_file():
        raise DataError(f"there is no scale {name!r}; choose from {known}, or name a file")
    scale: Scale = read_yaml_as(path, Scale, name=path.stem)
    needed = (("training", "global_batch_size"), ("data", "seq_length"))
    wrong = [".".join(keys) for keys in needed if not _is_positive(scale.config.get(keys[0], {}).get(keys[1]))]
    if wrong:
        raise DataError([f"{path}: config.{name}: must be given, a whole number above 0" for name in wrong])
    return scale


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0


def read_experiments(paths: Sequence[Path], scale: Scale) -> list[Experiment]:
    """Read experiments at a scale.

    Raises:
        DataError: everything wrong with any of them.
    """
    methods: dict[str, VariantFile] = read_yaml_as(FOLDER / "methods.yaml", dict[str, VariantFile])
    measures = read_measures()
    problems: list[str] = []
    experiments = []
    for path in paths:
        found = find_experiment(path)
        try:
            file: ExperimentFile = read_yaml_as(found, ExperimentFile)
        except DataError as error:
            problems += error.problems
            continue
        before = len(problems)
        problems += [f"{found}: {problem}" for problem in _problems(file, scale, measures)]
        if len(problems) == before:
            reader = _VariantReader(file, scale, methods)
            variants = {name: variant for name in file.variants if (variant := reader.read(name))}
            problems += [f"{found}: {problem}" for problem in reader.problems]
            tasks = scale.evaluations[file.recipe] if file.evaluations is None else file.evaluations
            problems += [f"{found}: {problem}" for problem in _measure_problems(file, tasks)]
            problems += _task_problems(tasks, str(found) if file.evaluations else f"scale {scale.name}")
            experiments.append(Experiment(found.stem, file, variants, tasks))
    names = [experiment.name for experiment in experiments]
    problems += [f"two experiments are called {name}" for name in dict.fromkeys(names) if names.count(name) > 1]
    if problems:
        raise DataError(problems)
    return experiments


def find_experiment(path: Path) -> Path:
    """Return the file of an experiment: a path, or the name of one of those beside this file, with or without .yaml."""
    shipped = FOLDER / (path.name if path.suffix else f"{path.name}.yaml")
    return shipped if not path.exists() and path.parent == Path(".") and shipped.is_file() else path


def _problems(file: ExperimentFile, scale: Scale, measures: Mapping[str, Measure]) -> Iterator[str]:
    """Yield names that stand for nothing."""
    for part in (scale.data, scale.evaluations):
        if file.recipe not in part:
            yield f"recipe: scale {scale.name} has nothing for {file.recipe!r}; it has {', '.join(part)}"
            return
    named = [("baseline", file.baseline)]
    named += [(f"claims: {claim.text[:40]}", name) for claim in file.claims for name in (claim.variant, claim.against)]
    named += [("unranked", name) for name in file.unranked]
    named += [("axis.values", name) for name in (file.axis.values if file.axis else {})]
    for where, name in named:
        if name not in file.variants:
            yield f"{where}: there is no variant {name!r}{_hint(name, file.variants)}"
    for name in file.named_measures:
        if name not in measures:
            yield f"measures: {name!r} is not in measures.yaml{_hint(name, measures)} Add its title there"
    for claim in file.claims:
        parts = CONDITION.fullmatch(claim.testable_if) if claim.testable_if else None
        if claim.testable_if and (parts is None or parts["variant"] not in file.variants):
            yield (
                f"claims: {claim.text[:40]}: testable_if: {claim.testable_if!r} must be like `VARIANT.MEASURE > 0.5`, "
                f"with one of {', '.join(file.variants)}"
            )


def task_name(task: Mapping[str, Any]) -> str:
    """Return the name under which a task's results are found."""
    return str(task.get("name") or task.get("evaluation"))


def _measure_problems(file: ExperimentFile, tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield measures that no task yields."""
    known = [task_name(task) for task in tasks]
    for name in file.named_measures:
        if (task := name.split(".")[0]) not in known:
            yield f"measures: {name!r}: no task under evaluations is called {task}{_hint(task, known)}"


def _task_problems(tasks: Sequence[Mapping[str, Any]], place: str) -> list[str]:
    """Return what is wrong with tasks, but for their files."""
    names = [task_name(task) for task in tasks]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems = [f"{place}: evaluations: {name} is the name of two tasks; rename one" for name in twice]
    for number, task in enumerate(tasks, start=1):
        where = f"{place}: evaluations, task {number}"
        make_task(Entry(where, {key: given_at(value, where) for key, value in task.items()}), problems)
    return problems


def _hint(word: str, known: Any) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else f"; there are {', '.join(known)}."


class _VariantReader:
    """Resolves the variants of one experiment; what is wrong is kept in `problems`."""

    def __init__(self, file: ExperimentFile, scale: Scale, methods: Mapping[str, VariantFile]) -> None:
        own = {name: variant for name, variant in file.variants.items() if variant is not None}
        self._methods, self._known = methods, {**methods, **own}
        self._file, self._scale = file, scale
        self.problems: list[str] = []

    def read(self, name: str) -> Variant | None:
        """Return a variant; none where something is wrong with it."""
        before = len(self.problems)
        merged = self._merged(name, ())
        if merged is None:
            return None
        if not merged.stages:
            self.problems.append(f"variants.{name}: it has no stages; give it some, or let it extend a method")
            return None
        stages = [self._stage(name, entry, merged.config) for entry in merged.stages]
        data = {**self._scale.data[self._file.recipe], **merged.data}
        if len(self.problems) > before:
            return None
        kept = tuple(stage for stage in stages if stage)
        if [stage.steps is None for stage in kept].count(True) != 1 or kept[-1].steps is not None:
            self.problems.append(f"variants.{name}: all stages but the last need steps; the last takes what is left")
        return Variant(name, merged.title or name.replace("_", " "), kept, data)

    def _merged(self, name: str, seen: tuple[str, ...]) -> VariantFile | None:
        if name not in self._known:
            self.problems.append(f"variants: there is no variant or method {name!r}{_hint(name, self._known)}")
            return None
        if name in seen:
            self.problems.append(f"variants.{name} extends itself: {' → '.join((*seen, name))}")
            return None
        own = self._known[name]
        if own.extends is None:
            return own
        # A definition may extend the method whose name it has.
        is_method = own.extends == name in self._methods
        base = self._methods[name] if is_method else self._merged(own.extends, (*seen, name))
        if base is None:
            return None
        data, config = {**base.data, **own.data}, {**base.config, **own.config}
        return replace(base, title=own.title, stages=own.stages or base.stages, data=data, config=config)

    def _stage(self, variant: str, entry: str | dict[str, dict[str, Any]], shared: dict[str, Any]) -> Stage | None:
        """Return one stage of a chain: the scale's, the variant's overrides, its own."""
        if not isinstance(entry, str) and len(entry) != 1:
            self.problems.append(f"variants.{variant}: a stage is a name, or one name with its overrides: {entry}")
            return None
        ((name, own),) = [(entry, {})] if isinstance(entry, str) else entry.items()
        if name not in self._scale.stages:
            self.problems.append(f"variants.{variant}: there is no stage {name!r}{_hint(name, self._scale.stages)}")
            return None
        file = self._scale.stages[name]
        config: dict[str, dict[str, Any]] = {}
        for sections in (self._scale.config, file.config):
            for section, fields in sections.items():
                config.setdefault(section, {}).update(fields)
        overrides = {**shared, **own}
        text, steps = overrides.pop("text", file.text), overrides.pop("steps", file.steps)
        for dotted, value in overrides.items():
            section, _, key = dotted.partition(".")
            config.setdefault(section, {})[key] = value
        try:
            config_from_dict(config, f"variants.{variant}.{name}")
        except ConfigError as error:
            self.problems += error.problems
            return None
        if steps is not None and not (_is_positive(steps) and steps < self._scale.steps):
            self.problems.append(
                f"variants.{variant}.{name}: steps: {steps} must be above 0 and below the scale's {self._scale.steps}"
            )
        # Through JSON, so that a stage is what its identity says.
        return Stage(name, text, steps, json.loads(json.dumps(config)))
