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
    """Convert a value to a field's type: text becomes a number, "none" becomes `None` where the type allows it.

    Args:
        name: Name of the field in problems.
        hint: Type of the field.
        entry: Value and its place.

    Returns:
        The value, and every problem with its place.
    """
    if is_none(entry.value) and type(None) in typing.get_args(hint):
        return None, []
    if isinstance(entry.value, bool) and not _accepts(hint, bool):
        advice = "; YAML reads no, yes, on and off as booleans: quote text" if _accepts(hint, str) else ""
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
    """Return a value for a message, cut to 200 characters."""
    return f"{value!r:.200}"


def is_none(value: object) -> bool:
    """Return whether a value means `None`."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null"))


@cache
def _adapter(hint: typing.Any) -> TypeAdapter[object]:
    """Return the validator of a field's type; it refuses unknown keys of nested entries, infinity and NaN."""
    return TypeAdapter(hint, config=ConfigDict(extra="forbid", allow_inf_nan=False))


def _type_problem(name: str, hint: object, entry: Given, detail: ErrorDetails) -> str:
    """Return the message for one error of pydantic, with its place and a suggestion for a misspelt choice or key."""
    location = detail["loc"]
    where = name + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    place = entry.place(location)
    if detail["type"] == "unexpected_keyword_argument":
        return f"{place}: unknown key {where}{did_you_mean(str(location[-1]), _nested_keys(hint))}"
    if detail["type"] == "missing":
        return f"{place}: {where} is missing; add it"
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
    """Return whether a type is `kind` or a union with it."""
    return hint is kind or kind in typing.get_args(hint)
