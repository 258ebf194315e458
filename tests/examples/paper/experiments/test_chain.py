"""The steps of a cell: configurations, equal tokens, files in tasks, numbers of results."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.paper.experiments.cells import Cell, fill, task_name
from examples.paper.experiments.chain import Place, curves, flatten, has_tasks, remaining, run_folder, training_step
from examples.paper.experiments.recipes import make_recipe
from megatron_prealign.errors import DataError
from tests.examples.paper.experiments.grid_fixtures import read

FOLDERS = (
    "/corpus",
    "/sources",
    "/lexicon",
    "/transfer",
    "/facts",
    "/texts",
    "/lexicon_dictionary",
    "_corpus",
    "_inflections",
    "_messages",
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "output", tmp_path / "cells")


def cell_of(variant: str, experiment: str = "ablations") -> Cell:
    """Return a cell of seed 1."""
    _, _, cells = read([f"{experiment}.yaml"], 1)
    (cell,) = [cell for cell in cells if (experiment, variant) in cell.users]
    return cell


def end_stage(cell: Cell, place: Place, tokens: int, num_stages: int = 1) -> None:
    """Write the record of a stage that has ended."""
    folder = run_folder(cell, place, num_stages)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        json.dumps({"kind": "train", "stage": "x", "step": 1, "tokens": tokens}) + "\n"
    )


def test_a_single_stage_sees_all_tokens(place: Place) -> None:
    assert remaining(cell_of("joint", "main_table"), place) == 540


def test_stage_two_gets_what_stage_one_left_to_within_half_a_step(place: Place) -> None:
    cell = cell_of("prealign")
    end_stage(cell, place, 364_996)
    assert remaining(cell, place) == 421
    assert abs(364_996 + 421 * 3072 - cell.tokens) <= 1536


def test_words_of_a_maintained_alignment_count(place: Place) -> None:
    # 160 steps of 12 x 128 tokens of text and 192 entries of 3.875 tokens; then 192 entries in every second step.
    cell = cell_of("maintained", "maintained")
    end_stage(cell, place, 160 * (1536 + 744))
    assert remaining(cell, place) == round((540 * 3072 - 364_800) / (3072 + 192 * 3.875 / 2)) == 376


def test_a_stage_one_without_text_leaves_more(place: Place) -> None:
    cell = cell_of("no_lm_loss")
    end_stage(cell, place, 160 * 744)
    assert remaining(cell, place) == round((540 * 3072 - 160 * 744) / 3072)


def test_a_stage_one_that_takes_everything_is_refused(place: Place) -> None:
    cell = cell_of("prealign")
    end_stage(cell, place, cell.tokens)
    with pytest.raises(DataError, match="the stages before the last saw 1658880 of 1658880 tokens; lower their steps"):
        remaining(cell, place)


def test_stages_are_configured_for_the_files_and_the_seed(place: Place) -> None:
    cell = cell_of("vanilla")
    first = training_step(cell, 0, place, ())
    end_stage(cell, place, 364_996)
    second = training_step(cell, 1, place, (first,))
    one, two = (yaml.safe_load(step.inputs[0].read_text()) for step in (first, second))
    assert one["training"]["train_steps"] == 160 and two["training"]["train_steps"] == 421
    assert one["training"]["seed"] == two["training"]["seed"] == 1
    assert two["checkpoint"]["init_from"] == one["training"]["run_path"] == str(first.outputs[0])
    assert "init_from" not in one["checkpoint"]
    assert [entry["weight"] for entry in two["data"]["blend"]] == [0.95, 0.05]
    assert two["data"]["blend"][0]["prefix"].endswith("english_0.15_lexicon_text_document")
    assert one["data"]["blend"][0]["prefix"].endswith("english_text_document")
    assert one["alignment"]["lexicon_paths"][0].endswith("/lexicon.tsv")
    assert "lexicon_paths" not in two.get("alignment", {})
    assert second.depends_on == (first,) and second.resumable


def test_every_dataset_that_a_stage_reads_is_made(place: Place) -> None:
    names = ("main_table", "ablations", "coverage", "codeswitch_ratio", "real_languages", "num_languages", "knowledge")
    scales = dict.fromkeys(names, "small") | {"real_controls": "real", "real_diagnosis": "real"}
    for name, scale in scales.items():
        for cell in read([f"{name}.yaml"], 1, scale)[2]:
            steps = cell.recipe.steps(place.data, None, cell.stages)
            made = {str(path) for step in steps for path in step.outputs}
            commands = [step.command for step in steps]
            for index, step in enumerate(steps):
                assert all(before.command in commands[:index] for before in step.depends_on)
            for stage in cell.stages:
                prefixes = [entry["prefix"] for entry in cell.recipe.blend(place.data, stage.text)]
                assert {f"{prefix}.bin" for prefix in prefixes} <= made
            used = [*map(str, cell.recipe.lexicons(place.data)), *cell.recipe.files(place.data).values()]
            folders = tuple(path for path in made if path.endswith(FOLDERS))
            assert all(path in made or path.startswith(folders) for path in used)


def test_a_smaller_lexicon_is_part_of_the_larger_and_holds_the_same_words_out(place: Place) -> None:
    cell = cell_of("coverage_25", "coverage")
    steps = cell.recipe.steps(place.data, None, cell.stages)
    (step,) = [step for step in steps if step.outputs[0].name == "lexicon_0.25.tsv"]
    command = list(step.command)
    assert float(command[command.index("--held-out-ratio") + 1]) == pytest.approx(1 - 0.9 * 0.25)
    trained, held_out = cell.recipe.lexicons(place.data)
    assert (trained.name, held_out.name) == ("lexicon_0.25.tsv", "held_out_lexicon.tsv")


def test_tasks_name_the_files_of_the_recipe() -> None:
    task = {"evaluation": "x", "texts": {"en": "{a}"}, "lexicons": ["{b}", "c"], "seed": 3}
    filled = {"evaluation": "x", "texts": {"en": "A"}, "lexicons": ["B", "c"], "seed": 3}
    assert fill(task, {"a": "A", "b": "B"}) == filled
    with pytest.raises(DataError, match=r"'\{c\}': write one of \{a\}, \{b\}"):
        fill({"texts": "{c}"}, {"a": "A", "b": "B"})


def test_an_evaluation_that_lacks_a_task_or_is_damaged_is_made_again(tmp_path: Path) -> None:
    cell, path = cell_of("joint"), tmp_path / "evaluation.json"
    assert not has_tasks(path, cell)
    tasks: dict[str, Any] = {task_name(task): {} for task in cell.tasks}
    path.write_text(json.dumps({"tasks": tasks | {"another": {}}}))
    assert has_tasks(path, cell)
    tasks.popitem()
    path.write_text(json.dumps({"tasks": tasks}))
    assert not has_tasks(path, cell) and path.exists()
    for damaged in ("{", "[]", "{}"):
        path.write_text(damaged)
        assert not has_tasks(path, cell) and not path.exists()


def test_numbers_of_results_by_path() -> None:
    results: dict[str, Any] = {
        "en": {"p": 1, "name": "x", "none": None, "flag": True},
        "taps": [0.5, 1.0],
        "mixed": [1, "a"],
    }
    assert dict(flatten(results, "task")) == {"task.en.p": 1, "task.taps": [0.5, 1.0]}


def test_curves_of_validations() -> None:
    records = [
        {"kind": "train", "tokens": 5, "loss": {"en": 9.0}},
        {"kind": "valid", "tokens": 10, "loss": {"en": 8.12341}},
    ]
    assert curves(records) == {"loss.en": [[10, 8.1234]]}


def test_steps_of_different_data_have_different_names(place: Place) -> None:
    _, (experiment,), _ = read(["main_table.yaml"], 1)
    variant = experiment.variants["joint"]
    names = [
        {step.name for step in recipe.steps(place.data, None, variant.stages)}
        for size in (4000, 2000)
        for recipe in [make_recipe("english_clone", variant.data | {"vocab_size": size}, ["plain"], "here")]
    ]
    assert len(names[0]) == len(names[1]) == 7
    assert names[0].isdisjoint(names[1])


def test_online_switching_reads_the_lexicon(place: Place) -> None:
    cell = cell_of("falling", "ratio_schedule")
    first = training_step(cell, 0, place, ())
    end_stage(cell, place, 364_996)
    one, two = (yaml.safe_load(training_step(cell, index, place, ()).inputs[0].read_text()) for index in (0, 1))
    assert two["data"]["codeswitch_lexicon_paths"] == one["alignment"]["lexicon_paths"]
    assert two["data"]["codeswitch_ratios"] == [0.3, 0.2, 0.1, 0.05]
    assert "codeswitch_lexicon_paths" not in one["data"]
    assert first.inputs[0].exists()
