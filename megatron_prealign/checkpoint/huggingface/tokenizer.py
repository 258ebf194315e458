"""Write tokenizer files that give the training tokenizer's ids in transformers 4.x and 5.x."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from megatron_prealign.checkpoint.huggingface.config import SpecialTokenIds, write_json
from megatron_prealign.errors import CheckpointError
from megatron_prealign.text.probe import probe_texts
from megatron_prealign.text.sentencepiece_conversion import convert_sentencepiece
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer, read_sentencepiece

_PLAIN_FILES = ("chat_template.jinja",)
# Settings that name another tokenizer class, its code or its files: the folder holds a plain tokenizer.json.
_DROPPED_SETTINGS = (
    "auto_map",
    "backend",
    "is_local",
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "processor_class",
)


_QWEN2_ADVICE = (
    ": transformers 5 splits text by Qwen's own rule for every qwen2 model. Train with qwen3 or "
    "llama, or with a tokenizer of Qwen's kind; --no-verify exports it anyway, for PreTrainedTokenizerFast"
)
_NORMALIZER_ADVICE = (
    ": Hugging Face applies its normaliser's table of characters differently to decomposed and half-width text. Train "
    "SentencePiece with normalization_rule_name=identity; --no-verify exports it anyway"
)


def write_tokenizer(source: Path, output: Path, model_max_length: int) -> SpecialTokenIds:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json; return the ids of special tokens.

    Args:
        source: folder with the training tokenizer's files, or the file itself.
        output: existing folder to write into.
        model_max_length: longest input that the model is declared for, in tokens.

    Raises:
        DataError: the source holds no usable tokenizer.
        CheckpointError: it can't be written so that its ids stay the same.
    """
    training = _load_training_tokenizer(source)
    file = training.path
    if file.suffix == ".json":
        fast = FastTokenizer.from_file(str(file))
        shutil.copyfile(file, output / "tokenizer.json")
    else:
        fast = convert_sentencepiece(file)
        fast.save(str(output / "tokenizer.json"))
    for name in _PLAIN_FILES:
        if (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, output / name)
    given = _given_settings(file)
    settings = _settings(given, fast, training, model_max_length)
    write_json(output / "tokenizer_config.json", settings)
    special = {key: settings[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if settings.get(key)}
    write_json(output / "special_tokens_map.json", special)
    return SpecialTokenIds(
        bos=_token_id(fast, settings["bos_token"]),
        eos=_token_id(fast, settings["eos_token"]),
        pad=_token_id(fast, settings["pad_token"]),
    )


def check_tokenizer(source: Path, folder: Path) -> None:
    """Check that a folder's `AutoTokenizer` gives the ids of the training tokenizer on a probe of text.

    The probe is fixed texts of all scripts and texts made of the vocabulary's own tokens, without special and added
    ones: training reads a special token in text as plain text, Hugging Face as the token, and there text right after a
    SentencePiece user-defined symbol gets a leading space mark.

    Raises:
        CheckpointError: ids differ; the first difference is shown.
    """
    # transformers takes seconds to import, and a conversion without the self-check does not need it.
    from tokenizers.models import Unigram
    from transformers import AutoTokenizer

    training = _load_training_tokenizer(source)
    exported = AutoTokenizer.from_pretrained(folder)
    plain = set(range(training.vocab_size)) - training.special_ids - set(exported.added_tokens_decoder)
    spelt = {str(token) for token in exported.added_tokens_decoder.values() if token.special or not training.definition}
    is_unigram = isinstance(exported.backend_tokenizer.model, Unigram)
    for text in probe_texts(training, sorted(plain), has_runs=not is_unigram):
        if any(token in text for token in spelt):
            continue
        expected = training.encode(text)
        found = list(exported(text, add_special_tokens=False, verbose=False)["input_ids"])
        if found != expected:
            raise CheckpointError(
                f"{source}: the tokenizer gives other ids in Hugging Face: for {text!r}, training has {expected}, "
                f"the export {found}; this tokenizer can't be exported{_advice(training, exported)}"
            )


def _advice(training: Tokenizer, exported: Any) -> str:
    if exported.__class__.__name__.startswith("Qwen2"):
        return _QWEN2_ADVICE
    if training.definition or not read_sentencepiece(training.path).normalizer_spec.precompiled_charsmap:
        return ""
    return _NORMALIZER_ADVICE


def _load_training_tokenizer(source: Path) -> Tokenizer:
    """Load a tokenizer file or folder; a folder's file may have any name."""
    if source.is_dir() and not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        found = sorted([*source.glob("*.json"), *source.glob("*.model")])
        if len(found) == 1:
            return load_tokenizer(found[0])
    return load_tokenizer(source)


def _given_settings(file: Path) -> dict[str, Any]:
    """Return the tokenizer_config.json next to the tokenizer, empty if there is none."""
    path = file.parent / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def _settings(given: dict[str, Any], fast: FastTokenizer, training: Tokenizer, model_max_length: int) -> dict[str, Any]:
    """Return the content of tokenizer_config.json; chat template and similar settings are kept."""
    settings = {key: value for key, value in given.items() if key not in _DROPPED_SETTINGS}
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, list):
        # 5.x writes a list under this name, 4.47 and later read a mapping there; both read a list under the old name.
        del settings["extra_special_tokens"]
        settings["additional_special_tokens"] = extra
    eos = None if training.eod_id is None else fast.id_to_token(training.eod_id)
    bos = None if training.bos_id is None else fast.id_to_token(training.bos_id)
    settings["eos_token"] = eos
    settings["bos_token"] = bos
    settings["pad_token"] = _token_text(settings.get("pad_token")) or eos
    if _token_text(settings.get("unk_token")):
        settings["unk_token"] = _token_text(settings["unk_token"])
    # Known to 4.x and 5.x; 5.x would write TokenizersBackend, and a model's own class rebuilds parts of tokenizer.json.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # Without it 4.x also returns token types, which no model here accepts: generate would refuse them.
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    settings["model_max_length"] = model_max_length
    settings.setdefault("clean_up_tokenization_spaces", False)
    return settings


def _token_text(token: Any) -> str | None:
    """Return the text of a token given as a string or as the mapping of an AddedToken."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _token_id(fast: FastTokenizer, token: str | None) -> int | None:
    """Return a token's id; None for no token."""
    return None if token is None else fast.token_to_id(token)
