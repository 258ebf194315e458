"""The report: joined stages, the comparison, the table, the page, and what is wrong with its inputs."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.paper.english_clone.comparison import Run, compare, join_stages, read_run, rows_as_json, text_table
from examples.paper.english_clone.comparison_page import Page, plot_losses, render_page, tap_labels
from megatron_prealign.errors import DataError


def evaluation(clone: float, held_out: float) -> dict[str, Any]:
    """Return what tools/evaluate.py writes for a model of two layers."""
    pair = {"num_pairs": 10, "mean_cosine": [0.5, 0.5, 0.5]}
    return {
        "model": "m",
        "perplexity": {
            "en": {"perplexity": 50.0, "loss": 3.9, "tokens": 100},
            "clone": {"perplexity": clone, "loss": 5.0, "tokens": 100},
        },
        "retrieval": {
            "trained": {"en-clone": {**pair, "p_at_1": [0.0, 0.5, 1.0]}},
            "held_out": {"en-clone": {**pair, "p_at_1": [held_out, held_out, held_out]}},
        },
        "versions": {},
    }


def metrics(stage: str, tokens: list[int]) -> list[dict[str, Any]]:
    """Return a training and a validation record at each number of tokens."""
    records: list[dict[str, Any]] = []
    for count in tokens:
        place = {"stage": stage, "step": count, "tokens": count}
        records.append({"kind": "train", **place, "lm_loss": 8.0 - count / 100})
        records.append({"kind": "valid", **place, "loss": {"en": 4.0, "clone": 5.0}})
    return records


def runs(num_seeds: int = 1) -> list[Run]:
    """Return both methods with the same seeds; PreAlign is better on all but the third seed."""
    found = []
    for seed in range(1, num_seeds + 1):
        joined = join_stages([metrics("align_init", [50, 100]), metrics("pretrain", [200, 400])])
        found.append(Run("joint", seed, tuple(metrics("pretrain", [250, 500])), evaluation(300.0, 0.1)))
        found.append(Run("PreAlign", seed, tuple(joined), evaluation(450.0 if seed == 3 else 150.0, 0.4)))
    return found


def test_stages_are_joined_where_the_one_before_ended() -> None:
    joined = join_stages([metrics("align_init", [50, 100]), metrics("pretrain", [200, 400])])
    assert [record["tokens"] for record in joined if record["kind"] == "valid"] == [50, 100, 300, 500]


def test_comparison_holds_perplexities_and_mean_retrieval() -> None:
    rows = {row.name: row for row in compare(runs(), "joint", "PreAlign")}
    assert rows["English-Clone perplexity"].ratio == 0.5
    assert rows["English perplexity"].num_seeds_better == 0
    assert rows["Retrieval en-clone, trained words"].method == (0.5,)
    assert rows["Retrieval en-clone, held-out words"].num_seeds_better == 1


def test_ordering_is_counted_by_seed_not_by_mean() -> None:
    row = compare(runs(3), "joint", "PreAlign")[1]
    assert row.ratio < 1
    assert row.num_seeds_better == 2


def test_runs_are_paired_by_seed_whatever_their_order() -> None:
    assert compare(runs(3)[::-1], "joint", "PreAlign") == compare(runs(3), "joint", "PreAlign")


def test_different_seeds_are_refused() -> None:
    with pytest.raises(DataError, match="must be the same"):
        compare(runs(2)[:-1], "joint", "PreAlign")


def test_retrieval_of_zero_has_no_ratio_and_stays_valid_json() -> None:
    found = [Run("joint", 1, (), evaluation(300.0, 0.0)), Run("PreAlign", 1, (), evaluation(150.0, 0.4))]
    rows = rows_as_json(compare(found, "joint", "PreAlign"), "joint", "PreAlign")
    assert rows[-1]["ratio"] is None
    json.dumps(rows, allow_nan=False)


def test_terminal_table_shows_mean_deviation_and_agreement() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(text_table(compare(runs(3), "joint", "PreAlign"), "joint", "PreAlign"))
    text = console.export_text()
    assert "250.0 ± 173.2" in text
    assert "× 0.83 (2/3)" in text
    assert "+0.300 (3/3)" in text


@pytest.mark.parametrize(("num_taps", "last"), [(5, "4"), (6, "output")])
def test_taps_are_named_with_tied_and_untied_embeddings(num_taps: int, last: str) -> None:
    names = tap_labels(num_taps, num_layers=4)
    assert (names[0], names[-1], len(names)) == ("embedding", last, num_taps)


def test_plots_are_deterministic_and_follow_the_page_colours() -> None:
    first = plot_losses(runs(), ("joint", "PreAlign"), ("en", "clone"))
    assert first == plot_losses(runs(), ("joint", "PreAlign"), ("en", "clone"))
    assert "currentColor" in first
    assert "#010203" not in first


class Collector(HTMLParser):
    """Collects the attributes of every element of a page."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))


def page(num_seeds: int = 1) -> str:
    """Render a page."""
    content = Page(
        title="A <title>", lead="lead", baseline="joint", method="PreAlign", pair="en-clone", num_layers=2,
        details={"Versions": {"torch": "2"}},
    )  # fmt: skip
    return render_page(content, compare(runs(num_seeds), "joint", "PreAlign"), runs(num_seeds))


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_page_stands_alone_and_describes_its_plots(num_seeds: int) -> None:
    collector = Collector()
    collector.feed(page(num_seeds))
    plots = [attributes for tag, attributes in collector.elements if tag == "svg"]
    assert len(plots) == 2
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in plots)
    loaded = [value for _, attributes in collector.elements for name, value in attributes.items() if name == "src"]
    linked = [attributes for tag, attributes in collector.elements if tag in ("link", "script", "img")]
    assert not loaded
    assert not linked


def test_page_escapes_text_and_shows_numbers() -> None:
    text = page()
    assert "A &lt;title&gt;" in text
    assert "150.0" in text
    assert "PreAlign, held-out words" in text
    assert "English-Clone 5.00" in text


def test_every_broken_input_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError) as caught:
        read_run("joint", 1, [tmp_path / "none.jsonl", tmp_path / "empty.jsonl"], tmp_path / "broken.json")
    assert all(name in str(caught.value) for name in ("none.jsonl", "empty.jsonl", "broken.json"))


def test_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics("pretrain", [10, 20]))) + "\n")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation(1.0, 0.0), indent=2))
    run = read_run("joint", 7, [tmp_path / "metrics.jsonl"], tmp_path / "evaluation.json")
    assert (run.seed, len(run.metrics), run.evaluation["perplexity"]["clone"]["perplexity"]) == (7, 4, 1.0)
