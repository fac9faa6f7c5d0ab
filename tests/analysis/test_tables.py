"""Names stay names in every format of a table: read back by parsers that are not ours."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write
from markdown_it import MarkdownIt

from analysis import report, tables
from analysis.tables import Table

ODD_NAMES = [
    "<script>alert(1)</script>", "![x](https://host/x.png)", "[x](javascript:y)", "[x][y]", "[x]: z", "a|b", r"a\|b",
    "*a*", "_a_", "__a__", "~~a~~", "`a`", "&lt;b&gt;", "&#60;b>", "<!-- a", "<https://host>", r"\<b>", "a\\",
    "a\n\n# b", "a\r\nb", "a\u2028b", r"\`a`", "x_*y*_z",
]  # fmt: skip
ORDINARY = [
    "clip_0.2",
    "paper_text/clip_0.2",
    "Hopper-v4",
    "1,234.5 ± 3.2",
    "[−0.10, 0.20]",
    "< 0.001",
    "ε = 0.2",
    "a & b",
]


def table(name: str) -> Table:
    shown = pd.DataFrame({"variant": [name, "clip_0.2"], name: ["1.00", name]})
    return Table("odd", f"Against {name}", "The part of `run` before the dash.", shown, shown)


def kinds_and_words(text: str) -> tuple[set[str], list[str]]:
    """What a Markdown parser with tables finds: kinds of tokens, and the text of each block."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    within = [block.children or [] for block in blocks if block.type == "inline"]
    kinds = {token.type for tokens in [blocks, *within] for token in tokens}
    return kinds, ["".join(token.content for token in tokens if token.type != "text_special") for tokens in within]


@pytest.mark.parametrize("name", ODD_NAMES + ORDINARY)
def test_markdown_shows_a_name_and_does_nothing_else_with_it(name: str) -> None:
    kinds, words = kinds_and_words(tables.markdown(table(name)))
    shown = " ".join(name.splitlines())
    assert words == [f"Against {shown}. The part of run before the dash.",
                     "variant", shown, shown, "1.00", "clip_0.2", shown]  # fmt: skip
    expected = kinds_and_words(tables.markdown(table("plain")))[0]
    assert kinds - {"softbreak"} <= expected


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_written_as_they_are(name: str) -> None:
    assert tables.plain(name) == name
    assert tables.inert(name) == name


def test_a_report_shows_names_and_does_nothing_else_with_them(tmp_path: Path) -> None:
    evil = "<img src=x onerror=y>|![a](b)"
    folder = write(tmp_path / "dataset", np.random.default_rng(0), variants=(evil, "=1+1"), env_steps=10_000)
    note = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(note.replace('"left_out": {}', '"left_out": {"missing": ["<b>x</b>"]}'))
    out = tmp_path / "<i>report"
    named = folder.rename(tmp_path / "<i>dataset")
    assert report.main([str(named), "--missing", "mark", "--out", str(out)]) == 0
    for path in (out / "report.md", *out.glob("tables/*.md")):
        kinds, words = kinds_and_words(path.read_text())
        assert not kinds & {"html_inline", "html_block", "image", "link_open"}
        assert path.name not in ("report.md", "raw.md") or evil in words
    for path in out.glob("tables/*.csv"):
        for row in csv.reader(io.StringIO(path.read_text())):
            assert not [cell for cell in row if cell.startswith("=")]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_csv_cell_is_a_formula(start: str) -> None:
    name = f'{start}HYPERLINK("http://host")'
    values = pd.DataFrame({name: [name, "clip_0.2", "-0.5"], "n": [-1.5, np.nan, 2e-7], "k": [-1, 2, 3]})
    rows = list(csv.reader(io.StringIO(tables.csv(Table("odd", "", "", values, values)))))
    quoted = "'" + name.replace("\r", "\n")
    assert rows == [[quoted, "n", "k"], [quoted, "-1.5", "-1"], ["clip_0.2", "", "2"], ["-0.5", "2e-07", "3"]]


def test_a_carriage_return_does_not_end_a_csv_row() -> None:
    values = pd.DataFrame({"name": ["a\rb", "a\r\nb"]})
    rows = list(csv.reader(io.StringIO(tables.csv(Table("odd", "", "", values, values)))))
    assert rows == [["name"], ["a\nb"], ["a\nb"]]


@pytest.mark.parametrize("name", ["[5pt] x", "*x"])
def test_a_latex_row_is_not_an_option_of_the_line_end_before_it(name: str) -> None:
    rows = tables.latex(table(name)).splitlines()
    assert [row for row in rows if row.startswith(("[", "*"))] == []
    assert rf"{{}}{name} & 1.00 \\" in rows


def test_a_latex_caption_is_one_paragraph() -> None:
    assert r"\caption{Against a  b. }" in tables.latex(
        Table("odd", "Against a\n\nb", "", *[pd.DataFrame({"n": ["1"]})] * 2)
    )
