"""The real-lexicon example: one lexicon of two dictionaries, parts of the held-out words, steps that fit together."""

import gzip
import json
from argparse import Namespace
from pathlib import Path

import align
import analysis
import lexicons
import pytest

from megatron_prealign.config.loading import load_resolved
from megatron_prealign.evaluation.folder import open_folder
from megatron_prealign.evaluation.retrieval import measure_retrieval
from megatron_prealign.lexicon import read_lexicon
from tests.evaluation.folders import make_folder
from tests.lexicon.test_dictionaries import write_dictd

EXAMPLE = Path(align.__file__).parent
GERMAN = {
    "house": "Haus, Gebäude, Wohnhausgebäude",
    "water": "Wasser",
    "to give up": "aufgeben",
    "film": "Film",
    "zymurgy": "Gärungschemie",
}
CHINESE = [
    "房子 房子 [fang2 zi5] /house/",
    "廨 廨 [xie4] /house/",
    "水 水 [shui3] /water/give up/",
    "河 河 [he2] /river/",
]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    index = write_dictd(folder, [(word, f"{word}\n{glosses}\n") for word, glosses in GERMAN.items()])
    index.rename(folder / "freedict-eng-deu.index")
    (folder / "x.dict.dz").rename(folder / "freedict-eng-deu.dict.dz")
    (folder / lexicons.DICTIONARIES["zh"]).write_bytes(gzip.compress("\n".join(CHINESE).encode()))
    return folder


def test_one_lexicon_of_two_dictionaries(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "lexicon"
    arguments = ["--sources", str(sources), "--output", str(output), "--max-translations", "1", "--num-words", "3"]
    assert lexicons.main([*arguments, "--held-out-ratio", "0.34"]) == 0
    trained, held_out = (read_lexicon([output / name], "en") for name in ("lexicon.tsv", "held_out.tsv"))
    pairs = {(word, t.language, t.word) for lexicon in (trained, held_out) for word, t in lexicon.pairs()}
    # The rarest English word goes, and so do phrases, words equal in both languages and all but the likeliest word.
    assert pairs == {
        ("house", "de", "Haus"),
        ("house", "zh", "房子"),
        ("water", "de", "Wasser"),
        ("water", "zh", "水"),
        ("river", "zh", "河"),
    }
    assert {entry.word for entry in trained.entries}.isdisjoint(entry.word for entry in held_out.entries)
    counts = json.loads((output / "counts.json").read_text())
    assert counts["words"] == {"trained": len(trained), "held_out": len(held_out)}
    german = counts["de"]
    dropped = {name: count for name, count in german.items() if name.startswith("dropped") and count}
    assert dropped == {"dropped by identity": 1, "dropped by multi-word": 1, "dropped by max-translations": 2}
    assert german["read"] - sum(dropped.values()) == german["kept"] == 3
    assert lexicons.main(arguments) == 2


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
    steps = [experiment.sources(), experiment.lexicon(), experiment.tokenizer(), *experiment.bake()]
    steps += [step for name in align.STAGES for step in experiment.chain(name)] + experiment.report()
    made: set[str] = set()
    for step in steps:
        made.update(str(path) for path in step.outputs)
        named = [
            word.partition("=")[2] or word for word in step.command if str(tmp_path) in word and "prefix" not in word
        ]
        for path in named:
            assert any(path.startswith((output, output.removesuffix("_text_document.bin"))) for output in made), path
