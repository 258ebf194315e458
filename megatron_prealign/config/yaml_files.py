"""YAML files as types: unknown keys, wrong types and keys given twice are refused, all in one error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from megatron_prealign.config.sources import repeated_keys
from megatron_prealign.errors import DataError

_FORBID = ConfigDict(extra="forbid")


def read_yaml(path: Path, kind: Any, **more: object) -> Any:
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
        return validate({**content, **more}, kind)
    except DataError as error:
        raise DataError([f"{path}: {problem}" for problem in error.problems]) from None


def validate(content: Mapping[str, Any], kind: Any) -> Any:
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
