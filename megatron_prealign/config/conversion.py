"""Values as YAML or the command line give them, converted to the types of dataclass fields."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from functools import cache

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from megatron_prealign.config.sources import Given


def convert(name: str, hint: object, entry: Given) -> tuple[object, list[str]]:
    """Convert a value to a field's type: text becomes numbers, "none" becomes None where that is allowed.

    Args:
        name: the field, as problems call it.
        hint: its type.
        entry: the value and its place.

    Returns:
        The value, and what is wrong with it: every problem with its place.
    """
    if is_none(entry.value) and type(None) in typing.get_args(hint):
        return None, []
    if isinstance(entry.value, bool) and not _accepts(hint, bool):
        advice = "; YAML reads no, yes, on and off as booleans: put text into quotes" if _accepts(hint, str) else ""
        return None, [f"{entry.place(())}: {name}: must not be a boolean, got {entry.value}{advice}"]
    try:
        return _adapter(hint).validate_python(entry.value), []
    except ValidationError as error:
        return None, [_type_problem(name, hint, entry, detail) for detail in error.errors(include_url=False)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for a near miss, else the empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def shown(value: object) -> str:
    """Return a value as messages show it: long ones in part."""
    return f"{value!r:.200}"


def is_none(value: object) -> bool:
    """Say whether a value stands for "none"."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null"))


@cache
def _adapter(hint: typing.Any) -> TypeAdapter[object]:
    """Return the validator of a field's type; unknown keys of nested entries and infinite numbers are refused."""
    return TypeAdapter(hint, config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _type_problem(name: str, hint: object, entry: Given, detail: ErrorDetails) -> str:
    """Word one finding of pydantic with its place and, for a misspelt choice or key, the near miss."""
    location = detail["loc"]
    where = name + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    place = entry.place(location)
    if detail["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown key {where}{did_you_mean(str(location[-1]), _nested_keys(hint))}"
    if detail["type"] == "missing":
        return f"{place}: {where} is missing; give it"
    message = detail["msg"].removeprefix("Input ").split(", unable to parse")[0]
    choices = typing.get_args(hint) if detail["type"] == "literal_error" else ()
    given = detail["input"]
    hint = did_you_mean(given, choices) if isinstance(given, str) else ""
    return f"{place}: {where} {message}, got {shown(given)}{hint}"


def _nested_keys(hint: object) -> list[str]:
    """Return the keys of the dataclass inside a type such as tuple[BlendEntry, ...]."""
    nested = [argument for argument in typing.get_args(hint) if dataclasses.is_dataclass(argument)]
    return [field.name for entry in nested for field in dataclasses.fields(entry)]


def _accepts(hint: object, kind: type) -> bool:
    """Say whether a type is `kind` or a union with it."""
    return hint is kind or kind in typing.get_args(hint)
