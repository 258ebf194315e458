"""The page of a report: the comparison of two methods, plots of losses and retrieval, and how they were run."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from examples.paper.english_clone.comparison import (
    Row,
    Run,
    explain_spread,
    format_rows,
    retrieval,
)
from megatron_prealign.reports.page import (
    PAGE_COLOR,
    STYLES,
    draw_panels,
    html_figure,
    html_folded,
    html_page,
    html_table,
)
from megatron_prealign.reports.records import LANGUAGE_NAMES, PAIR_SETS, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_losses(runs: Sequence[Run], methods: Sequence[str], languages: Sequence[str]) -> str:
    """Plot validation loss over tokens seen, a panel for each language, and return the SVG.

    Args:
        runs: runs of all methods and seeds.
        methods: methods in the order of their styles.
        languages: languages of the "valid" records.
    """

    def draw(axes: "Axes", language: str) -> None:
        for run, style in _styled(runs, methods):
            tokens, losses = series(run.metrics, "valid", "loss", language, axis="tokens")
            axes.plot([count / 1e6 for count in tokens], losses, **style)
        for end in sorted(set(map(_end_of_first_stage, runs)) - {0}):
            axes.axvline(end / 1e6, color=PAGE_COLOR, alpha=0.35, linewidth=1, linestyle=":")
        axes.set(title=LANGUAGE_NAMES.get(language, language), xlabel="tokens seen, millions", ylabel="validation loss")

    return draw_panels(languages, draw)


def plot_retrieval(runs: Sequence[Run], methods: Sequence[str], pair: str, num_layers: int) -> str:
    """Plot P@1 of word translation by tap, a panel for each word set, and return the SVG.

    Args:
        runs: runs of all methods and seeds.
        methods: methods in the order of their styles.
        pair: language pair of the evaluation, for example "en-clone".
        num_layers: transformer layers of the models, which names the taps.
    """
    pair_sets = [name for name in PAIR_SETS if pair in runs[0].evaluation["retrieval"].get(name, {})]

    def draw(axes: "Axes", pair_set: str) -> None:
        labels: list[str] = []
        for run, style in _styled(runs, methods):
            values = retrieval(run, pair_set, pair)
            labels = tap_labels(len(values), num_layers)
            axes.plot(range(len(values)), values, **style)
        axes.set_xticks(range(len(labels)), labels)
        axes.set(title=PAIR_SETS[pair_set], xlabel="tap", ylabel="P@1", ylim=(-0.03, 1.03))

    return draw_panels(pair_sets, draw)


def tap_labels(num_taps: int, num_layers: int) -> list[str]:
    """Name the taps: embedding output, layers, and output-embedding rows where the weights are not tied."""
    names = ["embedding", *(str(layer) for layer in range(1, num_layers + 1)), "output"]
    return names[:num_taps]


def _styled(runs: Sequence[Run], methods: Sequence[str]) -> list[tuple[Run, dict[str, Any]]]:
    """Pair each run with its line style; one run a method gets a legend entry, several seeds are drawn thinner."""
    styled = []
    for method, style in zip(methods, STYLES, strict=False):
        seeds = [run for run in runs if run.method == method]
        for index, run in enumerate(seeds):
            label = method if index == 0 else None
            width = 2 if len(seeds) == 1 else 1.2
            styled.append((run, {**style, "label": label, "linewidth": width, "markersize": 4}))
    return styled


def _end_of_first_stage(run: Run) -> int:
    """Return the tokens seen at the end of align-init; 0 for runs without it."""
    return max((record["tokens"] for record in run.metrics if record.get("stage") == "align_init"), default=0)


@dataclass(frozen=True)
class Page:
    """Text of a page."""

    title: str
    """Heading."""
    lead: str
    """One paragraph under it: what was compared, and how."""
    baseline: str
    """Name of the first method."""
    method: str
    """Name of the second method."""
    pair: str
    """Language pair of the retrieval, for example "en-clone"."""
    num_layers: int
    """Transformer layers of the models."""
    loss_languages: tuple[str, ...] = ("en", "clone")
    """Languages whose validation loss is plotted."""
    notes: tuple[str, ...] = ()
    """Items of a list under the table."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Heading → what it was run with, as data (configuration, versions, duration)."""


def render_page(page: Page, rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """Return the HTML of a report.

    Args:
        page: title, names and notes.
        rows: the comparison.
        runs: the runs whose curves are plotted.
    """
    methods = (page.baseline, page.method)
    losses = html_figure(
        plot_losses(runs, methods, page.loss_languages),
        _describe_losses(page, runs),
        f"Validation loss over all tokens seen, those of word pairs counted. Dotted: {page.method} passes from stage 1 "
        "(align-init) to stage 2 (pretrain), whose English is code-switched, here too; the table compares plain text.",
    )
    by_tap = html_figure(
        plot_retrieval(runs, methods, page.pair, page.num_layers),
        "P@1 of word translation by tap for each method; the numbers are in the table below the plot.",
        "How often the nearest word of the other language is the translation, from the embedding to the last layer.",
    )
    parts = [
        _result_table(rows, methods),
        f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in page.notes)}</ul>" if page.notes else "",
        "<h2>Loss</h2>",
        losses,
        "<h2>Word retrieval by tap</h2>",
        by_tap,
        f"<details><summary>P@1 in numbers</summary>{_tap_table(page, runs)}</details>",
        "<h2>How it was run</h2>",
        html_folded({name: _as_text(content) for name, content in page.details.items()}),
    ]
    return html_page(page.title, page.lead, parts)


def _result_table(rows: Sequence[Row], methods: tuple[str, str]) -> str:
    num_seeds = len(rows[0].baseline)
    spread = f"; {explain_spread(num_seeds)}" if num_seeds > 1 else ""
    headings = ["measure", *methods, f"{methods[1]} vs {methods[0]}"]
    return (
        html_table(headings, format_rows(rows)) + f"<p class='lead'>↓ lower is better, ↑ higher is better{spread}.</p>"
    )


def _tap_table(page: Page, runs: Sequence[Run]) -> str:
    """Return P@1 by tap as a table, the mean over seeds, for readers who do not see the plot."""
    rows = []
    names: list[str] = []
    for pair_set, title in PAIR_SETS.items():
        for method in (page.baseline, page.method):
            found = [run for run in runs if run.method == method]
            if not all(page.pair in run.evaluation["retrieval"].get(pair_set, {}) for run in found):
                continue
            values = [mean(tap) for tap in zip(*(retrieval(run, pair_set, page.pair) for run in found), strict=True)]
            names = tap_labels(len(values), page.num_layers)
            rows.append((f"{method}, {title}", *(f"{value:.3f}" for value in values)))
    return html_table(["method, words", *names], rows)


def _describe_losses(page: Page, runs: Sequence[Run]) -> str:
    """Say in words where the loss curves end."""
    ends = []
    for method in (page.baseline, page.method):
        last = [
            record["loss"] for run in runs if run.method == method for record in run.metrics[::-1] if "loss" in record
        ]
        if last:
            values = ", ".join(
                f"{LANGUAGE_NAMES.get(language, language)} {loss:.2f}" for language, loss in last[0].items()
            )
            ends.append(f"{method} ends at {values}")
    return "Validation loss over tokens seen. " + "; ".join(ends) + "."


def _as_text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, indent=2, default=str)
