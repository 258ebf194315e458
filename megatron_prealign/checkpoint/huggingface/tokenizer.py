"""Write tokenizer files that give the training tokenizer's ids in transformers 4.x and 5.x."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from megatron_prealign.checkpoint.huggingface.config import write_json
from megatron_prealign.checkpoint.huggingface.special_ids import SpecialTokenIds
from megatron_prealign.checkpoint.sharded import TOKENIZER_COMPANIONS
from megatron_prealign.config import DataConfig
from megatron_prealign.errors import CheckpointError
from megatron_prealign.text.frame import DocumentFrame, document_frame
from megatron_prealign.text.probe import probe_texts
from megatron_prealign.text.sentencepiece_conversion import convert_sentencepiece
from megatron_prealign.text.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer, read_sentencepiece
from megatron_prealign.text.tokenizer_settings import TokenizerSettings, read_settings, token_text

_CHAT_TEMPLATES = ("chat_template.jinja", "additional_chat_templates")
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


@dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer as a run used it."""

    tokenizer: Tokenizer
    frame: DocumentFrame

    @classmethod
    def load(cls, source: Path, data: DataConfig) -> "TrainedTokenizer":
        """Load a tokenizer file or folder, whose file may have any name.

        Raises:
            DataError: the source holds no usable tokenizer.
        """
        if source.is_dir() and not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            found = sorted(
                {*source.glob("*.json"), *source.glob("*.model")} - {source / name for name in TOKENIZER_COMPANIONS}
            )
            source = found[0] if len(found) == 1 else source
        tokenizer = load_tokenizer(source, data.eod_token)
        return cls(tokenizer, document_frame(tokenizer, data.bos))

    @property
    def probe(self) -> list[int]:
        """The beginning of a document whose text is "a"."""
        return [*self.frame.start, *self.tokenizer.encode("a")]


