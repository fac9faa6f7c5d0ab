"""The report as one HTML page that needs nothing beside it: figures inside, no script, no network."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.tables import Table, as_html

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem 4rem; font: 16px/1.55 system-ui, sans-serif;
       color: #1a1a1a; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p, ul { max-width: 46rem; }
.about { color: #555; margin-top: 0; }
.partial { background: #fdecea; border-left: 5px solid #b3261e; padding: .6rem 1rem; max-width: none; }
.caption { color: #444; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; border-top: 2px solid #222;
        border-bottom: 2px solid #222; }
th { text-align: left; border-bottom: 1px solid #222; vertical-align: bottom; }
th, td { padding: .22rem .7rem .22rem 0; vertical-align: top; }
td + td, th + th { padding-left: .5rem; }
.number { text-align: right; }
td.number { white-space: nowrap; }
tbody tr:nth-child(even) { background: #f6f6f6; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
nav { font-size: .9rem; }
nav a { margin-right: .9rem; }
details > summary { cursor: pointer; color: #444; margin: .4rem 0; }
""".strip()

LONG = 40  # rows; a longer table is folded


@dataclass(frozen=True)
class Picture:
    """A figure on disk."""

    name: str
    title: str
    caption: str
    png: Path


@dataclass(frozen=True)
class Page:
    """What the page says, in its order."""

    title: str
    about: str  # one line under the title
    partial: Sequence[str]  # what is missing; stands above everything
    summary: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    notes: Sequence[str]
    commands: Sequence[str]
    provenance: Table


def render(page: Page) -> str:
    """The page's text."""
    last = [table for table in page.tables if table.name in ("published", "differences", "runs")]
    first = [table for table in page.tables if table not in last]
    sections: list[Table | Picture] = [*first, *page.pictures, *last, page.provenance]
    links = "".join(f'<a href="#{part.name}">{html.escape(part.title)}</a>' for part in sections)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(page.title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>",
        f'<h1>{html.escape(page.title)}</h1>\n<p class="about">{html.escape(page.about)}</p>',
        *(f'<p class="partial"><strong>Partial.</strong> {html.escape(line)}</p>' for line in page.partial),
        bullets(page.summary),
        f"<nav>{links}</nav>",
        *(table_section(table) for table in first),
        *(picture_section(picture) for picture in page.pictures),
        *(table_section(table) for table in last),
        '<h2 id="notes">Notes</h2>' if page.notes else "",
        bullets(page.notes),
        table_section(page.provenance),
        '<h2 id="commands">Commands</h2>\n<pre>' + html.escape("\n".join(page.commands)) + "</pre>",
        "</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def bullets(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{html.escape(line)}</li>" for line in lines) + "\n</ul>" if lines else ""


def heading(part: Table | Picture) -> str:
    return f'<h2 id="{part.name}">{html.escape(part.title)}</h2>\n<p class="caption">{html.escape(part.caption)}</p>'


def table_section(table: Table) -> str:
    rows = f'<div class="wide">\n{as_html(table)}\n</div>'
    if len(table.shown) > LONG:
        rows = f"<details><summary>{len(table.shown):,} rows</summary>\n{rows}\n</details>"
    return f"{heading(table)}\n{rows}"


def picture_section(picture: Picture) -> str:
    data = base64.b64encode(picture.png.read_bytes()).decode()
    image = f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{data}">'
    return f"{heading(picture)}\n<figure>{image}</figure>"
