"""The settings beside a tokenizer file, read as transformers reads them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_prealign.errors import DataError

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
# transformers reads settings for these names only; a file of another name stands alone.
_FILES_WITH_SETTINGS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the JSON files of a tokenizer folder say."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """Content of tokenizer_config.json."""
    named: Mapping[str, tuple[str, Path]] = field(default_factory=dict)
    """Tokens by their role, such as eos_token, each with the file that names it."""
    added: Mapping[int, tuple[str, bool]] = field(default_factory=dict)
    """Tokens added to the model's own by id: their text, and whether they are special."""
    extra: tuple[str, ...] = ()
    """Special tokens without a role."""


def read_settings(file: Path) -> TokenizerSettings:
    """Read the settings beside a tokenizer file.

    tokenizer_config.json names tokens; only where it lists no added tokens do the older special_tokens_map.json, which
    then comes first, and added_tokens.json count.

    Raises:
        DataError: A file is no JSON object, or a token is no text.
    """
    if file.name not in _FILES_WITH_SETTINGS:
        return TokenizerSettings()
    config_path, older_path = file.parent / CONFIG_FILE, file.parent / SPECIAL_TOKENS_FILE
    config = read_object(config_path)
    is_older = "added_tokens_decoder" not in config
    named: dict[str, tuple[str, Path]] = {}
    extra: list[str] = []
    for path, content in ((config_path, config), (older_path, read_object(older_path) if is_older else {})):
        for name, value in content.items():
            if name in ("additional_special_tokens", "extra_special_tokens"):
                extra += filter(None, map(token_text, value if isinstance(value, list) else ()))
            elif (text := token_text(value)) is not None and name.endswith("_token"):
                named[name] = text, path
            elif name in ("bos_token", "eos_token") and value is not None:
                raise DataError(f"{path}: {name} is {value!r}, not a string")
    special = {*extra, *(text for text, _ in named.values())}
    added_path = file.parent / ADDED_TOKENS_FILE if is_older else config_path
    listed = read_object(added_path) if is_older else config["added_tokens_decoder"]
    return TokenizerSettings(config, named, _added_tokens(listed, added_path, special), tuple(dict.fromkeys(extra)))


def _added_tokens(listed: Any, path: Path, special: set[str]) -> dict[int, tuple[str, bool]]:
    """Return added tokens by id, from ids by token or from tokens with their properties by id."""
    added: dict[int, tuple[str, bool]] = {}
    try:
        for key, value in listed.items():
            if isinstance(value, dict):
                added[int(key)] = value["content"], bool(value.get("special")) or value["content"] in special
            else:
                added[int(value)] = key, key in special
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: the added tokens are not a mapping between tokens and ids") from None
    return dict(sorted(added.items()))


def token_text(token: Any) -> str | None:
    """Return the text of a token given as a string or as the mapping of an AddedToken."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def as_ids(value: Any) -> list[int]:
    """Return the ids of a setting that is an id, a list of ids or nothing."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, int)]


def read_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, empty if there is none.

    Raises:
        DataError: It is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not an object; it should map names such as eos_token to values")
    return content
