"""Plots of a report as SVG text: loss curves, and retrieval by tap.

Text and axes take the colour of the page around them (`currentColor`), so the plots read on light and dark
backgrounds; methods differ in line style and marker as well as in colour.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from megatron_prealign.evaluation.report import LANGUAGE_NAMES, PAIR_SETS, Run, retrieval, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Both colours have a contrast of at least 3 to 1 against white and against near-black.
STYLES = (
    {"color": "#d9730d", "linestyle": "--", "marker": "s"},
    {"color": "#3b82f6", "linestyle": "-", "marker": "o"},
)
# Stands for `currentColor`, which matplotlib does not know; a colour nobody would choose.
PAGE_COLOR = "#010203"
PANEL_INCHES = (4.6, 3.3)

RC: dict[Any, Any] = {
    "axes.edgecolor": PAGE_COLOR,
    "axes.labelcolor": PAGE_COLOR,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "grid.alpha": 0.18,
    "grid.color": PAGE_COLOR,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
    "text.color": PAGE_COLOR,
    "xtick.color": PAGE_COLOR,
    "ytick.color": PAGE_COLOR,
}


def plot_losses(runs: Sequence[Run], methods: Sequence[str], languages: Sequence[str]) -> str:
    """Plot validation loss over tokens seen, a panel for each language, and return the SVG.

    Args:
        runs: runs of all methods and seeds.
        methods: methods in the order of their styles.
        languages: languages of the "valid" records.
    """

    def draw(axes: "Axes", language: str) -> None:
        for run, style in _styled(runs, methods):
            tokens, losses = series(run, "valid", "loss", language)
            axes.plot([count / 1e6 for count in tokens], losses, **style)
        for end in sorted(set(map(_end_of_first_stage, runs)) - {0}):
            axes.axvline(end / 1e6, color=PAGE_COLOR, alpha=0.35, linewidth=1, linestyle=":")
        axes.set(title=LANGUAGE_NAMES.get(language, language), xlabel="tokens seen, millions", ylabel="validation loss")

    return _panels(languages, draw)


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
            labels = tap_names(len(values), num_layers)
            axes.plot(range(len(values)), values, **style)
        axes.set_xticks(range(len(labels)), labels)
        axes.set(title=PAIR_SETS[pair_set], xlabel="tap", ylabel="P@1", ylim=(-0.03, 1.03))

    return _panels(pair_sets, draw)


def tap_names(num_taps: int, num_layers: int) -> list[str]:
    """Name the taps: embedding output, layers, and output-embedding rows where the weights are not tied."""
    names = ["embedding", *(str(layer) for layer in range(1, num_layers + 1)), "output"]
    return names[:num_taps]


def _panels(names: Sequence[str], draw: Callable[["Axes", str], None]) -> str:
    """Draw a row of panels that share one legend, and return the SVG."""
    import matplotlib

    with matplotlib.rc_context(RC):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(PANEL_INCHES[0] * len(names), PANEL_INCHES[1]), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            axes.grid(visible=True)
            draw(axes, name)
        panels[0].legend()
        return _to_svg(figure)


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


def _to_svg(figure: "Figure") -> str:
    """Return a figure as an SVG element that scales with the page and has no date in it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', element, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL).replace(PAGE_COLOR, "currentColor")
