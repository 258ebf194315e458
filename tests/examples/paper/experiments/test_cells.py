"""Cells: what their identity depends on, which experiments share them, and files that were damaged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from examples.paper.experiments.cells import Cell, is_finished, read_result, read_results, result_path, write_result
from examples.paper.experiments.chain import Place, run_folder
from examples.paper.experiments.specs import FOLDER
from megatron_prealign.errors import DataError
from tests.examples.paper.experiments.grid_fixtures import make_result, read, write_experiment

COMMITTED = FOLDER.parent / "pages/cells"


def find(cells: list[Cell], experiment: str, variant: str, seed: int = 1) -> Cell:
    """Return the cell of an experiment's variant."""
    (cell,) = [cell for cell in cells if (experiment, variant) in cell.users and cell.seed == seed]
    return cell


def test_experiments_share_their_cells() -> None:
    _, _, cells = read(["main_table.yaml", "ablations.yaml", "coverage.yaml", "codeswitch_ratio.yaml"])
    assert set(find(cells, "main_table", "prealign").users) == {
        ("main_table", "prealign"),
        ("ablations", "prealign"),
        ("coverage", "coverage_100"),
        ("codeswitch_ratio", "ratio_15"),
    }
    assert find(cells, "coverage", "joint") is find(cells, "main_table", "joint")
    assert len({cell.key for cell in cells}) == len(cells) == 3 * (3 + 5 + 3 + 4)


def test_what_determines_the_numbers_makes_another_cell(tmp_path: Path) -> None:
    def key(**variant: object) -> str:
        _, _, cells = read([write_experiment(tmp_path, variants={"joint": {"extends": "prealign", **variant}})], 1)
        return cells[0].key

    base = key()
    assert key(title="Another title") == base
    assert (
        key(config={"training.device": "auto", "checkpoint.save_interval": 7, "training.micro_batch_size": 6}) == base
    )
    assert key(config={"optimizer.lr": 0.001}) != base
    assert key(data={"codeswitch_ratio": 0.2}) != base
    assert key(data={"lexicon_coverage": 0.5}) != base
    assert key(stages=[{"align_init": {"steps": 150}}, "pretrain"]) != base
    assert len({cell.key for cell in read([write_experiment(tmp_path)], 2)[2]}) == 4


def test_identities_stay_as_they_are() -> None:
    """The files of finished cells are found by these; a change here throws them away."""
    _, _, cells = read(["main_table.yaml"], 1)
    assert [cell.key for cell in cells] == ["eaa414e326c2", "79e94943ebdb", "8884b29fff77"]


def test_every_committed_cell_is_a_cell_of_its_experiments() -> None:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(COMMITTED.glob("*.json"))}
    scales = {path.stem for path in (FOLDER / "scales").glob("*.yaml")}
    users = {key: {experiment for experiment, _ in content["made"]["users"]} for key, content in found.items()}
    cells: dict[str, Cell] = {}
    for scale in scales:
        named = {key for key in users if f"--scale {scale} " in found[key]["made"]["command"]}
        names = sorted({f"{name}.yaml" for key in named for name in users[key]})
        seeds = max((found[key]["identity"]["seed"] for key in named), default=1)
        cells |= {cell.key: cell for cell in read(names, seeds, scale)[2]} if names else {}
    assert found and found.keys() <= cells.keys()
    for key, content in found.items():
        assert content["identity"] == json.loads(json.dumps(cells[key].identity()))


def test_cells_that_begin_alike_share_their_first_stage(tmp_path: Path) -> None:
    _, _, cells = read(["ablations.yaml", "codeswitch_ratio.yaml"], 2)
    place = Place(tmp_path, tmp_path)
    first = run_folder(find(cells, "ablations", "prealign"), place, 1)
    for experiment, variant in (
        ("ablations", "vanilla"),
        ("ablations", "no_codeswitch"),
        ("codeswitch_ratio", "ratio_5"),
    ):
        cell = find(cells, experiment, variant)
        assert run_folder(cell, place, 1) == first
        assert run_folder(cell, place) != run_folder(find(cells, "ablations", "prealign"), place)
    assert run_folder(find(cells, "ablations", "prealign", 2), place, 1) != first
    assert run_folder(find(cells, "ablations", "embeddings_only"), place, 1) != first


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    _, _, (cell, *others) = read(["main_table.yaml"], 1)
    result = make_result(cell, {"perplexity.en.perplexity": 70.25})
    write_result(tmp_path, result)
    assert read_result(tmp_path, cell.key) == result
    results = read_results(tmp_path, [cell, *others])
    assert list(results) == [cell.key]
    assert is_finished(cell, results)
    assert not is_finished(others[0], results)
    assert result_path(tmp_path, cell.key).stat().st_size < 20_000


def test_a_cell_lacks_a_task_that_is_new_or_has_other_options(tmp_path: Path) -> None:
    _, _, (cell,) = read([write_experiment(tmp_path, variants={"joint": None})], 1)
    result = make_result(cell, {})
    changed = replace(cell, tasks=[{**cell.tasks[0], "window": 64}, *cell.tasks[1:], {"evaluation": "knowledge"}])
    assert result.missing_tasks(cell) == []
    assert result.missing_tasks(changed) == ["perplexity", "knowledge"]
    assert changed.key == cell.key


@pytest.mark.parametrize("damage", ["cut", "edited", "moved", "renamed", "empty", "list"])
def test_damaged_files_are_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    _, _, (cell, other, _) = read(["main_table.yaml"], 1)
    path = result_path(tmp_path, cell.key)
    write_result(tmp_path, make_result(cell if damage != "moved" else other, {"perplexity.en.perplexity": 70.25}))
    if damage == "renamed":
        write_result(tmp_path, replace(make_result(other, {}), key=cell.key))
    elif damage == "moved":
        result_path(tmp_path, other.key).rename(path)
    elif damage == "edited":
        path.write_text(path.read_text().replace("70.25", "50.25"))
    elif damage == "cut":
        path.write_text(path.read_text()[:-40])
    else:
        path.write_text("" if damage == "empty" else json.dumps([1]))
    with pytest.raises(DataError, match=f"{cell.key}.json: .*remove it, and the cell is run again"):
        read_results(tmp_path, [cell, other])


def test_one_task_name_with_two_meanings_is_refused(tmp_path: Path) -> None:
    task = {"evaluation": "perplexity", "texts": {"en": "{valid_en}"}}
    measures = ["perplexity.en.perplexity"]
    two = write_experiment(tmp_path, "two", evaluations=[task], measures=measures, claims=[])
    paths = [write_experiment(tmp_path, "one"), two]
    with pytest.raises(DataError, match="two: the task perplexity has other options in one: rename it"):
        read(paths, 1)
