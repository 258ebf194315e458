"""The page of a report: one HTML file without external resources, readable in light and dark."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from megatron_prealign.evaluation.report import (
    LANGUAGE_NAMES,
    PAIR_SETS,
    Row,
    Run,
    explain_spread,
    format_rows,
    retrieval,
)
from megatron_prealign.evaluation.report_plots import plot_losses, plot_retrieval, tap_names

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1.25rem;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.7rem; margin-bottom: .25rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.lead { opacity: .8; margin-top: .4rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid color-mix(in srgb, CanvasText 22%, transparent); }
th { text-align: left; } td { text-align: right; } thead th:not(:first-child) { text-align: right; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { opacity: .8; font-size: .92rem; }
pre { overflow-x: auto; padding: .8rem; border-radius: .4rem; font-size: .82rem;
  background: color-mix(in srgb, CanvasText 7%, transparent); }
ul { list-style: none; padding-left: .7rem; }
summary { cursor: pointer; } .scroll { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Page:
    """What a page says beside tables and plots."""

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
        runs: all runs behind it, whose curves are plotted.
    """
    methods = (page.baseline, page.method)
    losses = _figure(
        plot_losses(runs, methods, page.loss_languages),
        _describe_losses(page, runs),
        f"Validation loss over all tokens seen, those of word pairs counted. Dotted: {page.method} passes from stage 1 "
        "(align-init) to stage 2 (pretrain), whose English is code-switched, here too; the table compares plain text.",
    )
    by_tap = _figure(
        plot_retrieval(runs, methods, page.pair, page.num_layers),
        "P@1 of word translation by tap for each method; the numbers are in the table below the plot.",
        "How often the nearest word of the other language is the translation, from the embedding to the last layer.",
    )
    details = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(_as_text(content))}</pre></details>"
        for name, content in page.details.items()
    )
    parts = [
        f"<h1>{html.escape(page.title)}</h1><p class='lead'>{html.escape(page.lead)}</p>",
        _result_table(rows, methods),
        f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in page.notes)}</ul>" if page.notes else "",
        "<h2>Loss</h2>",
        losses,
        "<h2>Word retrieval by tap</h2>",
        by_tap,
        f"<details><summary>P@1 in numbers</summary>{_tap_table(page, runs)}</details>",
        f"<h2>How it was run</h2>{details}",
    ]
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(page.title)}</title><style>{STYLE}</style></head><body><main>"
    )
    return head + "\n".join(parts) + "</main></body></html>\n"


def _result_table(rows: Sequence[Row], methods: tuple[str, str]) -> str:
    num_seeds = len(rows[0].baseline)
    spread = f"; {explain_spread(num_seeds)}" if num_seeds > 1 else ""
    headings = ["measure", *methods, f"{methods[1]} vs {methods[0]}"]
    return _table(headings, format_rows(rows)) + f"<p class='lead'>↓ lower is better, ↑ higher is better{spread}.</p>"


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
            names = tap_names(len(values), page.num_layers)
            rows.append((f"{method}, {title}", *(f"{value:.3f}" for value in values)))
    return _table(["method, words", *names], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table whose first column heads its rows."""
    head = "".join(f"<th scope='col'>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(cells[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _figure(svg: str, alternative: str, caption: str) -> str:
    """Return a figure with a text alternative for the drawing."""
    drawing = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative, quote=True)}" ', 1)
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


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
