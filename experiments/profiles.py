"""Profiles side by side: every value, where it comes from, and what differs from the paper.

python -m experiments.profiles [NAME ...]
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text
from yaml import YAMLError

from experiments.commands import command
from experiments.compose import CONF, build
from ppo.config import SWITCHES, Profile
from ppo.refusals import UserError, near_matches

WIDTH = 120  # columns
PAPER = "paper_text"  # which is silent, or has a comment that begins with "unprinted", where the paper says nothing …
ATARI = "atari_paper"  # … and so do those of its settings for Atari
LEGEND = "– the paper prints nothing   ! contradicts what it prints   * the profiles differ"


@dataclass(frozen=True)
class Sheet:
    """One file of conf/profile: its opening words, its values, and the comment beside each that it sets."""

    name: str
    about: str
    profile: Profile
    sources: Mapping[str, str]

    def value(self, field: str) -> Any:
        return getattr(self.profile, field)


def read(path: Path) -> Sheet:
    """The profile of a file, its values checked; a comment stands on the line of its value."""
    text = path.read_text()
    try:
        values = OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold lines such as gamma: 0.99 # Table 3")
    profile = build(Profile, {str(name): value for name, value in values.items()}, f"{path.stem}: profile.")
    opening = takewhile(lambda line: line.startswith("#"), text.splitlines())
    comments = dict(re.findall(r"^(\w+):[^#\n]*# *(.+)$", text, re.MULTILINE))
    sources = {str(name): comments.get(name, "no source given") for name in values}
    return Sheet(path.stem, " ".join(line.strip("# ") for line in opening), profile, sources)


def rooms() -> dict[str, list[str]]:
    """Profile's fields under the headings that their declarations give."""
    found: dict[str, list[str]] = {}
    group = ""
    for name, declared in SWITCHES.items():
        group = declared.group or group
        found.setdefault(group, []).append(name)
    return found


def printed(paper: Sheet) -> dict[str, str]:
    """The fields whose value the paper prints, and where."""
    return {name: source for name, source in paper.sources.items() if not source.startswith("unprinted")}


def shown(value: Any) -> str:
    """A value as the command line takes it; five digits of a number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return f"{value:.5g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def report(sheets: Sequence[Sheet], paper: Sheet, layout: Mapping[str, Sequence[str]]) -> str:
    """All there is to tell of `sheets`, 120 columns wide for those of conf/profile; `layout`: fields by heading."""
    names = [name for group in layout.values() for name in group]
    lines = [
        LEGEND,
        "",
        *side_by_side(sheets, paper, layout),
        "",
        "Sources",
        *(line for sheet in sheets for line in wrapped(f"  {sheet.name}: {sheet.about}")),
        "",
        *sources(sheets, names),
        "",
        "What differs from the paper",
        *(line for sheet in sheets for line in departures(sheet, paper, names)),
    ]
    return "\n".join(lines)


def side_by_side(sheets: Sequence[Sheet], paper: Sheet, layout: Mapping[str, Sequence[str]]) -> list[str]:
    known = printed(paper)

    def row(name: str) -> list[str]:
        mark = "*" if len({sheet.value(name) for sheet in sheets}) > 1 else " "
        said = paper.value(name)
        cells = [shown(sheet.value(name)) + "!" * (name in known and sheet.value(name) != said) for sheet in sheets]
        return [f"{mark} {name}", shown(said) if name in known else "–", *cells]

    rows = {name: row(name) for group in layout.values() for name in group}
    head, *body = aligned([["", "paper", *(sheet.name for sheet in sheets)], *rows.values()])
    lines = dict(zip(rows, body, strict=True))
    return [head, *(line for heading, group in layout.items() for line in (heading, *(lines[name] for name in group)))]


def sources(sheets: Sequence[Sheet], names: Sequence[str]) -> list[str]:
    rows = [
        ["" if i else f"  {name}", sheet.name, shown(sheet.value(name)), sheet.sources[name]]
        for name in names
        for i, sheet in enumerate(sheet for sheet in sheets if name in sheet.sources)
    ]
    return aligned(rows)


def departures(sheet: Sheet, paper: Sheet, names: Sequence[str]) -> list[str]:
    known = printed(paper)
    others = [name for name in names if sheet.value(name) != paper.value(name)]
    free = [f"{name}={shown(sheet.value(name))}" for name in others if name not in known]
    against = [
        f"{name}={shown(sheet.value(name))} (printed: {shown(paper.value(name))}; {known[name]})"
        for name in others
        if name in known
    ]
    unprinted = sum(name not in known for name in names)
    return [
        f"  {sheet.name}",
        *wrapped(f"    not the neutral choice in {len(free)} of {unprinted} unprinted fields: {listed(free)}"),
        *wrapped(f"    contradicts {len(against)} of {len(names) - unprinted} printed fields: {listed(against)}"),
    ]


def listed(items: Sequence[str]) -> str:
    return ", ".join(items) or "none"


def wrapped(text: str) -> list[str]:
    """Lines of at most 120 columns; those after the first stand two columns further in."""
    inner = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.wrap(text, WIDTH, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def coloured(text: str) -> Text:
    """For a terminal: differing rows bold, contradictions red."""
    styled = Text(text)
    styled.highlight_regex(r"(?m)^\* .*$", "bold")
    styled.highlight_regex(r"\S+!(?=\s)", "red")
    return styled


@command(UserError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.profiles", description="Profiles side by side.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="of conf/profile (default: all but Atari's, nearest paper first)",
    )
    options = parser.parse_args(arguments)
    known = {path.stem: path for path in sorted((CONF / "profile").glob("*.yaml"))}
    for name in options.names:
        if name not in known:
            hint = near_matches(name, list(known)) or f"; choose one of {', '.join(known)}"
            raise UserError(f"{name}: there is no such profile{hint}")
    sheets = [read(known[name]) for name in dict.fromkeys(options.names or known)]
    of_frames = [sheet for sheet in sheets if sheet.profile.convolutions != "none"]
    if not options.names:
        sheets = [sheet for sheet in sheets if sheet not in of_frames]
    elif of_frames and len(of_frames) < len(sheets):
        raise UserError(f"{of_frames[0].name} is for Atari and others are not; compare those of one kind")
    paper = read(known[ATARI if options.names and of_frames else PAPER])
    if not options.names:
        sheets.sort(key=lambda sheet: sum(sheet.value(f.name) != paper.value(f.name) for f in fields(Profile)))
    text = report(sheets, paper, rooms())
    if sys.stdout.isatty():
        Console().print(coloured(text), soft_wrap=True)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