def write_tokenizer(
    trained: TrainedTokenizer, output: Path, model_max_length: int
) -> tuple[SpecialTokenIds, list[str]]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
        trained: the training tokenizer.
        output: existing folder to write into.
        model_max_length: longest input that the model is declared for, in tokens.

    Returns:
        The ids of special tokens, and what was left out.

    Raises:
        CheckpointError: it can't be written so that its ids stay the same.
    """
    training = trained.tokenizer
    file = training.path
    if isinstance(training, SentencePieceTokenizer):
        fast = convert_sentencepiece(file, training.more_tokens)
    else:
        fast = FastTokenizer.from_file(str(file))
        shutil.copyfile(file, output / "tokenizer.json")
    if file.suffix != ".json" or fast.encode("a").ids != trained.probe:
        fast.post_processor = _begin_with(fast, trained.frame.bos_id)
        fast.save(str(output / "tokenizer.json"))
    for name in _CHAT_TEMPLATES:
        if (file.parent / name).is_dir():
            shutil.copytree(file.parent / name, output / name, dirs_exist_ok=True)
        elif (file.parent / name).is_file():
            shutil.copyfile(file.parent / name, output / name)
    # The file may have another name than tokenizer.json.
    settings = _settings(read_settings(file.parent / "tokenizer.json"), fast, training, model_max_length)
    left_out = _leave_out_unknown(settings, fast)
    pad = settings["pad_token"] = settings.get("pad_token") or settings["eos_token"]
    settings["add_bos_token"] = bool(trained.frame.start)
    write_json(output / "tokenizer_config.json", settings)
    special = {key: settings[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if settings.get(key)}
    write_json(output / "special_tokens_map.json", special)
    own = SpecialTokenIds(training.bos_id, training.eod_id, None if pad is None else fast.token_to_id(pad))
    return own, left_out


def _begin_with(fast: FastTokenizer, bos_id: int | None) -> processors.TemplateProcessing | None:
    """Return what makes the library begin each text with a token."""
    if bos_id is None:
        return None
    bos = fast.id_to_token(bos_id)
    return processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, bos_id)]
    )


def check_tokenizer(trained: TrainedTokenizer, folder: Path, num_rows: int) -> None:
    """Check that a folder's `AutoTokenizer` gives the ids of the training tokenizer, none of them beyond the model.

    The probe is fixed texts of all scripts and texts made of the vocabulary's own tokens, without special and added
    ones: training reads a special token in text as plain text, Hugging Face as the token, and there text right after a
    SentencePiece user-defined symbol gets a leading space mark. Beside it, each named token and the token that begins
    a text are compared.

    Args:
        trained: the training tokenizer.
        folder: the exported one.
        num_rows: embedding rows of the model.

    Raises:
        CheckpointError: ids differ; the first difference is shown.
    """
    # transformers takes seconds to import, and a conversion without the self-check does not need it.
    from tokenizers.models import Unigram
    from transformers import AutoTokenizer

    training = trained.tokenizer
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
                f"{training.path}: the tokenizer gives other ids in Hugging Face: for {text!r}, training has "
                f"{expected}, the export {found}; this tokenizer can't be exported{_advice(training, exported)}"
            )
    if problems := list(_special_problems(trained, exported, num_rows)):
        raise CheckpointError([f"{training.path}: {problem}; this tokenizer can't be exported" for problem in problems])


def _special_problems(trained: TrainedTokenizer, exported: Any, num_rows: int) -> Iterator[str]:
    """Yield what differs in the special tokens of an exported tokenizer, and which ids the model lacks."""
    size = 1 + max(exported.get_vocab().values())
    if size > num_rows:
        beyond = ", ".join(map(repr, exported.convert_ids_to_tokens(list(range(num_rows, min(size, num_rows + 5))))))
        yield f"in Hugging Face it has {size} ids, but the model {num_rows} rows: {beyond} have none"
    for role, expected in (("eos_token", trained.tokenizer.eod_id), ("bos_token", trained.tokenizer.bos_id)):
        found = getattr(exported, f"{role}_id")
        if found != expected:
            yield f"{role} is token {found} in Hugging Face, but {expected} in training"
    begun = list(exported("a")["input_ids"])
    if begun != trained.probe:
        yield f"the text 'a' is {begun} in Hugging Face, but {trained.probe} in training"


def _advice(training: Tokenizer, exported: Any) -> str:
    if exported.__class__.__name__.startswith("Qwen2"):
        return _QWEN2_ADVICE
    if training.definition or not read_sentencepiece(training.path).normalizer_spec.precompiled_charsmap:
        return ""
    return _NORMALIZER_ADVICE


def _settings(
    given: TokenizerSettings, fast: FastTokenizer, training: Tokenizer, model_max_length: int
) -> dict[str, Any]:
    """Return the content of tokenizer_config.json; chat template and similar settings are kept."""
    settings = {key: value for key, value in given.config.items() if key not in _DROPPED_SETTINGS}
    settings |= {name: token for name, (token, _) in given.named.items()}
    # 5.x writes a list under this name, 4.47 and later read a mapping there; both read a list under the old name.
    if isinstance(settings.get("extra_special_tokens"), list):
        del settings["extra_special_tokens"]
    if given.extra:
        settings["additional_special_tokens"] = list(given.extra)
    eos = None if training.eod_id is None else fast.id_to_token(training.eod_id)
    bos = None if training.bos_id is None else fast.id_to_token(training.bos_id)
    settings["eos_token"] = eos
    settings["bos_token"] = bos
    # Known to 4.x and 5.x; 5.x would write TokenizersBackend, and a model's own class rebuilds parts of tokenizer.json.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    # Without it 4.x also returns token types, which no model here accepts: generate would refuse them.
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    settings["model_max_length"] = model_max_length
    settings.setdefault("clean_up_tokenization_spaces", False)
    return settings


def _leave_out_unknown(settings: dict[str, Any], fast: FastTokenizer) -> list[str]:
    """Remove named tokens that the vocabulary lacks, and return a line for each.

    transformers would add them behind the vocabulary, where the model has no row.
    """

    def is_known(token: Any) -> bool:
        return (text := token_text(token)) is None or fast.token_to_id(text) is not None

    unknown: list[tuple[str, Any]] = []
    for name, value in list(settings.items()):
        if name.endswith("_token") and not is_known(value):
            unknown.append((name, settings.pop(name)))
        elif name == "additional_special_tokens":
            settings[name] = list(filter(is_known, value))
            unknown += [(name, token) for token in value if not is_known(token)]
        elif name in ("extra_special_tokens", "added_tokens_decoder") and isinstance(value, dict):
            settings[name] = {key: token for key, token in value.items() if is_known(token)}
            unknown += [(name, token) for token in value.values() if not is_known(token)]
    return [f"{name}: {token_text(token)!r} is not in the vocabulary, so it is left out" for name, token in unknown]
