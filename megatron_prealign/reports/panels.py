"""Plots of reports: rows of panels as SVG text.

Text and axes take the colour of the page around them (`currentColor`), so the plots read on light and dark
backgrounds; lines differ in style and marker as well as in colour.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Every colour has a contrast of at least 3 to 1 against white and near-black.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#d9730d", "linestyle": "--", "marker": "s"},
    {"color": "#3b82f6", "linestyle": "-", "marker": "o"},
    {"color": "#16a34a", "linestyle": "-.", "marker": "^"},
    {"color": "#a855f7", "linestyle": ":", "marker": "D"},
    {"color": "#db2777", "linestyle": (0, (5, 1)), "marker": "v"},
    {"color": "#0d9488", "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},
    {"color": "#808080", "linestyle": (0, (1, 1)), "marker": "X"},
    {"color": "#57830d", "linestyle": (0, (7, 2, 1, 2)), "marker": "*"},
)
# From the first layer to the last; the colours in between have that contrast too.
LAYER_COLORS = ("#3b82f6", "#a855f7", "#db2777", "#d9730d")
# Placeholder for `currentColor`, which matplotlib does not support.
PAGE_COLOR = "#010203"
PANEL_INCHES = (4.6, 3.3)
REM_PER_INCH = 6.2

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


def draw_panels(names: Sequence[str], draw: Callable[["Axes", str], None], num_columns: int = 3) -> str:
    """Draw panels in rows, with one legend below for all of them, and return the SVG.

    Args:
        names: of the panels, passed to `draw`.
        draw: draws one panel on its axes.
        num_columns: most panels per row.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        from matplotlib.figure import Figure

        num_columns = min(num_columns, len(names))
        num_rows = -(-len(names) // num_columns)
        figure = Figure(figsize=(PANEL_INCHES[0] * num_columns, PANEL_INCHES[1] * num_rows), layout="constrained")
        panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        for axes, name in zip(panels, names, strict=False):
            axes.grid(visible=True)
            draw(axes, name)
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        handles = [axes.get_legend_handles_labels() for axes in panels]
        entries = {label: line for lines, labels in handles for line, label in zip(lines, labels, strict=True)}
        _add_legend(figure, entries)
        return _to_svg(figure)


def _add_legend(figure: "Figure", entries: Mapping[str, Any]) -> None:
    """Add a legend below all panels, with as many columns as fit."""
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def layer_colors(count: int) -> list[str]:
    """Return `count` colours of a gradient, from the first line to the last."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    scale = LinearSegmentedColormap.from_list("layers", LAYER_COLORS)
    return [to_hex(scale(index / max(count - 1, 1))) for index in range(count)]


def _to_svg(figure: "Figure") -> str:
    """Return a figure as an SVG element that scales with the page; without a date, so that equal plots are equal."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    element = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    # Wide figures shrink with the page, narrow ones keep their font size.
    width = f"{REM_PER_INCH * figure.get_figwidth():.1f}rem"
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 width="100%" style="max-width: {width}"', element, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL).replace(PAGE_COLOR, "currentColor")
