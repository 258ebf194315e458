"""tools/evaluate.py end to end on a small folder: results file, tables, refusals."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from megatron_prealign.evaluation import kinds
from megatron_prealign.evaluation.folder import open_folder
from tests.evaluation.folders import PROSE, make_folder
from tools.evaluate import main

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
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
    assert results["tasks"]["perplexity"]["results"] == results["perplexity"]
    assert results["tasks"]["retrieval_held_out"]["options"]["known_lexicons"] == [str(inputs["trained.tsv"])]
    assert set(results["versions"]) == {"megatron_prealign", "torch", "transformers"}

    shown = capsys.readouterr()
    assert "Retrieval trained, en-zh (2 pairs)" in shown.out
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
        "--max-pairs: max_pairs should be greater than 0, got 0",
        "nowhere: no such folder",
    ):
        assert problem in shown.err, problem
    assert not inputs["out.json"].exists()


def test_nothing_to_evaluate_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert main(["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out.json")]) == 2
    shown = capsys.readouterr().err
    assert "2 problems:" in shown
    assert "no tokenizer.json" in shown
    assert main(["--model", str(folder), "--output", str(tmp_path / "out.json")]) == 2
    assert "nothing to evaluate" in capsys.readouterr().err


def test_model_and_output_are_needed_and_mistakes_in_tasks_are_told_with_those_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks.yaml").write_text("- evaluation: perplexty\n- evaluation: word_retrieval\n")
    assert main(["--tasks", str(tmp_path / "tasks.yaml"), "--text", "en=gone.jsonl"]) == 2
    shown = capsys.readouterr().err
    for problem in (
        "5 problems:",
        "tasks.yaml:1: unknown evaluation 'perplexty'; did you mean perplexity?; known are ",
        "tasks.yaml:2: word_retrieval needs the option lexicons",
        "gone.jsonl: no such input file",
        "--model is required",
        "--output is required",
    ):
        assert problem in shown, problem


def test_the_list_shows_evaluations_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"perplexity +Perplexity of each language", shown)
    assert re.search(r"word_retrieval +Word translation", shown)
    assert main(["--list", "word_retrieval"]) == 0
    assert "max_pairs" in capsys.readouterr().out
    assert main(["--list", "nothing"]) == 2
    assert "known are " in capsys.readouterr().err


def test_the_new_evaluation_of_the_docs_works_as_it_stands_there(
    folder: Path,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = re.search(r"<!-- new evaluation -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "likely_tokens.py").write_text(block[1], encoding="utf-8")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path / "kinds")])
    assert main(["--list"]) == 0
    assert "likely_tokens" in capsys.readouterr().out
    texts = [" ".join(text.split())[:100] for text in PROSE[:3]]
    (tmp_path / "en.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "tasks.yaml").write_text(
        f"- evaluation: likely_tokens\n  texts: {{en: {tmp_path / 'en.txt'}}}\n  num_likeliest: 60\n"
    )
    arguments = ["--model", str(folder), "--tasks", str(tmp_path / "tasks.yaml"), "--output", str(inputs["out.json"])]
    assert main(arguments) == 0
    assert "en share" in capsys.readouterr().out
    results = json.loads(inputs["out.json"].read_text())
    assert (results["perplexity"], results["retrieval"]) == ({}, {})

    opened = open_folder(folder)
    hits = []
    for text in texts:
        ids = [*opened.document_start, *opened.tokenizer.encode(text)]
        with torch.inference_mode():
            logits = opened.model(torch.tensor([ids])).logits[0]
        for position, token in enumerate(ids[1:]):
            hits.append(int((logits[position] > logits[position, token]).sum()) < 60)
    assert 0 < sum(hits) < len(hits)
    assert results["tasks"]["likely_tokens"]["results"] == {"en": {"share": sum(hits) / len(hits), "tokens": len(hits)}}

    # A list that grew: only the new task is run.
    with (tmp_path / "tasks.yaml").open("a") as stream:
        stream.write(f"- evaluation: perplexity\n  texts: {{en: {tmp_path / 'en.txt'}}}\n")
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    shown = capsys.readouterr().err
    assert "perplexity en: 3/3" in shown
    assert "likely_tokens" not in shown
