"""Plots of training runs side by side: measures over steps, and alignment losses and retrieval by tap over steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from megatron_prealign.config.alignment import EMBEDDING, OUTPUT_EMBEDDING
from megatron_prealign.reports.page import STYLES, draw_panels, layer_colors
from megatron_prealign.reports.records import Record, series, value_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A single run is a solid line.
RUN_STYLES = (STYLES[1], STYLES[0], *STYLES[2:])
MAX_RUNS = len(RUN_STYLES)
MAX_TAPS_NAMED = 8
"""Further taps are drawn too, but the legend does not name each."""

SCORES = {
    "p_at_1": "P@1",
    "p_at_1_known": "P@1, known tokens",
    "p_at_1_new": "P@1, with new tokens",
    "mean_cosine": "mean cosine of pairs",
    "anisotropy": "anisotropy",
}
"""Scores of word retrieval in display order, with their names."""


@dataclass(frozen=True)
class TrainingRun:
    """One run folder."""

    name: str
    """Name of the run in plots and tables."""
    records: tuple[Record, ...]
    """Records, in order."""
    taps: tuple[str, ...]
    """Taps of the model, in order."""
    config: str
    """Its config.yaml."""

    @property
    def word_sets(self) -> list[tuple[str, str]]:
        """Return the (word set, language pair) whose retrieval was measured, in order of appearance."""
        measured = [
            (name, pair)
            for record in self.records
            for name, pairs in record.get("retrieval", {}).items()
            for pair in pairs
        ]
        return list(dict.fromkeys(measured))


@dataclass(frozen=True)
class Measure:
    """One number of the records."""

    title: str
    """Heading of its panel."""
    kind: str
    """Kind of its records: train or valid."""
    names: tuple[str, ...]
    """Keys that lead to it; of a list, the mean is taken."""
    format: str = ".3f"
    """Format of its values."""
    logarithmic: bool = False
    """Whether its axis is logarithmic."""
    from_zero: bool = False
    """Whether its axis begins at 0."""
    unit: float = 1.0
    """Divisor of the numbers in its records."""

    def curve(self, run: TrainingRun) -> tuple[list[int], list[float]]:
        """Return its steps and values in a run."""
        steps, values = series(run.records, self.kind, *self.names)
        return steps, [value / self.unit for value in values]

    def last(self, run: TrainingRun) -> float | None:
        """Return its last value in a run; `None` if the run never measured it."""
        values = self.curve(run)[1]
        return values[-1] if values else None


def plot_measures(runs: Sequence[TrainingRun], measures: Sequence[Measure]) -> str:
    """Plot measures over steps, one panel each, one line per run; return the SVG."""
    by_title = {measure.title: measure for measure in measures}

    def draw(axes: "Axes", title: str) -> None:
        measure = by_title[title]
        for run, style in zip(runs, RUN_STYLES, strict=False):
            steps, values = measure.curve(run)
            if steps:
                # There are many training records: markers would hide the line.
                marker = style["marker"] if measure.kind == "valid" else None
                axes.plot(steps, values, **{**style, "marker": marker}, label=run.name, linewidth=1.6, markersize=4)
        axes.set(title=title, xlabel="step", yscale="log" if measure.logarithmic else "linear")
        if measure.from_zero:
            axes.set_ylim(bottom=0.0)

    return draw_panels(list(by_title), draw)


def plot_tap_losses(runs: Sequence[TrainingRun]) -> str:
    """Plot the alignment loss of each tap over steps, one panel per run; return the SVG."""
    by_name = {run.name: run for run in runs}

    def draw(axes: "Axes", name: str) -> None:
        run = by_name[name]
        curves = {tap: series(run.records, "train", "tap_loss", tap) for tap in run.taps}
        _draw_taps(axes, run.taps, curves)
        axes.set(title=name, xlabel="step", ylabel="alignment loss")

    return draw_panels(list(by_name), draw)


def plot_by_run(runs: Sequence[TrainingRun], measures: Sequence[Measure], label: str) -> str:
    """Plot measures of one kind over steps, one panel per run; return the SVG."""
    by_name = {run.name: run for run in runs}

    def draw(axes: "Axes", name: str) -> None:
        for measure, style in zip(measures, RUN_STYLES, strict=False):
            axes.plot(*measure.curve(by_name[name]), **{**style, "marker": None}, label=measure.title, linewidth=1.6)
        axes.set(title=name, xlabel="step", ylabel=label)

    return draw_panels(list(by_name), draw)


def plot_retrieval_by_tap(run: TrainingRun, word_set: str, pair: str) -> str:
    """Plot each score of a word set and language pair over steps, one panel each, one line per tap; return the SVG."""
    names = {title: name for name, title in SCORES.items() if has_score(run, word_set, pair, name)}

    def draw(axes: "Axes", title: str) -> None:
        keys = ("retrieval", word_set, pair, names[title])
        curves = {tap: series(run.records, "valid", *keys, index) for index, tap in enumerate(run.taps)}
        _draw_taps(axes, run.taps, curves, marker="o")
        axes.set(title=title, xlabel="step")
        if names[title].startswith("p_at_1"):
            axes.set_ylim(bottom=0.0)

    return draw_panels(list(names), draw)


def has_score(run: TrainingRun, word_set: str, pair: str, score: str) -> bool:
    """Return whether a run has measured a score of a word set."""
    return any(value_at(record, "retrieval", word_set, pair, score) is not None for record in run.records)


def _draw_taps(
    axes: "Axes", taps: Sequence[str], curves: Mapping[str, tuple[list[int], list[float]]], marker: str | None = None
) -> None:
    """Draw a curve for each tap; embeddings also differ in line style."""
    every = -(-len(taps) // MAX_TAPS_NAMED)
    dashes = {EMBEDDING: "--", OUTPUT_EMBEDDING: ":"}
    for index, (tap, color) in enumerate(zip(taps, layer_colors(len(taps)), strict=True)):
        steps, values = curves[tap]
        if steps:
            label = tap.replace("_", " ") if index % every == 0 or tap == taps[-1] else None
            look: dict[str, Any] = {"color": color, "linestyle": dashes.get(tap, "-"), "marker": marker}
            axes.plot(steps, values, **look, label=label, linewidth=1.6, markersize=3)
