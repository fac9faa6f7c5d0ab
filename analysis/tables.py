"""Tables as text: Markdown for people, CSV for programs, LaTeX (booktabs) for papers, HTML for the report's page."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "±": r"$\pm$", "†": r"$\dagger$", "ε": r"$\epsilon$", "β": r"$\beta$", "γ": r"$\gamma$",
    "‡": r"$\ddagger$", "|": r"\textbar{}",
    "×": r"$\times$", "≥": r"$\geq$", "…": r"\ldots{}", "–": "--", "τ": r"$\tau$", "∞": r"$\infty$",
}  # fmt: skip
"""Characters that LaTeX would read as commands, or that pdflatex has no glyph for."""

MARKUP = re.compile(
    r"""[`*~$|]                      # code, emphasis, strokes, formulas, cells
    | (?<![^\W_])_ | _(?![^\W_])    # emphasis; within clip_0.2 it is none
    | <(?=[a-zA-Z/!?])              # tags
    | \](?=[(\[:])                  # links, pictures and what they refer to; within [0.1, 0.2] it is none
    | &(?=\#?\w+;)                  # characters by their names
    | \\(?=[!-/:-@\[-`{-~]|$)""",  # characters that stand for themselves
    re.VERBOSE,
)
"""Characters that Markdown would read as more than themselves, where it would."""

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet computes a cell that begins so
PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """What a report says in rows. `shown` is for people: a text per cell, the columns' names as headings; `values` is
    for programs: one fact per cell, full precision. They may differ in shape."""

    name: str  # of its files
    title: str
    caption: str  # what is shown, and in what unit
    shown: pd.DataFrame
    values: pd.DataFrame


def number(value: float, digits: int = 2) -> str:
    """A rounded number with a real minus sign; a dash where there is none."""
    if pd.isna(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return (text.lstrip("-") if float(text.replace(",", "")) == 0 else text).replace("-", "−")


def returns(value: float) -> str:
    """A return: whole numbers from 1000 on, one decimal below."""
    return number(value, 0 if abs(value) >= 1000 else 1)


def span(low: float, high: float, digits: int = 2) -> str:
    """An interval."""
    return "–" if pd.isna(low) or pd.isna(high) else f"[{number(low, digits)}, {number(high, digits)}]"


def many(count: int, what: str) -> str:
    """'1 run' or '2,000 runs'."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def chance(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else number(p, 3)


def numeric(column: Sequence[str]) -> bool:
    """Whether a column of shown cells holds numbers, and so stands flush right."""
    return all(re.match(r"[−–<\[\d]", cell) for cell in column if cell)


def markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(plain, cells)) + " |"

    rule = ["--:" if numeric(table.shown[name]) else ":--" for name in table.shown]
    rows = [line(list(row)) for row in table.shown.itertuples(index=False)]
    caption = plain(table.caption).replace(r"\`", "`")  # they have code in them
    heading = f"**{plain(table.title)}.** {caption}"
    return "\n".join([heading, "", line(list(table.shown)), "| " + " | ".join(rule) + " |", *rows, ""])


def plain(text: str) -> str:
    """Text for Markdown that is shown as it is, on one line, whatever names are in it."""
    return MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    return " ".join(text.splitlines())


def csv(table: Table) -> str:
    values = table.values.rename(columns=inert).map(inert)
    return values.to_csv(index=False, lineterminator="\n")


def inert(cell: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: an apostrophe stands before such text."""
    if not isinstance(cell, str):
        return cell
    text = re.sub(r"\r\n?", "\n", cell)  # a bare \r would end the row
    return f"'{text}" if text.startswith(FORMULA) and not PLAIN_NUMBER.fullmatch(text) else text


def latex(table: Table) -> str:
    columns = "".join("r" if numeric(table.shown[name]) else "l" for name in table.shown)
    rows = [guarded(" & ".join(map(escaped, row))) + r" \\" for row in table.shown.itertuples(index=False)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(table.title)}. {escaped(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            guarded(" & ".join(map(escaped, table.shown))) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))


def guarded(row: str) -> str:
    """A row of which LaTeX reads no part as an option of the line end before it."""
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def as_html(table: Table) -> str:
    flush = {name: ' class="number"' * numeric(table.shown[name]) for name in table.shown}
    head = "".join(f"<th{flush[name]}>{breakable(name)}</th>" for name in table.shown)
    rows = [
        "".join(f"<td{flush[name]}>{html.escape(cell)}</td>" for name, cell in zip(table.shown, row, strict=True))
        for row in table.shown.itertuples(index=False)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def breakable(name: str) -> str:
    """A heading that may go on in a second line within InvertedDoublePendulum-v4."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?=-v\d)", "<wbr>", html.escape(name))


FORMATS = {"md": markdown, "csv": csv, "tex": latex}
"""How a table is written, by the ending of its file."""


def frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))
