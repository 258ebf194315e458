import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.paper.clone import clone_tokenizer
from megatron_prealign.errors import ConfigError, DataError
from megatron_prealign.text.backends import why_not_gigatoken
from megatron_prealign.text.frame import DocumentFrame, document_frame
from megatron_prealign.text.tokenizer import load_tokenizer
from megatron_prealign.text.tokenizer_training import sample_texts, sampling_rates
from tools.train_tokenizer import main

# Python's own help, about 600 kB of English prose and code.
TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]
GERMAN = ["Die Bank steht am Fluß, die Straße ist lang.", "Häuser und Bäume stehen am Ufer des Flusses."] * 20
HINDI = "मेरी माँ घर पर है। दो किताबें"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TOPICS[:40]]
    (folder / "en.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "de.txt").write_text("\n".join(GERMAN), encoding="utf-8")
    return folder


def train(corpora: Path, output: Path, *options: str, vocab_size: int = 800) -> int:
    inputs = ["--input", f"en={corpora / 'en.jsonl'}", "--input", f"de={corpora / 'de.txt'}"]
    return main([*inputs, "--vocab-size", str(vocab_size), "--output", str(output), *options])


@pytest.fixture(scope="module")
def bpe_folder(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe") / "tokenizer"
    assert train(corpora, folder, "--special-tokens", "<|endoftext|>", "<|user|>") == 0
    return folder


@pytest.fixture(scope="module")
def clonable_folder(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clonable") / "tokenizer"
    assert train(corpora, folder, "--clonable") == 0
    return folder


def test_bpe_folder_loads_in_transformers(bpe_folder: Path) -> None:
    assert sorted(file.name for file in bpe_folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    plain = Tokenizer.from_file(str(bpe_folder / "tokenizer.json"))
    assert plain.get_vocab_size() == 800
    for loaded in (AutoTokenizer.from_pretrained(bpe_folder), PreTrainedTokenizerFast.from_pretrained(bpe_folder)):
        assert (len(loaded), loaded.eos_token_id, loaded.bos_token_id) == (800, 0, 0)
        assert loaded.convert_tokens_to_ids("<|user|>") == 1
        for text in [*TOPICS[40:50], HINDI, "  two  spaces , and\n\nlines .", "one<|endoftext|>two"]:
            assert loaded(text)["input_ids"] == plain.encode(text).ids
            assert loaded.decode(loaded(text)["input_ids"]) == text


def test_documents_begin_without_the_bos_token(bpe_folder: Path) -> None:
    loaded = load_tokenizer(bpe_folder)
    assert (loaded.bos_id, loaded.eod_id, loaded.adds_bos) == (0, 0, False)
    assert document_frame(loaded) == DocumentFrame(None, 0)


def test_bpe_is_encoded_by_gigatoken_and_in_chunks(bpe_folder: Path) -> None:
    pytest.importorskip("gigatoken")
    loaded = load_tokenizer(bpe_folder)
    assert (why_not_gigatoken(loaded), loaded.splits_at_spaces) == (None, True)


# As parts that no token crosses, and with --clonable where that differs.
SPLITS = {
    "मेरी माँ है।": ("मेरी", " माँ", " है", "।"),
    "ภาษาไทยที่นี่ น้ำ": ("ภาษาไทยที่นี่", " น้ำ"),
    "vie\u0323\u0302t เก๊ مُحَمَّد": ("vie\u0323\u0302t", " เก๊", " مُحَمَّد"),
    "« Он, «да» (so) “no”": ("«", " Он", ",", " «", "да", "»", " (", "so", ")", " “", "no", "”"),
}
BY_RULE = {
    "It's 2024, don't!\n\n  x": (
        ("It", "'s", " ", "2", "0", "2", "4", ",", " don", "'t", "!\n\n", " ", " x"),
        ("It", "'", "s", " ", "2", "0", "2", "4", ",", " don", "'", "t", "!", "\n\n ", " x"),
    ),
    "l'eau “a”—b": (("l", "'eau", " “", "a", "”—", "b"), ("l", "'", "eau", " “", "a", "”—", "b")),
}


def test_no_token_joins_a_mark_to_the_word_behind_it(bpe_folder: Path) -> None:
    texts = [data.decode(errors="ignore") for data in load_tokenizer(bpe_folder).token_bytes]
    assert [text for text in texts if text[1:].isalpha() and not text[0].isalpha() and text[0] != " "] == []


@pytest.mark.parametrize("is_clonable", [False, True])
def test_bpe_splits_words_digits_and_marks(bpe_folder: Path, clonable_folder: Path, is_clonable: bool) -> None:
    tokenizer = Tokenizer.from_file(str((clonable_folder if is_clonable else bpe_folder) / "tokenizer.json"))

    def pieces(text: str) -> tuple[str, ...]:
        return tuple(text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text))

    expected = SPLITS | {text: pair[is_clonable] for text, pair in BY_RULE.items()}
    assert {text: pieces(text) for text in expected} == expected


def test_only_clonable_bpe_can_be_cloned(bpe_folder: Path, clonable_folder: Path) -> None:
    plain, clonable = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (bpe_folder, clonable_folder)
    )
    assert len(clone_tokenizer(clonable)["model"]["vocab"]) == 1600
    with pytest.raises(DataError, match=r"train one with tools/train_tokenizer\.py --clonable"):
        clone_tokenizer(plain)


def test_sentencepiece_model(corpora: Path, tmp_path: Path) -> None:
    options = ["--model-type", "sentencepiece", "--special-tokens", "<|endoftext|>", "<|user|>"]
    assert train(corpora, tmp_path / "m.model", *options) == 0
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    assert (model.vocab_size(), model.eos_id(), model.bos_id(), model.pad_id()) == (800, 1, -1, -1)
    assert [model.id_to_piece(index) for index in range(3)] == ["<unk>", "<|endoftext|>", "<|user|>"]
    for text in [*TOPICS[40:50], HINDI, "  two  spaces\n\nlines\t."]:
        ids = model.encode(text)
        assert model.decode(ids) == text
        assert model.unk_id() not in ids
    assert model.eos_id() not in model.encode("one <|endoftext|> two")


@pytest.mark.parametrize("model_type", ["bpe", "sentencepiece"])
def test_training_is_deterministic(corpora: Path, tmp_path: Path, model_type: str) -> None:
    def content(name: str) -> bytes:
        assert train(corpora, tmp_path / name, "--model-type", model_type, vocab_size=500) == 0
        file = tmp_path / name / "tokenizer.json"
        return (file if file.exists() else tmp_path / name).read_bytes()

    assert content("first") == content("second")


def test_temperature_moves_the_vocabulary(corpora: Path, tmp_path: Path) -> None:
    def num_german(temperature: str) -> int:
        assert train(corpora, tmp_path / temperature, "--temperature", temperature) == 0
        vocab = Tokenizer.from_file(str(tmp_path / temperature / "tokenizer.json")).get_vocab()
        return sum(token in vocab for token in ("ĠStraÃŁe", "HÃ¤user", "ĠBÃ¤ume", "ĠFluÃŁ", "ĠUfer"))

    assert num_german("0.0") == 5
    assert num_german("1.0") < 5


def test_sampling_rates_follow_the_power_law() -> None:
    sizes = {"en": 10_000, "de": 100}
    rates = sampling_rates(sizes, 0.5)
    shares = {language: rates[language] * size for language, size in sizes.items()}
    assert sum(shares.values()) == pytest.approx(10_100)
    assert shares["en"] / shares["de"] == pytest.approx(10.0)
    assert sampling_rates(sizes, 1.0) == pytest.approx({"en": 1.0, "de": 1.0})
    with pytest.raises(ConfigError, match="temperature"):
        sampling_rates(sizes, 1.5)


def test_sample_repeats_documents_at_the_rate() -> None:
    def texts() -> Iterator[str]:
        return (str(index) for index in range(2000))

    def sample(rate: float, seed: int = 1) -> list[str]:
        return list(sample_texts({"en": texts}, {"en": rate}, seed))

    assert sample(1.0) == list(texts())
    assert len(sample(3.0)) == 6000
    assert 4400 < len(sample(2.25)) < 4600  # 4500 expected, standard deviation 19
    assert {sample(2.25).count(str(index)) for index in range(20)} == {2, 3}
    assert 400 < len(sample(0.25)) < 600
    assert sample(0.25) == sample(0.25) != sample(0.25, seed=2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--input", "en"], "write LANG=PATH"),
        (["--input", "en="], "write LANG=PATH"),
        (["--input", "fr=none.jsonl"], "none.jsonl: no such input file"),
        (["--json-key", "body"], "en.jsonl:1: no text under the key 'body'"),
        (["--temperature", "2"], "--temperature must be in [0, 1], got 2.0"),
        (["--vocab-size", "256"], "need 257"),
        (["--vocab-size", "257", "--model-type", "sentencepiece"], "need 258"),
        (["--vocab-size", "200000"], "lower --vocab-size to"),
        (["--vocab-size", "200000", "--model-type", "sentencepiece"], "Vocabulary size too high"),
        (["--special-tokens", "<a>", "<a>"], "repeat"),
        (["--special-tokens", ""], "give at least one"),
        (["--clonable", "--model-type", "sentencepiece"], "--clonable is for --model-type bpe"),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    corpora: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert train(corpora, tmp_path / "out", *options) == 2
    assert reason in capfd.readouterr().err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_every_bad_line_is_told(corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": 1}\n{"text": "fine"}\n{\n')
    assert train(corpora, tmp_path / "out", "--input", f"fr={bad}") == 2
    error = capsys.readouterr().err
    assert error.count("bad.jsonl:") == 2
    assert "bad.jsonl:1:" in error
    assert "bad.jsonl:3:" in error


def test_empty_language(corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    assert train(corpora, tmp_path / "out", "--input", f"fr={empty}") == 2
    assert "fr: all documents are empty" in capsys.readouterr().err


def test_existing_output_stays_unless_asked(corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine").write_text("mine")
    assert train(corpora, output) == 2
    assert "exists" in capsys.readouterr().err
    assert (output / "mine").exists()
    assert train(corpora, output, "--overwrite") == 0
    assert not (output / "mine").exists()
