"""One interface over Hugging Face `tokenizer.json` and SentencePiece `.model` files.

Only the `tokenizers` and `sentencepiece` libraries are used, which load much faster than `transformers`. Text is
always plain: nothing is added around it, and a literal `<|endoftext|>` in it stays text.
"""

import hashlib
import importlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_prealign.errors import DataError
from megatron_prealign.files import remote_problem
from megatron_prealign.text.ragged import paused_collector
from megatron_prealign.text.tokenizer_json import (
    SPACE_MARKER,
    byte_level_bytes,
    keeps_all_bytes,
    metaspace_bytes,
    splits_at_spaces,
)
from megatron_prealign.text.tokenizer_settings import ADDED_TOKENS_FILE, TokenizerSettings, read_settings

_EOD_TOKENS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")
_BOS_TOKENS = ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>")
# A word is encoded after one of these, so that it is split as inside running text. No pre-tokenizer joins them to a
# letter; the digit is for normalisers that turn line breaks into spaces.
_ANCHORS = ("\n", "0")
# Of a SentencePiece model: unknown, control, user-defined.
_EXTRACTED_PIECES = (2, 3, 4)
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n")
_USE_JSON = "use the tokenizer.json of the model's Hugging Face folder"


class Tokenizer(ABC):
    """Text to token ids and back; ids are plain ints below `vocab_size`."""

    path: Path
    """The file it was read from."""
    vocab_size: int
    """Largest id + 1, added tokens included."""
    eod_id: int | None
    """End-of-document token, if there is one: that of the caller of `load_tokenizer`, or eos_token of the settings."""
    bos_id: int | None
    """Begin-of-document token, if there is one."""
    special_ids: frozenset[int]
    """Ids that no text has: control tokens and the unknown token."""
    special_tokens: tuple[str, ...]
    """Their names."""
    added_tokens: tuple[str, ...]
    """Strings that the library extracts from a text before it splits words, including special tokens."""
    token_bytes: list[bytes]
    """The bytes of each id in running text; b"" for special and unused ids."""
    definition: dict[str, Any]
    """A tokenizer.json without its vocabulary and merges; empty for SentencePiece."""
    fingerprint: str
    """SHA-256 (hex) of the model file, or of its canonical JSON."""

    adds_bos: bool
    """Whether the tokenizer begins a document with `bos_id` by default."""
    encodes_any_text: bool
    """Whether every non-empty text has ids, none of them unknown; False if that can't be determined."""
    splits_at_spaces: bool
    """Whether no token, and nothing that tokens depend on, crosses a space between two characters that are not white
    space; False if that can't be determined."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without any special token."""

    @abstractmethod
    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None if there is none of this name."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, like `encode`."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, including special tokens where the library can."""

    def encode_word(self, word: str, spaced: bool) -> list[int]:
        """Return the ids of a word alone, as it appears inside running text.

        Args:
            word: The word, without surrounding spaces.
            spaced: True for the form after a space, which is part of it; False for the form without one, as at the
                start of a line, after a bracket, or in scripts without spaces.
        """
        return self.encode_words([word], spaced)[0]

    def encode_words(self, words: Sequence[str], spaced: bool) -> list[list[int]]:
        """Return `encode_word` of each word; much faster than one by one."""
        space = " " if spaced else ""
        results: list[list[int] | None] = [None] * len(words)
        missing = list(range(len(words)))
        for anchor in _ANCHORS:
            prefix = self.encode(anchor)
            encoded = self.encode_batch([anchor + space + words[i] for i in missing])
            for i, ids in zip(missing, encoded, strict=True):
                rest = ids[len(prefix) :]
                if rest and ids[: len(prefix)] == prefix and self.token_bytes[rest[0]].startswith(b" ") == spaced:
                    results[i] = rest
            missing = [i for i in missing if results[i] is None]
            if not missing:
                break
        for i in missing:
            results[i] = self._encode_without_context(words[i], spaced)
        return [ids or [] for ids in results]

    def _encode_without_context(self, word: str, spaced: bool) -> list[int]:
        ids = self.encode((" " if spaced else "") + word)
        drop = not spaced and bool(ids) and self.token_bytes[ids[0]] == b" "
        return ids[1:] if drop else ids


class HuggingFaceTokenizer(Tokenizer):
    """A byte-level BPE or SentencePiece-like `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            DataError: If it is not a usable tokenizer.
        """
        self.path = path
        try:
            definition: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._malformed(error) from None
        if isinstance(definition, dict) and isinstance(definition.get("vocab"), list) and "config" in definition:
            raise DataError(f"{path}: a tekken vocabulary of Mistral, which is not read; {_USE_JSON}")
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise DataError(f"{path}: the vocabulary is empty; use another tokenizer")
        self.vocab_size = max(vocabulary.values()) + 1
        added = {token["id"]: token for token in definition.get("added_tokens") or ()}
        special = {index for index, token in added.items() if token.get("special")}
        unknown = (definition.get("model") or {}).get("unk_token")
        if isinstance(unknown, str) and unknown in vocabulary:
            special.add(vocabulary[unknown])
        self.special_ids = frozenset(special)
        self.added_tokens = tuple(token["content"] for token in added.values())
        self.special_tokens = tuple(token["content"] for index, token in added.items() if index in special)
        self.token_bytes = self._make_token_bytes(vocabulary, added, definition)
        settings = read_settings(path)
        self.eod_id = self._named_id(settings, "eos_token", _EOD_TOKENS)
        self.bos_id = self._named_id(settings, "bos_token", _BOS_TOKENS)
        begun = self._tokenizer.encode("a", add_special_tokens=True).ids
        self.adds_bos = self.bos_id is not None and begun[:1] == [self.bos_id]
        self.encodes_any_text = keeps_all_bytes(definition, vocabulary)
        self.definition = {name: definition.get(name) for name in ("normalizer", "pre_tokenizer", "added_tokens")}
        model = definition.get("model") or {}
        self.definition["model"] = {name: model[name] for name in model.keys() - {"vocab", "merges"}}
        self.splits_at_spaces = splits_at_spaces(self.definition)
        canonical = json.dumps(definition, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.fingerprint = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def _tokenizer(self) -> Any:
        """The library's object; a copy in another process loads it on first use."""
        import tokenizers  # deferred: not needed for SentencePiece

        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises bare Exception for malformed files
            raise self._malformed(error) from None
        # Stored truncation would cut documents silently; stored padding would add tokens.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _malformed(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: not a Hugging Face tokenizer.json ({error})")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the library's object out: most copies need only the attributes."""
        return {name: value for name, value in vars(self).items() if name != "_tokenizer"}

    def encode(self, text: str) -> list[int]:
        """Encode with the `tokenizers` library."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode with the `tokenizers` library."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, including special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _make_token_bytes(
        self, vocabulary: dict[str, int], added: dict[int, dict[str, Any]], definition: dict[str, Any]
    ) -> list[bytes]:
        parts = json.dumps([definition.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")])
        if '"ByteLevel"' in parts:
            to_bytes = byte_level_bytes
        elif '"Metaspace"' in parts or json.dumps(SPACE_MARKER) in parts:
            to_bytes = metaspace_bytes
        else:
            raise DataError(
                f"{self.path}: neither a byte-level BPE nor a SentencePiece-like tokenizer; words can't be found on "
                "its token ids. Use one of these kinds (tools/train_tokenizer.py trains both)."
            )
        table = [b""] * self.vocab_size
        for token, index in vocabulary.items():
            if index not in self.special_ids:
                table[index] = token.encode("utf-8") if index in added else to_bytes(token)
        return table

    def token_id(self, token: str) -> int | None:
        """Ask the `tokenizers` library."""
        index: int | None = self._tokenizer.token_to_id(token)
        return index

    def _named_id(self, settings: TokenizerSettings, name: str, well_known: Sequence[str]) -> int | None:
        if name in settings.named:
            return _id_of_named(self, settings, name)
        found = (index for index in map(self.token_id, well_known) if index in self.special_ids)
        return next(found, None)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece `.model` file, with the settings beside it."""

    more_tokens: dict[str, int]
    """Special tokens that the file lacks, by their text."""

    def __init__(self, path: Path) -> None:
        """Load the file.

        Raises:
            DataError: If it is not a SentencePiece model.
        """
        import sentencepiece  # deferred: not needed for Hugging Face

        self.path = path
        proto = read_sentencepiece(path)
        if proto.trainer_spec.treat_whitespace_as_suffix:
            raise DataError(
                f"{path}: trained with treat_whitespace_as_suffix, so its words can't be found; use a model without it"
            )
        content = path.read_bytes()
        try:
            processor = self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
            pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
            self.added_tokens = tuple(piece.piece for piece in proto.pieces if piece.type in _EXTRACTED_PIECES)
        except Exception as error:  # the library raises RuntimeError and others for malformed files
            raise DataError(f"{path}: not a SentencePiece model ({error}); use another file") from None
        self._num_pieces = len(pieces)
        settings = read_settings(path)
        self.more_tokens = self._read_more_tokens(settings)
        self.vocab_size = max([self._num_pieces - 1, *self.more_tokens.values()]) + 1
        own_special = [i for i in range(len(pieces)) if processor.is_control(i) or processor.is_unknown(i)]
        self.special_ids = frozenset({*own_special, *self.more_tokens.values()})
        self.token_bytes = [b""] * self.vocab_size
        for i, piece in enumerate(pieces):
            if i not in self.special_ids and not processor.is_unused(i):
                self.token_bytes[i] = metaspace_bytes(piece)
        self.eod_id = self._named_id(settings, "eos_token", processor.eos_id())
        self.bos_id = self._named_id(settings, "bos_token", processor.bos_id())
        # The library adds it only on request; transformers does where the settings say so.
        self.adds_bos = self.bos_id is not None and settings.config.get("add_bos_token") is True
        self.definition = {}
        self.encodes_any_text = False  # normalisers drop characters
        self.splits_at_spaces = False  # pieces may hold spaces
        self.special_tokens = (*(pieces[i] for i in own_special), *self.more_tokens)
        more = json.dumps(self.more_tokens, ensure_ascii=False).encode() if self.more_tokens else b""
        self.fingerprint = hashlib.sha256(content + more).hexdigest()

    def _read_more_tokens(self, settings: TokenizerSettings) -> dict[str, int]:
        """Return the tokens that only the settings know, by their text; some take the place of an unused piece."""
        more = {text: i for i, (text, _) in settings.added.items() if self._piece_id(text) != i}
        if plain := [text for text, i in more.items() if not settings.added[i][1]]:
            names = ", ".join(map(repr, plain[:5]))
            raise DataError(
                f"{self.path.parent}: {ADDED_TOKENS_FILE} or tokenizer_config.json adds the tokens {names} "
                "without marking them as special, and sentencepiece can't find them in text; save the folder with "
                "transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and use its tokenizer.json"
            )
        return more

    def _named_id(self, settings: TokenizerSettings, name: str, own: int) -> int | None:
        return _id_of_named(self, settings, name) if name in settings.named else _non_negative(own)

    def _piece_id(self, token: str) -> int | None:
        index = int(self._processor.piece_to_id(token))  # the unknown token's for all others
        return index if self._processor.id_to_piece(index) == token else None

    def token_id(self, token: str) -> int | None:
        """Ask the settings, then the `sentencepiece` library."""
        return self.more_tokens.get(token, self._piece_id(token))

    def encode(self, text: str) -> list[int]:
        """Encode with the `sentencepiece` library."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode with the `sentencepiece` library."""
        # Hugging Face's variable for a single thread applies here too.
        single = os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off", "no")
        ids: list[list[int]] = self._processor.encode(list(texts), num_threads=1 if single else -1)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; control tokens have none."""
        text: str = self._processor.decode([int(i) for i in ids if i < self._num_pieces])
        return text


def read_sentencepiece(path: Path) -> Any:
    """Return the settings and pieces of a SentencePiece model.

    Raises:
        DataError: If it is none; the message says what it is instead.
    """
    # Slow to import, and not needed for Hugging Face.
    messages: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    decode_error: Any = importlib.import_module("google.protobuf.message").DecodeError
    model, content = messages.ModelProto(), path.read_bytes()
    if _TIKTOKEN_LINE.match(content):
        raise DataError(f"{path}: a tiktoken vocabulary, which does not say how text is split; {_USE_JSON}")
    try:
        model.ParseFromString(content)
    except decode_error as error:
        raise DataError(f"{path}: not a SentencePiece model ({error})") from None
    if not model.pieces:
        raise DataError(f"{path}: not a SentencePiece model (it has no pieces)")
    return model


@paused_collector()
def load_tokenizer(path: str | Path, eod_token: str | None = None) -> Tokenizer:
    """Load a Hugging Face `tokenizer.json`, a folder that holds one, or a SentencePiece `.model`.

    Args:
        path: the file or folder.
        eod_token: special token that ends documents; None = the tokenizer's eos_token.

    Raises:
        DataError: If there is no tokenizer, or not a usable one.
    """
    path = Path(path)
    if path.is_dir():
        candidates = [path / "tokenizer.json", path / "tokenizer.model"]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise DataError(f"{path}: no tokenizer.json or tokenizer.model in this folder; name the file itself")
        path = found
    if not path.is_file():
        raise DataError(
            remote_problem(path)
            or f"{path}: no such tokenizer; give a tokenizer.json, a folder with one, or a SentencePiece .model"
        )
    tokenizer: Tokenizer = HuggingFaceTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)
    if eod_token is not None:
        tokenizer.eod_id = tokenizer.token_id(eod_token.encode("utf-8", "replace").decode("utf-8"))
        if tokenizer.eod_id not in tokenizer.special_ids:
            raise DataError(
                f"{path}: {eod_token!r} can't end documents: it is not a special token of this tokenizer, as "
                f"{', '.join(tokenizer.special_tokens[:8])} are"
            )
    return tokenizer


def _id_of_named(tokenizer: Tokenizer, settings: TokenizerSettings, name: str) -> int:
    token, source = settings.named[name]
    index = tokenizer.token_id(token)
    if index is None:
        raise DataError(f"{source}: {name} {token!r} is not in the vocabulary")
    return index


def _non_negative(index: int) -> int | None:
    return int(index) if index >= 0 else None
