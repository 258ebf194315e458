"""Plots of an experiment's page."""

from collections.abc import Mapping, Sequence
from statistics import mean
from textwrap import fill
from typing import TYPE_CHECKING

from examples.paper.experiments.specs import Measure
from examples.paper.experiments.verdicts import Found
from megatron_prealign.reports.page import STYLES, draw_panels
from megatron_prealign.reports.records import LANGUAGE_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEUTRAL_COLOR = "#777777"
TITLE_CHARACTERS = 36
"""What fits above a panel that has names on its left."""


def standalone(svg: str) -> str:
    """Return an SVG as a file of its own, in a colour that reads on white and on black."""
    attribute = "" if "xmlns=" in svg[: svg.index(">")] else ' xmlns="http://www.w3.org/2000/svg"'
    return svg.replace("<svg", f"<svg{attribute}", 1).replace("currentColor", NEUTRAL_COLOR) + "\n"


def plot_measures(found: Found, keys: Sequence[str], measures: Mapping[str, Measure]) -> str:
    """Plot every seed and the mean, a panel a measure: over the axis where there is one, else method by method."""
    variants, axis = found.experiment.variants, found.experiment.file.axis

    def draw(axes: "Axes", key: str) -> None:
        axes.set_title(fill(measures[key].title, TITLE_CHARACTERS), fontsize=9)
        if axis is not None:
            _draw_axis(axes, found, key)
            axes.set_xlabel(axis.label)
            return
        names = [name for name in variants if found.seeds_of(name, key)]
        for row, name in enumerate(names):
            style = STYLES[list(variants).index(name) % len(STYLES)]
            values = list(found.seeds_of(name, key).values())
            axes.scatter(values, [row] * len(values), color=style["color"], alpha=0.5, s=18)
            axes.scatter([mean(values)], [row], color=style["color"], marker=style["marker"], s=50)
        axes.set_yticks(range(len(names)), [variants[name].title for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)

    return draw_panels(keys, draw, num_columns=2)


def _draw_axis(axes: "Axes", found: Found, key: str) -> None:
    """Draw the variants on the axis as a curve, the others as level lines."""
    axis = found.experiment.file.axis
    assert axis is not None
    points = sorted((at, name) for name, at in axis.values.items() if found.seeds_of(name, key))
    for at, name in points:
        values = list(found.seeds_of(name, key).values())
        axes.scatter([at] * len(values), values, color=STYLES[1]["color"], alpha=0.5, s=18)
    means = [mean(found.seeds_of(name, key).values()) for _, name in points]
    axes.plot([at for at, _ in points], means, color=STYLES[1]["color"], marker="o")
    others = [name for name in found.experiment.variants if name not in axis.values and found.seeds_of(name, key)]
    for name, style in zip(others, (STYLES[0], *STYLES[2:]), strict=False):
        level = mean(found.seeds_of(name, key).values())
        title = found.experiment.variants[name].title
        axes.axhline(level, color=style["color"], linestyle=style["linestyle"], label=title)


def plot_curves(found: Found) -> str:
    """Plot the losses of all validations over tokens, a panel a language."""
    results = [result for by_seed in found.results.values() for result in by_seed.values()]
    keys = list(dict.fromkeys(key for result in results for key in result.curves))

    def draw(axes: "Axes", key: str) -> None:
        for index, (name, by_seed) in enumerate(found.results.items()):
            style = STYLES[index % len(STYLES)]
            for number, result in enumerate(by_seed.values()):
                points = result.curves.get(key, [])
                label = found.experiment.variants[name].title if number == 0 else None
                axes.plot(
                    [tokens / 1e6 for tokens, _ in points],
                    [value for _, value in points],
                    **{**style, "label": label, "linewidth": 1.2, "markersize": 3},
                )
        language = key.removeprefix("loss.")
        title = LANGUAGE_NAMES.get(language, language)
        axes.set(title=title, xlabel="tokens seen, millions", ylabel="validation loss")

    return draw_panels(keys, draw, num_columns=2)
