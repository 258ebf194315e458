"""The real-lexicon example: one lexicon of two dictionaries, parts of the held-out words, steps that fit together."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from examples.real_lexicons import align, analysis, lexicons
from megatron_prealign.config.loading import load_resolved
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.retrieval import measure_retrieval
from megatron_prealign.lexicon import read_lexicon
from tests.evaluation.folders import make_folder

EXAMPLE = Path(align.__file__).parent
PAIRS = """house\tHaus\tde\nhouse\t房子\tzh\nwater\tWasser\tde\nwater\t水\tzh\nriver\t河\tzh
lake\tWasser\tde\nwater-house\tWasserhaus\tde\n"""


def test_frequent_words_are_kept_and_some_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.tsv").write_text(PAIRS, encoding="utf-8")
    output = tmp_path / "lexicon"
    arguments = ["--lexicon", str(tmp_path / "all.tsv"), "--output", str(output), "--num-words", "4"]
    assert lexicons.main([*arguments, "--held-out-ratio", "0.3"]) == 0
    trained, held_out = (read_lexicon([output / name], "en") for name in ("lexicon.tsv", "held_out.tsv"))
    words = [{entry.word for entry in lexicon.entries} for lexicon in (trained, held_out)]
    assert all(words)
    assert words[0] | words[1] == {"house", "water", "river", "lake"}
    assert not words[0] & words[1]
    counts = json.loads((output / "counts.json").read_text())
    assert counts["words"] == {"trained": len(trained), "held_out": len(held_out)}
    assert counts["zh"]["trained_pairs"] + counts["zh"]["held_out_pairs"] == 3
    assert counts["zh"]["held_out_pairs_whose_translation_is_trained"] == 0
    # A word of the other half has the same translation.
    parted = {"water", "lake"} & words[1]
    assert counts["de"]["held_out_pairs_whose_translation_is_trained"] == (1 if len(parted) == 1 else 0)
    assert lexicons.main(arguments) == 2
    refused = [lexicons.main([*arguments, "--held-out-ratio", ratio]) for ratio in ("0", "1")]
    assert refused == [2, 2]
    assert "--held-out-ratio above 0" in capsys.readouterr().err


def test_relatives_share_a_stem() -> None:
    trained = {"reading", "run", "a"}
    found = [analysis.has_relative(word, trained) for word in ("reader", "Reads", "runner", "rung", "ant", "red")]
    assert found == [False, False, True, True, False, False]
    assert analysis.has_relative("Readiness", {"readily"})


def test_parts_of_held_out_words_are_measured_apart(tmp_path: Path) -> None:
    (tmp_path / "trained.tsv").write_text("house\tHaus\tde\nreadily\tbereit\tde\nwater\t水\tzh\n", encoding="utf-8")
    (tmp_path / "held_out.tsv").write_text(
        "home\tHaus\tde\nhome\tHeim\tde\nreadiness\tBereitschaft\tde\nsun\tSonne\tde\nriver\t河\tzh\n", encoding="utf-8"
    )
    trained, held_out = (read_lexicon([tmp_path / name], "en") for name in ("trained.tsv", "held_out.tsv"))
    words, parts = analysis.parts_of(held_out, trained, "de")
    assert words == ["home", "readiness", "sun"]
    assert parts == {
        "translation trained": [True, False, False],
        "relative trained": [False, True, False],
        "neither": [False, False, True],
    }
    model = make_folder(tmp_path / "model")
    output = tmp_path / "analysis.json"
    arguments = ["--model", f"random={model}", "--lexicon", str(tmp_path / "trained.tsv")]
    arguments += ["--held-out", str(tmp_path / "held_out.tsv"), "--output", str(output)]
    assert analysis.main(arguments) == 0
    german = json.loads(output.read_text())["random"]["de"]
    assert german["target_words"] == 4
    assert german["chance"] == pytest.approx((2 + 1 + 1) / 3 / 4)
    assert {name: part["words"] for name, part in german["parts"].items() if "tokens" not in name} == {
        "all": 3,
        "translation trained": 1,
        "relative trained": 1,
        "neither": 1,
    }
    scores = measure_retrieval(open_folder(model), held_out)["en-de"]["p_at_1"]
    assert german["parts"]["all"]["p_at_1"] == pytest.approx(sum(scores) / len(scores))
    assert analysis.main(arguments) == 2


def test_configuration_holds_only_known_fields() -> None:
    assert load_resolved(EXAMPLE / "model.yaml").model.num_layers == 4


def test_every_step_reads_only_what_a_step_before_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    arguments = align.parse_arguments(["--output", str(tmp_path), "--steps", "10"])
    assert isinstance(arguments, Namespace)
    experiment = align.Experiment(arguments)
    data = experiment.data
    steps = [data.texts_step, data.dictionaries_step, data.lexicon_step, data.tokenizer_step, *experiment.bake()]
    steps += [step for name in align.STAGES for step in experiment.chain(name)] + experiment.report()
    made: set[str] = set()
    for step in steps:
        made.update(str(path) for path in step.outputs)
        named = [
            word.partition("=")[2] or word for word in step.command if str(tmp_path) in word and "prefix" not in word
        ]
        for path in named:
            assert any(path.startswith((output, output.removesuffix("_text_document.bin"))) for output in made), path
