"""The evaluations by name: each is a file of `megatron_prealign/evaluation/kinds/`."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from megatron_prealign.errors import ConfigError
from megatron_prealign.evaluation import kinds
from megatron_prealign.evaluation.frame import Evaluation


def evaluation_names() -> list[str]:
    """Return the names of all evaluations, sorted; none of them is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def find_evaluation(name: str) -> Evaluation[Any]:
    """Return an evaluation of `evaluation_names`."""
    evaluation = getattr(_module(name), "EVALUATION", None)
    if not isinstance(evaluation, Evaluation):
        raise ConfigError(f"{_file(name)}: defines no EVALUATION, an instance of frame.Evaluation")
    return evaluation


def option_types(evaluation: Evaluation[Any]) -> dict[str, object]:
    """Return the types of an evaluation's options by name."""
    return get_type_hints(evaluation.options, include_extras=True)


def summary(name: str) -> str:
    """Return the line that says what an evaluation measures: the first of its file."""
    text = _module(name).__doc__
    if not text:
        raise ConfigError(f"{_file(name)}: begins without the string that says what it measures")
    return text.splitlines()[0]


def describe_options(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (option, default, meaning) of an evaluation; the default is "needed" where there is none."""
    options = find_evaluation(name).options
    meanings = _field_strings(options)
    for field in fields(options):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shown = "needed" if default is MISSING else "none" if default is None else repr(default)
        yield field.name, shown, meanings.get(field.name, "")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{kinds.__name__}.{name}")
    except SyntaxError as error:
        raise ConfigError(f"{_file(name)}:{error.lineno}: {error.msg}") from None


def _file(name: str) -> Path:
    return Path(kinds.__path__[0], f"{name}.py")


def _field_strings(options: type) -> dict[str, str]:
    """Return the string below each field of a dataclass; Python itself does not keep them."""
    (definition,) = ast.parse(inspect.getsource(options)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
