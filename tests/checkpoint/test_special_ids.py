"""Ids of special tokens and settings of generation: carried from a folder through a checkpoint to the next folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_prealign.checkpoint.sharded import copy_tokenizer
from megatron_prealign.platform import shut_down_distributed
from tests.evaluation.folders import make_folder
from tools.convert_checkpoint import main

GENERATION = {"eos_token_id": [0, 5], "pad_token_id": 3, "do_sample": True, "temperature": 0.6}


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    yield
    shut_down_distributed()


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((content(path) if path.is_file() else {}) | values), encoding="utf-8")


def there_and_back(source: Path, tmp_path: Path) -> Path:
    """Import a folder and export it; return the exported folder."""
    assert main(["from-hf", "--model", str(source), "--output", str(tmp_path / "imported"), "--no-verify"]) == 0
    command = ["to-hf", "--checkpoint", str(tmp_path / "imported"), "--output", str(tmp_path / "back")]
    assert main([*command, "--no-verify"]) == 0
    return tmp_path / "back"


def test_a_chat_model_stops_where_it_stopped_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source", eos_token_id=[0, 5], pad_token_id=3)
    change(source / "generation_config.json", **GENERATION)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}!")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    back = there_and_back(source, tmp_path)
    expected = content(source / "generation_config.json")
    expected = {name: expected[name] for name in expected.keys() - {"transformers_version", "_from_model_config"}}
    assert content(back / "generation_config.json") == {"bos_token_id": None} | expected
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert content(back / "config.json")[name] == content(source / "config.json")[name]
    templates = AutoTokenizer.from_pretrained(back).chat_template
    assert templates == {"default": "{{ messages }}", "tools": "{{ messages }}!"}
    assert AutoModelForCausalLM.from_pretrained(back).generation_config.eos_token_id == [0, 5]
    assert "note:" not in capsys.readouterr().err
    # A run keeps what it was started from.
    copy_tokenizer(tmp_path / "imported" / "tokenizer", tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        path.name for path in (tmp_path / "imported" / "tokenizer").iterdir()
    }


def test_ids_of_config_json_stand_in_for_a_missing_generation_config(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", eos_token_id=[0, 5])
    (source / "generation_config.json").unlink()
    back = there_and_back(source, tmp_path)
    assert content(back / "generation_config.json")["eos_token_id"] == [0, 5]
    assert AutoModelForCausalLM.from_pretrained(back).generation_config.eos_token_id == [0, 5]


def test_config_and_tokenizer_that_disagree_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_folder(tmp_path / "source", eos_token_id=5)
    change(source / "config.json", pad_token_id=700)
    (source / "generation_config.json").unlink()
    change(source / "tokenizer_config.json", eos_token="<|endoftext|>")
    back = there_and_back(source, tmp_path)
    shown = capsys.readouterr().err
    assert "note: config.json: eos_token_id is 5, but the tokenizer's eos_token is '<|endoftext|>' (0)" in shown
    assert "note: config.json: pad_token_id 700 is no token of the tokenizer" in shown
    assert shown.count("eos_token_id is 5") == 4, "for both files, there and back"
    # Both end a text: the old model's choice, and what ends a document in training.
    assert content(back / "generation_config.json")["eos_token_id"] == [5, 0]


def test_the_named_end_of_a_document_goes_through_training(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", adds_bos=True)
    command = ["from-hf", "--model", str(source), "--output", str(tmp_path / "imported"), "--no-verify"]
    assert main([*command, "--eod-token", "<s>"]) == 0
    assert "eod_token: <s>" in (tmp_path / "imported" / "config.yaml").read_text()
    back = tmp_path / "back"
    assert main(["to-hf", "--checkpoint", str(tmp_path / "imported"), "--output", str(back)]) == 0
    assert AutoTokenizer.from_pretrained(back).eos_token == "<s>"
    assert content(back / "generation_config.json")["eos_token_id"] == [0, 699]
