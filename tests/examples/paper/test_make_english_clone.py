import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from examples.paper.clone import clone_ids, count_words, shared_ids
from examples.paper.clone_characters import clone_text, unclone_text
from examples.paper.make_english_clone import main
from megatron_prealign.lexicon import read_lexicon
from tools.train_tokenizer import main as train_tokenizer

TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus and a tokenizer trained on a part of it."""
    folder = tmp_path_factory.mktemp("english")
    for name, texts in (("a", TOPICS[:30]), ("b", TOPICS[30:45])):
        lines = [json.dumps({"id": index, "body": text}) for index, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    options = ["--clonable", "--json-key", "body", "--vocab-size", "900", "--output", str(folder / "tok")]
    assert train_tokenizer(["--input", f"en={folder / 'a.jsonl'}", *options]) == 0
    return folder


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with everything the tool makes."""
    made = tmp_path_factory.mktemp("clone")
    assert main(arguments(folder, made)) == 0
    return made


def arguments(folder: Path, made: Path) -> list[str]:
    options: dict[str, Any] = {
        "tokenizer": folder / "tok",
        "output-tokenizer": made / "tok",
        "json-key": "body",
        "output-text": made / "clone.jsonl",
        "output-lexicon": made / "en-clone.tsv",
        "held-out-ratio": 0.2,
        "output-held-out-lexicon": made / "held.tsv",
        "min-count": 3,
    }
    inputs = ["--input", str(folder / "a.jsonl"), "--input", str(folder / "b.jsonl")]
    return inputs + [text for name, value in options.items() for text in (f"--{name}", str(value))]


