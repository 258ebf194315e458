"""Pages: verdicts from numbers, tables, what is missing, the log; and files of any state of the grid."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.paper.experiments.cells import Cell, write_result
from examples.paper.experiments.grid import FAILURES
from examples.paper.experiments.log import write_log
from examples.paper.experiments.report import markdown_table, write_reports
from examples.paper.experiments.specs import read_measures
from examples.paper.experiments.verdicts import gather, judge
from megatron_prealign.errors import DataError
from tests.examples.paper.experiments.grid_fixtures import make_result, make_results, read, write_experiment

CLAIM = {"text": "It helps.", "where": "here", "measure": "perplexity.clone.perplexity"}
CLAIM |= {"variant": "prealign", "against": "joint"}

# By method and seed, from 1 on.
CLONE = {"joint": (400.0, 410.0, 390.0), "prealign": (200.0, 210.0, 196.0)}


def by_seed(numbers: dict[str, tuple[float | None, ...]]) -> Callable[[Cell, str], float | None]:
    """Return perplexities of the cells of `numbers`; the retrieval is 0.5 everywhere."""

    def value(cell: Cell, what: str) -> float | None:
        return 0.5 if what == "retrieval" else numbers[cell.users[0][1]][cell.seed - 1]

    return value


@pytest.mark.parametrize(
    ("claim", "clone", "status"),
    [
        ({}, CLONE["prealign"], "confirmed"),
        ({}, (390.0, 415.0, 380.0), "not confirmed"),
        ({}, (800.0, 810.0, 790.0), "not confirmed"),
        ({"at_most": 0.5}, (200.0, 204.0, 196.0), "confirmed"),
        ({"at_most": 0.5}, (205.0, 210.0, 200.0), "not confirmed"),
        ({"no_worse_than": 1.02}, (401.0, 411.0, 391.0), "confirmed"),
        ({"no_worse_than": 1.02}, (380.0, 420.0, 390.0), "not confirmed"),
        ({"testable_if": "joint.perplexity.clone.perplexity < 300"}, CLONE["prealign"], "not testable at this scale"),
        ({"testable_if": "joint.perplexity.clone.perplexity < 500"}, CLONE["prealign"], "confirmed"),
        ({"testable_if": "joint.knowledge.accuracy > 0.5"}, CLONE["prealign"], "not testable at this scale"),
        ({}, (200.0, 210.0, None), "open"),
        ({}, (None, None, None), "open"),
    ],
)
def test_verdicts(tmp_path: Path, claim: dict[str, object], clone: tuple[float | None, ...], status: str) -> None:
    _, (experiment,), cells = read([write_experiment(tmp_path, claims=[CLAIM | claim])])
    found = gather(experiment, cells, make_results(cells, by_seed({"joint": CLONE["joint"], "prealign": clone})))
    verdict = judge(experiment.file.claims[0], found, read_measures())
    assert verdict.status == status
    assert ("the opposite is significant" in verdict.numbers) == (clone[0] == 800.0)


def test_a_difference_has_a_smallest_size(tmp_path: Path) -> None:
    claim = CLAIM | {"measure": "held_out.pairs.en-clone.p_at_1"}
    _, (experiment,), cells = read([write_experiment(tmp_path, claims=[{**claim, "at_least": 0.3}, claim])])
    results = {}
    for cell in cells:
        value = 0.4 + cell.seed / 100 if cell.users[0][1] == "prealign" else 0.0 + cell.seed / 50
        results[cell.key] = make_result(cell, {"held_out.pairs.en-clone.p_at_1": value})
    verdicts = [judge(one, gather(experiment, cells, results), read_measures()) for one in experiment.file.claims]
    assert [verdict.status for verdict in verdicts] == ["confirmed", "confirmed"]
    assert verdicts[0].numbers.startswith("+0.380 [")


@pytest.mark.parametrize("condition", ["joint is good", "joynt.perplexity.clone.perplexity > 3", "joint.a > abc"])
def test_a_condition_that_cannot_be_read_is_named(tmp_path: Path, condition: str) -> None:
    with pytest.raises(DataError, match=f"testable_if: '{condition}' must be like .* one of joint, prealign"):
        read([write_experiment(tmp_path, claims=[CLAIM | {"testable_if": condition}])])


def write_pages(tmp_path: Path, results_of: Callable[[list[Cell]], dict[str, object]], **changes: object) -> Path:
    """Write the pages of an experiment and return their folder."""
    _, experiments, cells = read([write_experiment(tmp_path, **changes)])
    write_reports(tmp_path / "pages", tmp_path / "cells", experiments, cells, results_of(cells))
    return tmp_path / "pages"


def test_a_page_of_finished_cells(tmp_path: Path) -> None:
    folder = write_pages(tmp_path, lambda cells: make_results(cells, by_seed(CLONE)), claims=[CLAIM])
    page = (folder / "mine.md").read_text()
    assert "All 6 cells are finished: 3 seeds of each method." in page
    assert "| joint training | 3 | 400.0 ± 10.0 | 0.500 ± 0.000 |" in page.replace("**", "")
    assert "| PreAlign | 3 | **202.0 ± 7.2** ▲ | **0.500 ± 0.000** |" in page
    assert re.search(
        r"\| It helps\. \| here \| .* \| × 0\.5[01] \[0\.\d\d, 0\.\d\d\], p = .*3 of 3 \| ✓ confirmed \|", page
    )
    assert "1.0 hours of cells; 1,658,880 to 1,658,880 tokens" in page
    html = (folder / "mine.html").read_text()
    assert (
        html.startswith("<!doctype html>")
        and html.count("<svg") == 2
        and "<b>202.0 ± 7.2</b> ▲" in html
        and "✓ confirmed" in html
    )
    for plot in ("measures", "curves"):
        svg = (folder / f"mine_{plot}.svg").read_text()
        assert svg.startswith("<svg") and "xmlns=" in svg and "currentColor" not in svg
        assert f"(mine_{plot}.svg)" in page
    index = (folder / "README.md").read_text()
    assert "| [Mine](mine.md) | 1 confirmed |" in index


def test_a_page_says_what_is_missing(tmp_path: Path) -> None:
    numbers = {"joint": (400.0, 410.0, None), "prealign": (200.0, None, None)}
    folder = write_pages(tmp_path, lambda cells: make_results(cells, by_seed(numbers)), claims=[CLAIM])
    page = (folder / "mine.md").read_text()
    assert "3 of 6 cells are finished. Missing: joint training (seed 3); PreAlign (seed 2, 3)." in page
    assert "… open" in page and "1 of 3 seeds finished; so far × 0.50" in page


def test_a_page_of_nothing(tmp_path: Path) -> None:
    folder = write_pages(tmp_path, lambda cells: {}, claims=[CLAIM])
    page = (folder / "mine.md").read_text()
    assert "0 of 6 cells are finished" in page and "No cell is finished yet." in page
    assert not list(folder.glob("*.svg"))


def test_a_curve_over_an_axis_and_unranked_methods(tmp_path: Path) -> None:
    axis = {"label": "share", "values": {"prealign": 1}}
    folder = write_pages(
        tmp_path, lambda cells: make_results(cells, by_seed(CLONE)), axis=axis, unranked=["prealign"], notes=["Why so?"]
    )
    page = (folder / "mine.md").read_text()
    assert "**" not in page.split("## Results")[1].split("## ")[0]
    assert "(PreAlign aside)" in page and "Why so?" in page


def test_cells_made_from_other_text_are_pointed_out(tmp_path: Path) -> None:
    def results_of(cells: list[Cell]) -> dict[str, object]:
        results: dict[str, object] = dict(make_results(cells, by_seed(CLONE)))
        datasets = {"english_text_document": "bbb"}
        results[cells[0].key] = make_result(cells[0], {"perplexity.clone.perplexity": 1.0}, datasets=datasets)
        return results

    page = (write_pages(tmp_path, results_of) / "mine.md").read_text()
    assert "Attention: english_text_document differ between cells" in page


def test_the_log_lists_cells_and_failures_and_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    _, _, cells = read([write_experiment(tmp_path)])
    results = tmp_path / "cells"
    for cell in cells[:3]:
        write_result(results, make_result(cell, {"perplexity.clone.perplexity": 412.4}))
    failure = {"date": "2026-01-02T09:00:00+00:00", "cell": "f00", "users": [["mine", "prealign"]], "seed": 2}
    failure |= {"seconds": 90.0, "command": "python run.py", "reason": "the step ended\nwith code 3 | diverged"}
    (results / FAILURES).write_text(json.dumps(failure) + "\n")
    log = tmp_path / "experiment-log.md"
    write_log(log, results)
    log.write_text(log.read_text().replace("# Experiment log", "# Experiment log\n\nBy hand.") + "\nBelow.\n")
    write_log(log, results)
    text = log.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 2026")]
    assert [row.split("|")[1].strip() for row in rows] == ["2026-01-01 10:00"] * 2 + [
        "2026-01-02 09:00",
        "2026-01-02 10:00",
    ]
    assert "mine joint, seed 1" in text and "perplexity.clone 412.4" in text
    assert r"**failed**: the step ended with code 3 \| diverged" in rows[2]
    assert "By hand." in text and text.endswith("Below.\n")
    (results / FAILURES).write_text(json.dumps(failure) + "\n{\n")
    with pytest.raises(DataError, match=r"failures\.jsonl:2: no record of a failure; remove the line"):
        write_log(log, results)
    (results / FAILURES).unlink()
    log.write_text("no marks")
    with pytest.raises(DataError, match="lacks <!-- cells -->"):
        write_log(log, results)


def test_bars_inside_a_table_are_escaped() -> None:
    assert markdown_table(["a"], [["x|y"]]) == "| a |\n|---|\n| x\\|y |"
