"""tools/evaluate.py end to end on a small folder: results file, tables, refusals."""

import json
from pathlib import Path

import pytest

from tests.evaluation.folders import PROSE, make_folder
from tools.evaluate import main

PAIRS = "bank\tBank\tde\t1\nbank\tUfer\tde\t1\nhouse\tHaus\tde\t1\nriver\t河\tzh\t1\nbank\t银行\tzh\t1\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("hf") / "tiny-model")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("en.jsonl", "de.jsonl", "trained.tsv", "held.tsv", "out.json")}
    paths["en.jsonl"].write_text("".join(json.dumps({"content": text[:300]}) + "\n" for text in PROSE[:4]))
    paths["de.jsonl"].write_text(json.dumps({"content": "Die Straße ist lang."}) + "\n")
    paths["trained.tsv"].write_text(PAIRS)
    paths["held.tsv"].write_text("word\tWort\tde\t1\n")
    return paths


def test_results_hold_perplexity_and_retrieval_by_language(
    folder: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(folder), "--json-key", "content", "--source-language", "en"]
    arguments += ["--text", f"en={inputs['en.jsonl']}", "--text", f"de={inputs['de.jsonl']}"]
    arguments += ["--lexicon", str(inputs["trained.tsv"]), "--held-out-lexicon", str(inputs["held.tsv"])]
    arguments += ["--output", str(inputs["out.json"])]
    assert main(arguments) == 0

    results = json.loads(inputs["out.json"].read_text())
    assert results["model"] == "tiny-model"
    assert list(results["perplexity"]) == ["en", "de"]
    english = results["perplexity"]["en"]
    assert english["documents"] == 4
    assert english["tokens"] > 300
    assert english["perplexity"] > english["byte_perplexity"] > 1
    assert results["taps"] == ["embedding", "layer_1", "layer_2", "output_embedding"]
    assert {name: list(pairs) for name, pairs in results["retrieval"].items()} == {
        "trained": ["en-de", "en-zh"],
        "held_out": ["en-de"],
    }
    trained = results["retrieval"]["trained"]["en-de"]
    assert (trained["num_pairs"], trained["num_source_words"], trained["num_target_words"]) == (3, 2, 3)
    assert all(len(trained[score]) == 4 for score in ("p_at_1", "mean_cosine", "anisotropy"))
    # One pair: its only target is always nearest, and there is no random pair.
    held_out = results["retrieval"]["held_out"]["en-de"]
    assert held_out["p_at_1"] == [1.0] * 4
    assert held_out["anisotropy"] == [None] * 4
    assert results["settings"]["window"] == 64
    assert set(results["versions"]) == {"megatron_prealign", "torch", "transformers"}

    shown = capsys.readouterr()
    assert "Retrieval en-zh, trained words (2 pairs)" in shown.out
    assert "perplexity en: " in shown.err
    assert main(arguments) == 2
    assert "out.json exists: name another file, or pass --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--window", "8"]) == 0
    assert json.loads(inputs["out.json"].read_text())["settings"]["window"] == 8


def test_everything_wrong_is_told_at_once_and_nothing_is_written(
    tmp_path: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "bad.tsv").write_text("bank\tBank\tde\t1\nbank only\n")
    arguments = ["--model", str(tmp_path / "nowhere"), "--text", "en", "--text", f"en={tmp_path / 'missing.jsonl'}"]
    arguments += ["--text", f"de={tmp_path / 'blank.jsonl'}", "--text", f"fr={inputs['de.jsonl']}"]
    arguments += ["--lexicon", str(tmp_path / "bad.tsv"), "--max-pairs", "0", "--output", str(inputs["out.json"])]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    for problem in (
        "--text en: write it as LANGUAGE=PATH",
        "missing.jsonl: no such input file",
        "blank.jsonl: all its documents are empty",
        "de.jsonl:1: no text under the key 'text'",
        "bad.tsv:2: ",
        "--max-pairs is 0",
        "nowhere: no such folder",
    ):
        assert problem in shown.err, problem
    assert not inputs["out.json"].exists()


def test_nothing_to_evaluate_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(folder), "--output", str(tmp_path / "out.json")]) == 2
    assert "nothing to evaluate" in capsys.readouterr().err
