"""What a Hugging Face folder says about special tokens and generation besides its tokenizer, carried through training.

config.json and generation_config.json name ids that the tokenizer's files need not name: several that end a text, for
example. An import keeps them beside the tokenizer, and an export writes them again.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_prealign.text.tokenizer import Tokenizer
from megatron_prealign.text.tokenizer_settings import as_ids, read_object, read_settings

FILE = "huggingface.json"
"""In the tokenizer folder of a checkpoint."""
GENERATION = "generation_config.json"
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")
# Facts about the writer of the file.
_DROPPED = ("transformers_version", "_from_model_config")


@dataclass(frozen=True)
class SpecialTokenIds:
    """Ids of the tokenizer's special tokens; None if it has no such token."""

    bos: int | None
    eos: int | None
    pad: int | None


@dataclass(frozen=True)
class FolderIds:
    """Special tokens and generation in a folder's configuration."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """Ids of special tokens in config.json, by their names there."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Content of generation_config.json."""

    @classmethod
    def of_model(cls, folder: Path) -> "FolderIds":
        """Read a Hugging Face folder; as in transformers, config.json stands in for a missing generation_config.json.

        Raises:
            DataError: one of the two files is no JSON object.
        """
        config = {name: value for name, value in read_object(folder / "config.json").items() if name in _ROLES}
        generation = read_object(folder / GENERATION) or config
        return cls(config, {name: value for name, value in generation.items() if name not in _DROPPED})

    @classmethod
    def of_tokenizer(cls, folder: Path) -> "FolderIds":
        """Read what `write` wrote; nothing if there is no such file."""
        content = read_object(folder / FILE)
        return cls(content.get("config", {}), content.get("generation", {}))

    def write(self, folder: Path) -> None:
        """Write the file beside a tokenizer."""
        content = {"config": self.config, "generation": self.generation}
        (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def for_config(self, own: SpecialTokenIds) -> dict[str, Any]:
        """Return the ids of an exported config.json.

        It names no padding token of its own: an embedding's padding index never gets a gradient in fine-tuning, and the
        token that pads batches ends documents too.
        """
        given = {"bos_token_id": own.bos, "pad_token_id": None} | dict(self.config)
        return given | {"eos_token_id": _with_end(given.get("eos_token_id"), own.eos)}

    def for_generation(self, own: SpecialTokenIds) -> dict[str, Any]:
        """Return the content of an exported generation_config.json; without an end, generation would never stop."""
        given = {"bos_token_id": own.bos, "eos_token_id": None, "pad_token_id": own.pad} | dict(self.generation)
        return given | {"eos_token_id": _with_end(given["eos_token_id"], own.eos)}

    def disagreements(self, tokenizer: Tokenizer) -> Iterator[str]:
        """Yield a line for each id that the tokenizer's settings give to another token."""
        named = read_settings(tokenizer.path).named
        for file, content in (("config.json", self.config), (GENERATION, self.generation)):
            for role in _ROLES:
                ids = as_ids(content.get(role))
                token, _ = named.get(role.removesuffix("_id"), (None, None))
                index = None if token is None else tokenizer.token_id(token)
                if beyond := [str(one) for one in ids if one >= tokenizer.vocab_size]:
                    yield f"{file}: {role} {', '.join(beyond)} is no token of the tokenizer"
                elif ids and token is not None and index not in ids:
                    yield (
                        f"{file}: {role} is {', '.join(map(str, ids))}, but the tokenizer's "
                        f"{role.removesuffix('_id')} is {token!r} ({index})"
                    )


def _with_end(given: Any, end: int | None) -> int | list[int] | None:
    """Return given ids as they are, with the end-of-document token among them."""
    ids = as_ids(given)
    if end is not None and end not in ids:
        ids.append(end)
    return ids if len(ids) > 1 else next(iter(ids), None)
