"""Exported tokenizers: AutoTokenizer gives the training ids, and special tokens are the tokenizer's own."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from megatron_prealign.checkpoint.huggingface.special_ids import SpecialTokenIds
from megatron_prealign.checkpoint.huggingface.tokenizer import TrainedTokenizer, check_tokenizer, write_tokenizer
from megatron_prealign.config import DataConfig
from megatron_prealign.errors import CheckpointError, DataError
from megatron_prealign.text.tokenizer import load_tokenizer
from tests.checkpoint.languages import lines_of_ten_languages

FOREIGN = (
    "Die Straße über den Fluß — naïve Größe",
    "我们在银行工作。 日本語のテキスト",
    "Привет, как дела?\tשלום\nमरहब्बा नमस्ते",
    " leading and trailing  ",
    "ﬁne １２３ café",
)


def exported(source: Path, output: Path, **data: str) -> SpecialTokenIds:
    output.mkdir()
    ids, notes = write_tokenizer(trained(source, **data), output, model_max_length=77)
    assert notes == []
    return ids


def trained(source: Path, **data: str) -> TrainedTokenizer:
    return TrainedTokenizer.load(source, DataConfig(**data))  # type: ignore[arg-type]


def check(source: Path, output: Path, num_rows: int | None = None, **data: str) -> None:
    """Check an exported tokenizer, for a model with a row for each id."""
    training = trained(source, **data)
    check_tokenizer(training, output, num_rows or training.tokenizer.vocab_size)


def assert_same_ids(source: Path, output: Path, texts: list[str]) -> None:
    training = load_tokenizer(source)
    found = AutoTokenizer.from_pretrained(output)
    assert training.encode_batch(texts) == found(texts, add_special_tokens=False)["input_ids"]


def test_byte_level_bpe_keeps_ids_settings_and_template(bpe_folder: Path, prose: list[str], tmp_path: Path) -> None:
    special_ids = exported(bpe_folder, tmp_path / "out")
    assert special_ids == SpecialTokenIds(bos=None, eos=0, pad=0)
    lines = [line for text in prose[:20] for line in text.splitlines()]
    assert_same_ids(bpe_folder, tmp_path / "out", [*lines, *FOREIGN])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.bos_token is None
    assert tokenizer.model_max_length == 77
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert tokenizer.decode(tokenizer(FOREIGN[3])["input_ids"]) == FOREIGN[3]
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "extra_special_tokens" not in settings
    # The exported folder is a training tokenizer again, with the same end of document.
    again = load_tokenizer(tmp_path / "out")
    assert (again.eod_id, again.fingerprint) == (0, load_tokenizer(bpe_folder).fingerprint)


def test_a_file_that_kept_its_users_name_is_found(bpe_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "tokenizer"
    source.mkdir()
    shutil.copyfile(bpe_folder / "tokenizer.json", source / "clone.json")
    assert exported(source, tmp_path / "out").eos == 0


def test_sentencepiece_of_mistral_becomes_a_fast_tokenizer(prose: list[str], tmp_path: Path) -> None:
    source = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
    assert exported(source, tmp_path / "out") == SpecialTokenIds(bos=1, eos=2, pad=2)
    lines = [line for text in prose[:10] for line in text.splitlines()]
    assert_same_ids(source, tmp_path / "out", [*lines, *FOREIGN, ""])
    check(source, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer(FOREIGN[1], add_special_tokens=False)["input_ids"]) == FOREIGN[1]


@pytest.mark.parametrize("kind", ["byte-level BPE", "SentencePiece"])
def test_a_thousand_lines_of_ten_languages_keep_their_ids(kind: str, bpe_folder: Path, tmp_path: Path) -> None:
    mistral = Path(str(files("mistral_common") / "data" / "tokenizer.model.v1"))
    source = bpe_folder if kind == "byte-level BPE" else mistral
    exported(source, tmp_path / "out")
    texts = lines_of_ten_languages()
    assert len(texts) == 1000
    assert_same_ids(source, tmp_path / "out", texts)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_own_sentencepiece_keeps_ids(model_type: str, byte_fallback: bool, prose: list[str], tmp_path: Path) -> None:
    """Also one that removes spaces at both ends and in runs, but neither tabs nor line ends."""
    options = {"model_type": model_type, "byte_fallback": byte_fallback}
    train_sentencepiece(tmp_path, prose, normalization_rule_name="identity", **options)
    source = tmp_path / "tokenizer.model"
    exported(source, tmp_path / "out")
    # Runs of one character are cut by tie in a unigram model: neither library's order is wrong.
    lines = [line for text in prose[:10] for line in text.splitlines() if not re.search(r"(\S)\1\1", line)]
    assert len(lines) > 300
    assert_same_ids(source, tmp_path / "out", [*lines, *FOREIGN, "", "  ", "\ta \n", " \n a\n  b  "])
    check(source, tmp_path / "out")


def test_a_normaliser_that_transformers_applies_differently_is_refused(prose: list[str], tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, prose, model_type="bpe", byte_fallback=True)
    exported(tmp_path / "tokenizer.model", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"applies its normaliser's table .* normalization_rule_name=identity"):
        check(tmp_path / "tokenizer.model", tmp_path / "out")


def test_sentencepiece_of_characters_is_refused(prose: list[str], tmp_path: Path) -> None:
    train_sentencepiece(tmp_path, prose, model_type="char")
    with pytest.raises(DataError, match=r"tokenizer\.model: only BPE and unigram"):
        exported(tmp_path / "tokenizer.model", tmp_path / "out")


def test_other_ids_are_refused(bpe_folder: Path, tmp_path: Path) -> None:
    exported(bpe_folder, tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    content = json.loads(path.read_text())
    merges = content["model"]["merges"]
    merges[0], merges[60] = merges[60], merges[0]
    content["normalizer"] = {"type": "NFKC"}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"gives other ids in Hugging Face: for .* training has \["):
        check(bpe_folder, tmp_path / "out")


def test_a_sentencepiece_folder_keeps_its_settings(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(str(files("mistral_common") / "data" / "tokenizer.model.v1"), source / "tokenizer.model")
    added = {"32001": {"content": "<|im_end|>", "special": True}, "32003": {"content": "[PAD]", "special": True}}
    settings = {"eos_token": "<|im_end|>", "pad_token": "[PAD]", "add_bos_token": True, "added_tokens_decoder": added}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert exported(source, tmp_path / "out") == SpecialTokenIds(bos=1, eos=32001, pad=32003)
    check(source, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (len(tokenizer), tokenizer.eos_token, tokenizer.pad_token) == (32004, "<|im_end|>", "[PAD]")
    assert_same_ids(source, tmp_path / "out", list(FOREIGN))
    assert tokenizer("a")["input_ids"] == [1, *load_tokenizer(source).encode("a")]
    again = load_tokenizer(tmp_path / "out")
    assert (again.bos_id, again.eod_id, again.adds_bos, again.vocab_size) == (1, 32001, True, 32004)


@pytest.mark.parametrize(("bos", "template"), [("always", None), ("never", "<s> $A"), ("never", "$A <end>")])
def test_the_export_begins_texts_as_training_did(
    bos: str, template: str | None, bpe_folder: Path, tmp_path: Path
) -> None:
    """And ends no text: a model continues a prompt."""
    source = tmp_path / "source"
    source.mkdir()
    fast = FastTokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    fast.add_special_tokens(["<s>", "<end>"])
    if template:
        fast.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 501), ("<end>", 502)])
    fast.save(str(source / "tokenizer.json"))
    data = {"bos": bos, "eod_token": "<end>"}
    assert exported(source, tmp_path / "out", **data) == SpecialTokenIds(bos=501, eos=502, pad=502)
    check(source, tmp_path / "out", **data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a b")["input_ids"] == [*([501] if bos == "always" else []), *load_tokenizer(source).encode("a b")]
    assert load_tokenizer(tmp_path / "out").adds_bos == (bos == "always")
    assert tokenizer.eos_token == "<end>"


def test_named_tokens_without_an_id_are_left_out(bpe_folder: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    shutil.copytree(bpe_folder, source)
    named = {"eos_token": "<|endoftext|>", "pad_token": "[PAD]", "additional_special_tokens": ["<|endoftext|>", "[A]"]}
    (source / "tokenizer_config.json").write_text(json.dumps(named))
    output.mkdir()
    ids, notes = write_tokenizer(trained(source), output, model_max_length=77)
    assert ids == SpecialTokenIds(bos=None, eos=0, pad=0)
    assert [note.split(" is not")[0] for note in notes] == ["pad_token: '[PAD]'", "additional_special_tokens: '[A]'"]
    check(source, output)
    assert len(AutoTokenizer.from_pretrained(output)) == 501
    # What would have been written before: transformers adds the token behind the model's rows.
    settings = output / "tokenizer_config.json"
    (output / "special_tokens_map.json").unlink()
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": "[PAD]"}))
    with pytest.raises(CheckpointError, match=r"it has 502 ids, but the model 501 rows: '\[PAD\]' have none"):
        check(source, output)
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": None, "eos_token": None}))
    with pytest.raises(CheckpointError, match="eos_token is token None in Hugging Face, but 0 in training"):
        check(source, output)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*no such tokenizer"):
        exported(tmp_path / "nowhere", tmp_path / "out")


def train_sentencepiece(folder: Path, texts: list[str], **options: object) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in [*texts[:30], *FOREIGN] for line in text.splitlines()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=700,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