def test_tokenizer_gives_transformers_the_ids_plus_v(folder: Path, made: Path) -> None:
    assert sorted(file.name for file in (made / "tok").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    shared = shared_ids(json.loads((folder / "tok" / "tokenizer.json").read_text(encoding="utf-8")))
    base = AutoTokenizer.from_pretrained(folder / "tok")
    plain = Tokenizer.from_file(str(made / "tok" / "tokenizer.json"))
    for clone in (AutoTokenizer.from_pretrained(made / "tok"), PreTrainedTokenizerFast.from_pretrained(made / "tok")):
        assert (len(clone), clone.eos_token_id) == (1800, base.eos_token_id)
        for text in TOPICS[45:60]:
            ids = clone(clone_text(text))["input_ids"]
            assert ids == clone_ids(base(text)["input_ids"], shared, 900) == plain.encode(clone_text(text)).ids
            assert clone.decode(ids) == clone_text(text)
            assert clone(text)["input_ids"] == base(text)["input_ids"]


def test_literal_special_token_is_read_as_by_the_base(folder: Path, made: Path) -> None:
    base, clone = (Tokenizer.from_file(str(path / "tok" / "tokenizer.json")) for path in (folder, made))
    text = "one<|endoftext|>two"
    assert clone.encode(text).ids == base.encode(text).ids
    assert base.token_to_id("<|endoftext|>") in clone.encode(text).ids
    assert base.token_to_id("<|endoftext|>") not in clone.encode(clone_text(text)).ids


def test_text_is_cloned_and_other_keys_kept(made: Path) -> None:
    records = [json.loads(line) for line in (made / "clone.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [unclone_text(record["body"]) for record in records] == TOPICS[:45]
    assert [record["id"] for record in records] == [*range(30), *range(15)]
    assert not any(character.isascii() and character.isalnum() for record in records for character in record["body"])


def test_lexicon_holds_the_frequent_words_in_two_parts(made: Path) -> None:
    counts = count_words(TOPICS[:45])
    train, held_out = (read_lexicon([made / name], "en") for name in ("en-clone.tsv", "held.tsv"))
    words = {entry.word for part in (train, held_out) for entry in part.entries}
    assert words == {word for word, count in counts.items() if count >= 3}
    assert len(train) + len(held_out) == len(words)
    assert 0.1 < len(held_out) / len(words) < 0.3
    assert train.entries[0].word == max(counts, key=lambda word: counts[word])
    assert all(t.word == clone_text(word) and t.language == "clone" for word, t in train.pairs())


def test_parts_can_be_made_alone(folder: Path, tmp_path: Path) -> None:
    tokenizer = str(folder / "tok" / "tokenizer.json")
    assert main(["--tokenizer", tokenizer, "--output-tokenizer", str(tmp_path / "tok")]) == 0
    assert json.loads((tmp_path / "tok" / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"
    text = tmp_path / "words.txt"
    text.write_text("one two two three three three\nthree\n")
    options = ["--lexicon-input", str(text), "--output-lexicon", str(tmp_path / "l.tsv")]
    assert main([*options, "--min-count", "2", "--max-words", "1"]) == 0
    assert [entry.word for entry in read_lexicon([tmp_path / "l.tsv"], "en").entries] == ["three"]
    assert main(["--input", str(text), "--output-text", str(tmp_path / "c.jsonl")]) == 0
    assert [json.loads(line)["text"] for line in (tmp_path / "c.jsonl").read_text(encoding="utf-8").splitlines()] == [
        clone_text("one two two three three three"),
        clone_text("three"),
    ]


def test_seed_moves_the_held_out_words(folder: Path, tmp_path: Path) -> None:
    def held_out(seed: int) -> set[str]:
        path = tmp_path / f"{seed}"
        path.mkdir()
        assert main([*arguments(folder, path), "--seed", str(seed)]) == 0
        return {entry.word for entry in read_lexicon([path / "held.tsv"], "en").entries}

    assert held_out(1) != held_out(2)


def test_settings_of_another_class_are_replaced(folder: Path, tmp_path: Path) -> None:
    """A named class would build its own pre-tokenizer, so transformers must not see its name."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.json").write_bytes((folder / "tok" / "tokenizer.json").read_bytes())
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "model_max_length": 99}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    assert main(["--tokenizer", str(base), "--output-tokenizer", str(tmp_path / "tok")]) == 0
    written = json.loads((tmp_path / "tok" / "tokenizer_config.json").read_text())
    assert written == settings | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--held-out-ratio", "1"], "give a number in [0, 1)"),
        (["--held-out-ratio", "0"], "belong together"),
        (["--min-count", "0"], "at least 1"),
        (["--max-words", "0"], "at least 1"),
        (["--min-count", "1000000"], "no word is left"),
        (["--max-words", "1"], "would be held out"),
        (["--tokenizer", "none"], "none: can't be read"),
        (["--input", "none.jsonl"], "none.jsonl: no such input file"),
        (["--json-key", "text"], "a.jsonl:1: no text under the key 'text'"),
        (["--output-lexicon", "no/such/folder.tsv"], "its folder does not exist"),
    ],
)
def test_bad_input_is_one_error_and_no_output(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert main([*arguments(folder, tmp_path), *options]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "nothing to make"),
        (["--output-tokenizer", "x"], "needs --tokenizer"),
        (["--output-text", "x"], "needs --input"),
        (["--output-lexicon", "x"], "needs --lexicon-input or --input"),
        (["--output-held-out-lexicon", "x", "--held-out-ratio", "0.1"], "needs --output-lexicon"),
        (["--output-lexicon", "x", "--output-text", "./x", "--input", "y"], "the same name"),
    ],
)
def test_options_that_miss_their_partner(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert reason in capsys.readouterr().err


def test_every_document_with_clone_characters_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"body": "fine"}\n{"body": "Բարեւ"}\n{"body": "߁"}\n', encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    assert main([*arguments(folder, out), "--input", str(bad)]) == 2
    error = capsys.readouterr().err
    assert "bad.jsonl:2: holds 'Բ' (U+0532)" in error
    assert "bad.jsonl:3: holds '߁' (U+07C1)" in error
    assert list(out.iterdir()) == []


def test_tokenizer_that_cannot_be_cloned(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((folder / "tok" / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert main(["--tokenizer", str(tmp_path), "--output-tokenizer", str(tmp_path / "tok")]) == 2
    assert "can't be cloned: its normalizer NFC" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    assert main(["--tokenizer", str(tmp_path), "--output-tokenizer", str(tmp_path / "tok")]) == 2
    assert "no tokenizer.json" in capsys.readouterr().err


def test_existing_outputs_stay_unless_asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / "held.tsv").write_text("mine")
    assert main(arguments(folder, tmp_path)) == 2
    assert capsys.readouterr().err.count("exists") == 2
    assert (tmp_path / "held.tsv").read_text() == "mine"
    assert main([*arguments(folder, tmp_path), "--overwrite"]) == 0
    assert len(list(tmp_path.iterdir())) == 4
