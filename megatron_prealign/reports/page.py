"""Pages of reports: one HTML file without external resources, readable in light and dark mode."""

import html
from collections.abc import Mapping, Sequence

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


def html_page(title: str, lead: str, parts: Sequence[str]) -> str:
    """Return a page with a title, a paragraph below it, and parts in HTML."""
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
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
