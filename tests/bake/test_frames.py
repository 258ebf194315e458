"""The tokens around documents: named in a bake, kept in its manifest, and the same in all data of a run."""

import json
from pathlib import Path

import pytest

from megatron_prealign.bake.merge import merge_datasets
from megatron_prealign.config.data import BlendEntry, DataConfig
from megatron_prealign.dataset.indexed import IndexedReader
from megatron_prealign.dataset.manifest import read_manifest
from megatron_prealign.dataset.mix import check_blend
from megatron_prealign.errors import DataError
from megatron_prealign.text.tokenizer import load_tokenizer
from tools.preprocess_codeswitch import main

EOD, BOS, CHAT_END = 0, 2000, 2001


@pytest.fixture
def tokenizer_folder(bpe_folder: Path, tmp_path: Path) -> Path:
    """A tokenizer with a begin-of-document token that it does not add, and whose eos_token ends a turn."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    definition = json.loads((bpe_folder / "tokenizer.json").read_text(encoding="utf-8"))
    more = definition["added_tokens"][0]
    definition["added_tokens"] += [more | {"id": BOS, "content": "<s>"}, more | {"id": CHAT_END, "content": "<end>"}]
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>", "bos_token": "<s>"}', encoding="utf-8")
    return folder


@pytest.fixture
def prefixes(tokenizer_folder: Path, tmp_path: Path) -> dict[str, str]:
    """One text baked with three frames."""
    (tmp_path / "text.txt").write_text("The bank is closed.\n", encoding="utf-8")
    command = ["--input", str(tmp_path / "text.txt"), "--tokenizer-model", str(tokenizer_folder), "--append-eod"]
    frames = {"plain": [], "named": ["--eod-token", "<|endoftext|>"], "begun": ["--bos", "always"]}
    for name, options in frames.items():
        assert main([*command, *options, "--output-prefix", str(tmp_path / name)]) == 0
    return {name: str(tmp_path / f"{name}_text_document") for name in frames}


def test_documents_have_the_frame_of_the_options(prefixes: dict[str, str], tokenizer_folder: Path) -> None:
    ids = load_tokenizer(tokenizer_folder).encode("The bank is closed.")
    expected = {"plain": [*ids, CHAT_END], "named": [*ids, EOD], "begun": [BOS, *ids, CHAT_END]}
    for name, prefix in prefixes.items():
        assert IndexedReader(prefix).tokens.tolist() == expected[name]
        content = read_manifest(prefix).content
        assert content["eod_id"] == expected[name][-1]
        assert content["bos_id"] == (BOS if name == "begun" else None)


def test_a_run_expects_the_frame_of_its_data(prefixes: dict[str, str], tokenizer_folder: Path) -> None:
    def problems(name: str, **settings: object) -> list[str]:
        data = DataConfig(
            tokenizer_path=str(tokenizer_folder),
            blend=(BlendEntry(prefix=prefixes[name]),),
            **settings,  # type: ignore[arg-type]
        )
        return check_blend(data, load_tokenizer(tokenizer_folder, data.eod_token))

    assert problems("plain") == problems("plain", reset_attention_mask=True) == []
    assert problems("named", eod_token="<|endoftext|>", reset_attention_mask=True) == []
    assert problems("begun", bos="always") == []
    (problem,) = problems("named")
    assert f"its documents end with token {EOD}, but this run's end-of-document token is {CHAT_END}" in problem
    (problem,) = problems("begun")
    assert f"begin with token {BOS}, but this run expects that they begin without a token; set data.bos" in problem
    (problem,) = problems("plain", bos="always")
    assert "set data.bos to the bake's --bos (never), or bake again" in problem


def test_different_frames_are_not_merged(prefixes: dict[str, str], tmp_path: Path) -> None:
    for name, reason in (("named", "its eod id is 0"), ("begun", "its bos id is 2000")):
        with pytest.raises(DataError, match=reason):
            merge_datasets([prefixes["plain"], prefixes[name]], tmp_path / "merged")


def test_an_end_that_no_document_gets_is_refused(
    tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("x\n", encoding="utf-8")
    command = ["--input", str(tmp_path / "text.txt"), "--tokenizer-model", str(tokenizer_folder)]
    command += ["--output-prefix", str(tmp_path / "out"), "--eod-token"]
    assert main([*command, "<|endoftext|>"]) == 2
    assert "--eod-token <|endoftext|>: without --append-eod nothing ends a document" in capsys.readouterr().err
    assert main([*command, "bank", "--append-eod"]) == 2
    assert "'bank' can't end documents: it is not a special token" in capsys.readouterr().err
