"""from-hf with a tokenizer that grew: what the rows of new ids hold, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_prealign.checkpoint.tensors import CheckpointTensors
from megatron_prealign.config import load_resolved
from megatron_prealign.platform import shut_down_distributed
from megatron_prealign.text.tokenizer import Tokenizer, load_tokenizer
from tests.evaluation.folders import make_folder, tokenizer_json
from tools.convert_checkpoint import main

GROWN = 760
NAMES = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "output_layer.weight": "lm_head.weight",
}


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    yield
    shut_down_distributed()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grown") / "tokenizer.json"
    path.write_text(tokenizer_json(vocab_size=GROWN), encoding="utf-8")
    return path


def run(source: Path, output: Path, *options: object) -> int:
    return main(["from-hf", "--model", str(source), "--output", str(output), *map(str, options)])


def new_words(grown: Path) -> list[tuple[int, str]]:
    """Return new ids that are words behind a space, with the words."""
    tokens = enumerate(load_tokenizer(grown).token_bytes)
    found = [(index, token[1:]) for index, token in tokens if index >= 700 and token[:1] == b" "]
    return [(index, word.decode()) for index, word in found if word.isalpha()]


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_new_rows_are_the_mean_or_zero_and_the_others_stay(
    method: str, folder: Path, grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, tmp_path / "out", "--tokenizer", grown, "--new-rows", method) == 0
    assert "60 new vocabulary rows" in capsys.readouterr().err
    assert load_resolved(tmp_path / "out" / "config.yaml").model.vocab_size == GROWN
    stored, before = CheckpointTensors(tmp_path / "out"), load_file(folder / "model.safetensors")
    for name, source in NAMES.items():
        rows = stored[name]
        assert torch.equal(rows[:700], before[source])
        expected = before[source].mean(0) if method == "mean" else torch.zeros(32)
        assert torch.equal(rows[700:GROWN], expected.expand(60, -1))
        assert rows.shape == (768, 32)
        assert not rows[GROWN:].any()
    # The checkpoint is one like any other: it becomes a folder of the larger vocabulary.
    shut_down_distributed()
    assert main(["to-hf", "--checkpoint", str(tmp_path / "out"), "--output", str(tmp_path / "back")]) == 0
    assert load_file(tmp_path / "back" / "model.safetensors")["lm_head.weight"].shape == (GROWN, 32)


def test_rows_that_the_model_had_to_spare_are_taken_first(grown: Path, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", vocab_size=764)
    assert run(source, tmp_path / "out", "--tokenizer", grown, "--new-rows", "mean") == 0
    assert load_resolved(tmp_path / "out" / "config.yaml").model.vocab_size == 764
    before = load_file(source / "model.safetensors")["lm_head.weight"]
    rows = CheckpointTensors(tmp_path / "out")["output_layer.weight"]
    assert torch.equal(rows[700:GROWN], before[:700].mean(0).expand(60, -1))
    assert torch.equal(rows[GROWN:764], before[GROWN:])


def test_new_rows_of_the_lexicon_are_those_of_the_likeliest_translation(
    folder: Path, grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, one), (second, two), (third, three), (fourth, four), (unknown, _), *_ = new_words(grown)
    pairs = [
        f"statement\t{one}\tde\t0.4",
        f"string\t{one}\tde\t0.6",
        # The other way round, into a language without spaces.
        f"{two}\t银行\tzh\t1.0",
        # Both are new: the old tokenizer knows them in pieces.
        f"{three}\t{four}\tde\t1.0",
    ]
    (tmp_path / "lexicon.tsv").write_text("".join(f"{pair}\n" for pair in pairs), encoding="utf-8")
    options = ("--tokenizer", grown, "--new-rows", "lexicon", "--lexicon", tmp_path / "lexicon.tsv")
    assert run(folder, tmp_path / "out", *options, "--no-verify") == 0
    assert "4 from a translation, 56 the mean of the old ones" in capsys.readouterr().err

    old: Tokenizer = load_tokenizer(folder)
    stored, before = CheckpointTensors(tmp_path / "out"), load_file(folder / "model.safetensors")
    for name, source in NAMES.items():
        rows, known = stored[name], before[source]
        assert torch.equal(rows[first], known[old.encode(" string")].mean(0))
        assert torch.equal(rows[second], known[old.encode("银行")].mean(0))
        assert torch.equal(rows[third], known[old.encode(f" {four}")].mean(0))
        assert torch.equal(rows[fourth], known[old.encode(f" {three}")].mean(0))
        assert torch.equal(rows[unknown], known.mean(0))


def test_what_cannot_grow_is_refused_with_the_reason(
    folder: Path, grown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    another = tmp_path / "another.json"
    another.write_text(tokenizer_json(is_qwen=True, vocab_size=GROWN), encoding="utf-8")
    lexicon = tmp_path / "lexicon.tsv"
    refused = {
        ("--tokenizer", grown): "760 ids, but the model has 700 embedding rows",
        ("--new-rows", "mean"): "has 700 ids and the model has 700: none is new",
        ("--tokenizer", another, "--new-rows", "mean"): "ids stand for other text than in",
        ("--tokenizer", grown, "--new-rows", "lexicon"): "--new-rows lexicon and --lexicon FILE go together",
        ("--tokenizer", grown, "--new-rows", "zero", "--lexicon", lexicon): "go together",
        ("--tokenizer", grown, "--new-rows", "lexicon", "--lexicon", lexicon): "lexicon.tsv",
    }
    for options, reason in refused.items():
        assert run(folder, tmp_path / "out", *options, "--no-verify") == 2
        assert reason in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["another.json"]
