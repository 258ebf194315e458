"""Pages of reports: one HTML file without external resources, and plots in it as SVG text.

Pages are readable in light and dark mode. Text and axes of a plot take the colour of the page around them
(`currentColor`); lines differ in style and marker as well as in colour.
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CSS = """
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


def html_page(title: str, lead: str, parts: Sequence[str]) -> str:
    """Return a page with a title, a paragraph below it, and parts in HTML."""
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head><body><main>"
    )
    opening = f"<h1>{html.escape(title)}</h1><p class='lead'>{html.escape(lead)}</p>"
    return head + "\n".join([opening, *parts]) + "</main></body></html>\n"


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column contains the row headers."""
    head = "".join(f"<th scope='col'>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(cells[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def html_figure(svg: str, alternative: str, caption: str) -> str:
    """Return a figure with a text alternative for the drawing."""
    drawing = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative, quote=True)}" ', 1)
    return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def html_folded(contents: Mapping[str, str]) -> str:
    """Return collapsed texts, each under its heading."""
    return "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in contents.items()
    )


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
    """Add a legend below all panels, with as many columns as fit; a tall one makes the figure taller."""
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            height = legend.get_window_extent().height / figure.dpi
            figure.set_figheight(figure.get_figheight() + max(0.0, height - PANEL_INCHES[1] / 3))
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
