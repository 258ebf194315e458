"""Pages of experiments: Markdown and HTML with tables, verdicts and plots, also while cells are missing."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from examples.paper.experiments.cells import Cell, Result
from examples.paper.experiments.log import write_log
from examples.paper.experiments.plots import plot_curves, plot_measures, standalone
from examples.paper.experiments.specs import Experiment, Measure, read_measures
from examples.paper.experiments.verdicts import (
    CONFIRMED,
    NOT_CONFIRMED,
    NOT_TESTABLE,
    OPEN,
    Found,
    Verdict,
    gather,
    judge,
)
from examples.steps import write_text
from megatron_prealign.reports.page import html_figure, html_page, html_table

CLAIMS_LINE = "Claims: "
BETTER, WORSE = "▲", "▼"
SIGNS = {CONFIRMED: "✓", NOT_CONFIRMED: "✗", NOT_TESTABLE: "–", OPEN: "…"}


def write_reports(
    folder: Path,
    results_folder: Path,
    experiments: Sequence[Experiment],
    cells: Sequence[Cell],
    results: Mapping[str, Result],
) -> None:
    """Write the page of each experiment, their index README.md, and the log beside the folder.

    Args:
        folder: of the pages.
        results_folder: of the cells' files, all of which the log lists.
        experiments: those to report on.
        cells: all their cells.
        results: what is finished of them.
    """
    measures = read_measures()
    for experiment in experiments:
        Page(experiment, gather(experiment, cells, results), measures).write(folder)
    write_index(folder)
    write_log(folder.parent / "experiment-log.md", results_folder)


class Page:
    """The report on one experiment."""

    def __init__(self, experiment: Experiment, found: Found, measures: Mapping[str, Measure]) -> None:
        """Judge the claims."""
        self.experiment, self.found, self.file = experiment, found, experiment.file
        self.measures = {key: measures[key] for key in experiment.file.measures}
        self.verdicts = [judge(claim, found, measures) for claim in experiment.file.claims]
        # A measure of a task that no cell has run yet would be an empty column.
        self.shown = [key for key in self.measures if any(found.seeds_of(name, key) for name in experiment.variants)]

    def write(self, folder: Path) -> None:
        """Write NAME.md, NAME.html and the plots."""
        name = self.experiment.name
        plots = self._plots()
        for plot, svg in plots.items():
            write_text(folder / f"{name}_{plot}.svg", standalone(svg))
        write_text(folder / f"{name}.md", self._markdown(plots))
        write_text(folder / f"{name}.html", self._html(plots))

    def _plots(self) -> dict[str, str]:
        plots = {}
        if self.shown:
            plots["measures"] = plot_measures(self.found, self.shown, self.measures)
        if any(self.found.results.values()):
            plots["curves"] = plot_curves(self.found)
        return plots

    def _markdown(self, plots: Mapping[str, str]) -> str:
        name = self.experiment.name
        parts = [f"# {self.file.title}", CLAIMS_LINE + self.summary(), self.file.question.strip(), self._progress()]
        if self.file.claims:
            parts += ["## Claims", markdown_table(*self._claims_table())]
        parts += ["## Results", markdown_table(*self._results_table()), self._legend()]
        if self._effects_table()[1]:
            parts += [f"## Against {self._title(self.file.baseline)}", markdown_table(*self._effects_table())]
        parts += [f"![{CAPTIONS[plot]}]({name}_{plot}.svg)\n\n{CAPTIONS[plot]}" for plot in plots]
        if self.file.notes:
            parts += ["## What to make of it", *(note.strip() for note in self.file.notes)]
        parts += ["## How it was run", *self._how()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _html(self, plots: Mapping[str, str]) -> str:
        parts = [f"<p>{html.escape(self._progress())}</p>"]
        if self.file.claims:
            parts += ["<h2>Claims</h2>", html_table(*self._claims_table())]
        parts += ["<h2>Results</h2>", html_table(*self._results_table())]
        parts.append(f"<p class='lead'>{html.escape(self._legend())}</p>")
        if self._effects_table()[1]:
            title = html.escape(self._title(self.file.baseline))
            parts += [f"<h2>Against {title}</h2>", html_table(*self._effects_table())]
        parts += [html_figure(svg, CAPTIONS[plot], CAPTIONS[plot]) for plot, svg in plots.items()]
        if self.file.notes:
            parts.append("<h2>What to make of it</h2>")
            parts += [f"<p>{html.escape(note.strip())}</p>" for note in self.file.notes]
        parts += ["<h2>How it was run</h2>", *(f"<p>{html.escape(part)}</p>" for part in self._how())]
        return html_page(self.file.title, " ".join(self.file.question.split()), [_rich(part) for part in parts])

    def summary(self) -> str:
        """Count the verdicts."""
        counts = {status: sum(verdict.status == status for verdict in self.verdicts) for status in SIGNS}
        return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"

    def _title(self, variant: str) -> str:
        return self.experiment.variants[variant].title

    def _progress(self) -> str:
        seeds = self.found.seeds
        missing = [
            f"{self._title(name)} (seed {', '.join(map(str, left))})"
            for name, finished in self.found.finished.items()
            if (left := [seed for seed in seeds if seed not in finished])
        ]
        total = len(seeds) * len(self.found.finished)
        done = sum(map(len, self.found.finished.values()))
        if not missing:
            return f"All {total} cells are finished: {len(seeds)} seeds of each method."
        return f"{done} of {total} cells are finished. Missing: {'; '.join(missing)}."

    def _claims_table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [verdict.claim.text, verdict.claim.where, self._target(verdict), verdict.numbers, _status(verdict)]
            for verdict in self.verdicts
        ]
        return ["claim", "made in", "measured", "found here", "verdict"], rows

    def _target(self, verdict: Verdict) -> str:
        claim = verdict.claim
        title = self.measures[claim.measure].title if claim.measure in self.measures else claim.measure
        return f"{title}: {self._title(claim.variant)} against {self._title(claim.against)}"

    def _results_table(self) -> tuple[list[str], list[list[str]]]:
        heads = ["method", "seeds", *(_heading(self.measures[key]) for key in self.shown)]
        best = {key: self._best(key) for key in self.shown}
        rows = []
        for name, variant in self.experiment.variants.items():
            row = [variant.title, str(len(self.found.finished[name]))]
            for key in self.shown:
                text = self._spread(name, key)
                row.append((f"**{text}**" if name in best[key] else text) + self._mark(name, key))
            rows.append(row)
        return heads, rows

    def _spread(self, variant: str, key: str) -> str:
        values = list(self.found.seeds_of(variant, key).values())
        if not values:
            return "-"
        digits = self.measures[key].digits
        return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")

    def _mark(self, variant: str, key: str) -> str:
        """Return the sign of a significant difference from the baseline."""
        effect = self.found.effect(variant, self.file.baseline, key, self.measures[key].better)
        if effect is None or effect.is_better is None or variant == self.file.baseline:
            return ""
        return f" {BETTER if effect.is_better else WORSE}"

    def _best(self, key: str) -> list[str]:
        means = {
            name: mean(values.values())
            for name in self.experiment.variants
            if (values := self.found.seeds_of(name, key)) and name not in self.file.unranked
        }
        if len(means) < 2:
            return []
        best = (min if self.measures[key].better == "lower" else max)(means.values())
        return [name for name, value in means.items() if value == best]

    def _legend(self) -> str:
        unranked = [self._title(name) for name in self.file.unranked]
        baseline = self._title(self.file.baseline)
        return (
            "Mean ± standard deviation over seeds; the best in bold"
            + (f" ({', '.join(unranked)} aside)" if unranked else "")
            + f". {BETTER} better, {WORSE} worse than {baseline}: the 95 % interval of the paired difference over "
            "seeds leaves out no change."
        )

    def _effects_table(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for key in self.shown:
            measure = self.measures[key]
            for name, variant in self.experiment.variants.items():
                effect = self.found.effect(name, self.file.baseline, key, measure.better)
                if name == self.file.baseline or effect is None:
                    continue
                p = "-" if effect.p is None else f"{effect.p:.2g}"
                better = f"{effect.num_better} of {effect.num_seeds}"
                rows.append([measure.title, variant.title, effect.text(measure.digits), p, better])
        return ["measure", "method", "effect [95 % interval]", "p", "seeds better"], rows

    def _how(self) -> list[str]:
        results = [result for by_seed in self.found.results.values() for result in by_seed.values()]
        if not results:
            return ["No cell is finished yet."]
        hours = sum(result.made["seconds"] for result in {result.key: result for result in results}.values()) / 3600
        tokens = [result.made["tokens"] for result in results]
        commands = dict.fromkeys(result.made["command"] for result in results)
        parts = [
            f"{hours:.1f} hours of cells; {min(tokens):,} to {max(tokens):,} tokens seen by each, those of words "
            f"counted; {results[0].made['cores']} cores, torch {results[0].made['versions']['torch']}.",
            "Commands: " + "; ".join(f"`{command}`" for command in commands),
        ]
        return parts + self._warnings(results)

    def _warnings(self, results: Sequence[Result]) -> list[str]:
        """Say what cells do not share though they should."""
        content: dict[str, set[str]] = {}
        for result in results:
            for dataset, digest in result.made["datasets"].items():
                content.setdefault(dataset, set()).add(digest)
        differing = sorted(dataset for dataset, digests in content.items() if len(digests) > 1)
        if not differing:
            return []
        return [
            f"Attention: {', '.join(differing)} differ between cells, which were made on machines with other versions "
            "of the packages that the text comes from. Compare only cells of one machine."
        ]


CAPTIONS = {
    "measures": "Each seed and the mean of each method.",
    "curves": "Validation loss over tokens seen, each seed a line; the validation text of training, which for "
    "code-switched English is switched too.",
}


def _status(verdict: Verdict) -> str:
    return f"{SIGNS[verdict.status]} {verdict.status}"


def _heading(measure: Measure) -> str:
    return f"{measure.title} {'↓' if measure.better == 'lower' else '↑'}"


def _rich(part: str) -> str:
    """Return HTML in which the little Markdown that texts have is marked up."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", part))


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write_index(folder: Path) -> None:
    """Write README.md, which lists all pages in the folder."""
    rows = []
    for path in sorted(folder.glob("*.md")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if path.name == "README.md" or not lines:
            continue
        claims = next((line.removeprefix(CLAIMS_LINE) for line in lines if line.startswith(CLAIMS_LINE)), "-")
        rows.append([f"[{lines[0].removeprefix('# ')}]({path.name})", claims])
    text = (
        "# Experiments\n\nWritten by `examples/paper/experiments/run.py` from the files in `cells/`; "
        "[how to run and to add experiments](../README.md), [every run](../experiment-log.md).\n\n"
    )
    write_text(folder / "README.md", text + markdown_table(["experiment", "claims"], rows) + "\n")
