"""What MkDocs does for this site besides: tables from data files, the changelog, a check that nothing is loaded."""

import csv
import re
from pathlib import Path

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent
# A link that stands alone in its paragraph: the site shows the table below it, other viewers of Markdown the link.
_DATA_LINK = re.compile(r"(?m)^\[[^\]]+\]\((data/[\w-]+\.csv)\)$")
_LOADED = re.compile(r"<(?:script|img|iframe|link|source|video)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def on_page_markdown(markdown, page, **_):
    """Return the changelog for its page, and other pages with the tables that they link to."""
    if page.file.src_uri == "changelog.md":
        return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return _DATA_LINK.sub(lambda link: f'{link[0]}\n\n??? note "Show the table"\n\n{_table(link[1])}', markdown)


def on_post_page(output, page, **_):
    """Refuse a page that would load something from another host.

    Raises:
        PluginError: It would.
    """
    loaded = _LOADED.findall(output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(loaded)}: the site has to work without a network")


def _table(name: str) -> str:
    """A data file as a table in Markdown, indented to stand in a block."""
    with (ROOT / "docs" / name).open(newline="", encoding="utf-8") as file:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in csv.reader(file)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"    | {' | '.join(row)} |\n" for row in rows)
