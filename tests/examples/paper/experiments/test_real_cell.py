"""One cell from the YAML to its file with the real tools: both stages, export, evaluation; then a killed one."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from examples.paper.experiments import recipes
from examples.paper.experiments.cells import make_cells, read_result
from examples.paper.experiments.chain import Place, run_folder
from examples.paper.experiments.grid import Grid
from examples.paper.experiments.recipes import Recipe
from examples.paper.experiments.specs import read_experiments, read_scale
from examples.steps import Runner
from tests.examples.paper.experiments.grid_fixtures import write_experiment
from tests.workspace import MakeValues

FOLDER: dict[str, Path] = {}


@dataclass(frozen=True, kw_only=True)
class Workspace(Recipe):
    """The tests' small dataset."""

    codeswitch_ratio: float = field(default=0.0, metadata={"concerns": "switched"})
    name = "workspace"

    def own_steps(self, data: Path, packages: Path | None, stages: Any) -> list[Any]:
        return []

    def blend(self, data: Path, text: str) -> list[dict[str, Any]]:
        return [{"prefix": str(FOLDER["workspace"] / "data"), "language": "en"}]

    def tokenizer(self, data: Path) -> Path:
        return FOLDER["workspace"] / "tok"

    def lexicons(self, data: Path) -> tuple[Path, Path]:
        return FOLDER["workspace"] / "lexicon.tsv", FOLDER["held_out"]

    def files(self, data: Path) -> dict[str, str]:
        return {"lexicon": str(FOLDER["workspace"] / "lexicon.tsv"), "valid_en": str(FOLDER["text"])}


def write_scale(path: Path, make_values: MakeValues) -> Path:
    """Write a scale of a few steps."""
    values = make_values("pretrain", Path("x"), training={"eval_interval": 2, "eval_steps": 1})
    config = {name: dict(values[name]) for name in ("model", "data", "optimizer", "training", "logging")}
    for name in ("tokenizer_path", "blend"):
        config["data"].pop(name)
    for name in ("run_path", "train_steps", "stage"):
        config["training"].pop(name)
    words = {"word_batch_size": 5, "word_row_length": 16}
    align_init = {"text": "plain", "steps": 2}
    align_init["config"] = {"training": {"stage": "align_init"}, "alignment": words}
    content = {"steps": 6, "minutes": 0.5, "data": {"workspace": {}}, "config": config}
    content["stages"] = {
        "align_init": align_init,
        "pretrain": {"text": "plain", "config": {"training": {"stage": "pretrain"}}},
    }
    tasks = [{"evaluation": "perplexity", "texts": {"en": "{valid_en}"}}]
    tasks.append({"name": "held_out", "evaluation": "word_retrieval", "lexicons": "{lexicon}"})
    content["evaluations"] = {"workspace": tasks}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_cell_from_its_yaml_to_its_numbers(
    tmp_path: Path, workspace: Path, make_values: MakeValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "RECIPES", {"workspace": Workspace})
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "house home dog tree water fire the cube sun moon"}\n')
    held_out = tmp_path / "held_out.tsv"
    held_out.write_text("hut\thütte\tde\t1.0\nrain\tregen\tde\t1.0\n")
    FOLDER.update(workspace=workspace, text=text, held_out=held_out)
    scale = read_scale(str(write_scale(tmp_path / "few.yaml", make_values)))
    variants = {"both": {"stages": ["align_init", "pretrain"]}}
    path = write_experiment(tmp_path, variants=variants, baseline="both", recipe="workspace")
    (cell,) = make_cells(read_experiments([path], scale), scale, [1])
    place = Place(tmp_path / "output", tmp_path / "cells", command="run")
    runner = Runner(place.output, Console(file=io.StringIO()), {"OMP_NUM_THREADS": "1"}, shows_output=False)
    grid = Grid([cell], {}, place, runner)
    grid.run(jobs=1)
    assert grid.failed == {}
    result = read_result(place.results, cell.key)
    assert result is not None and result.missing_tasks(cell) == []
    assert result.measures["perplexity.en.perplexity"] > 1
    assert 0 <= result.measures["held_out.pairs.en-de.p_at_1"] <= 1
    assert len(result.by_tap["held_out.pairs.en-de.p_at_1"]) == 5
    assert abs(result.made["tokens"] - 6 * 4 * 32) <= 64
    assert [tokens for tokens, _ in result.curves["loss.en"]][-1] == result.made["tokens"]
    assert result.made["command"] == "run" and str(tmp_path) not in str(result)
    # A task that comes later is added from the model that is there; nothing is trained again.
    trained = (run_folder(cell, place) / "metrics.jsonl").stat().st_mtime_ns
    cell.tasks.append({"name": "again", "evaluation": "perplexity", "texts": {"en": "{valid_en}"}, "window": 4})
    Grid([cell], {cell.key: result}, place, runner).run(jobs=1)
    added = read_result(place.results, cell.key)
    assert added is not None and added.measures["again.en.perplexity"] > 1
    assert added.measures.items() >= result.measures.items()
    assert (run_folder(cell, place) / "metrics.jsonl").stat().st_mtime_ns == trained
