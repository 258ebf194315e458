"""Plots of a report: loss curves, and retrieval by tap."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from megatron_prealign.reports.comparison import LANGUAGE_NAMES, PAIR_SETS, Run, retrieval
from megatron_prealign.reports.panels import PAGE_COLOR, STYLES, draw_panels
from megatron_prealign.reports.records import series

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
