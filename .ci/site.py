"""Let pages outside docs/ into the documentation's site, and links between all of them resolve there and on disk alike.

A hook of mkdocs.yml. Markdown files keep the links that work in the repository (../README.md, docs/lexicons.md); here
they become links between pages, and files that they lead to become part of the site. A link to nothing fails a strict
build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^ *```.*?^ *```[^\n]*$", re.MULTILINE | re.DOTALL)


def outside_pages() -> dict[str, str]:
    """Return the page of the site for each Markdown file outside docs/, by its path in the repository."""
    pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    for path in sorted((ROOT / "examples").rglob("*.md")):
        source = path.relative_to(ROOT).as_posix()
        pages[source] = source.replace("/README.md", ".md")
    return pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for source, page in outside_pages().items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    pages = outside_pages()
    sources = {uri: source for source, uri in pages.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        uri = pages.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(uri) is None and (ROOT / target).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
        return f"]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{link['anchor'] or ''})"

    parts, position = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(on_site, markdown[position : fence.start()]), fence[0]]
        position = fence.end()
    return "".join([*parts, LINK.sub(on_site, markdown[position:])])
