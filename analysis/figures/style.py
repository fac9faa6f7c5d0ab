"""One look for all figures: a variant's colour and line, which variants share a panel, and files that are the same
bytes for the same input.

Families of Table 1 have a hue each, chosen to stay apart for colour-blind readers; a family's settings go from light to
dark, which survives a grey print.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from analysis.statistics import Array

INK, PALE, ALARM = "#222222", "#d4d4d4", "#b3261e"
PAGE = 7.2  # inches: the width of a page's text, on which 7 points are printed as 7 points
CHARACTER = 0.058  # inches: the width of a wide one at 7 points
TOGETHER = 5  # lines that a panel bears
SPARE = 0.4  # of what the values span, for intervals at either end
FAR = 2  # times what the better half spans, or its distance from 0: further below is out of sight

RC: dict[Any, Any] = {
    "figure.dpi": 150, "savefig.dpi": 150, "font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7.5,
    "axes.labelsize": 7, "legend.fontsize": 7, "legend.title_fontsize": 7.5, "legend.frameon": False,
    "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.edgecolor": INK, "text.color": INK, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#ececec", "grid.linewidth": 0.6, "lines.linewidth": 1.3, "lines.solid_capstyle": "round",
    "pdf.fonttype": 42, "svg.hashsalt": "analysis",
    "lines.dashed_pattern": (3, 1.2), "lines.dotted_pattern": (1, 1.4), "lines.scale_dashes": True,
}  # fmt: skip


class Ramp(NamedTuple):
    """A family's colours from the smallest to the largest value of its setting in Table 1, on a logarithmic scale."""

    title: str
    smallest: float
    largest: float
    colours: tuple[str, str, str]


FAMILIES = {
    "unconstrained": Ramp("no constraint", 1, 2, ("#000000", "#000000", "#000000")),
    "clip": Ramp("clipping", 0.1, 0.3, ("#74b9e4", "#2b7bc0", "#08264f")),
    "kl_adaptive": Ramp("adaptive KL", 0.003, 0.03, ("#f8b26a", "#d9601a", "#6e2203")),
    "kl_fixed": Ramp("fixed KL", 0.3, 10, ("#7ccfb0", "#1b9e77", "#003d2e")),
}
INVENTED = ("#882255", "#cc78bc", "#a39400", "#5e4fa2", "#d55e00", "#029e73", "#56b4e9")  # the first in no family
DASHES = ("-", "--", "-.", ":")  # as many as have no common divisor with INVENTED, so that pairs repeat late


class Look(NamedTuple):
    colour: str
    dashes: str


class Shown(NamedTuple):
    """Values that an axis is to show, and the ends of their interval; see `limits`."""

    values: Array
    interval: Array = np.empty(0)


TELLTALE = {"png": ("Software",), "pdf": ("CreationDate", "Creator", "Producer")}
"""What matplotlib writes into a file beside its picture, unless told not to."""

REFERENCES = {"random": Look("#8c8c8c", "--"), "initial": Look("#8c8c8c", ":")}


def use() -> None:
    """Set matplotlib's parameters, whatever they were before."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(RC)


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """Colour and line of each of a dataset's variants. Give all of them, whichever are drawn: names that Table 1 does
    not know get theirs by their place."""
    known: dict[str, Look] = dict(REFERENCES)
    found = {}
    for variant, name in short_names(variants).items():
        if name not in known:
            known[name] = of_table1(name) or invented(len(known) - len(REFERENCES))
        found[variant] = known[name]
    return found


def colours(variants: Sequence[str]) -> dict[str, str]:
    """Colour of each of a dataset's variants; see `looks`."""
    return {variant: look.colour for variant, look in looks(variants).items()}


def of_table1(name: str) -> Look | None:
    """clip_0.25 lies between clip_0.2 and clip_0.3, and values outside Table 1's a little beyond its ends."""
    family, value = family_of(name)
    if family not in FAMILIES:
        return None
    ramp = FAMILIES[family]
    place = np.log(value / ramp.smallest) / np.log(ramp.largest / ramp.smallest)
    rgb = np.array([to_rgb(colour) for colour in ramp.colours])
    red, green, blue = (float(np.interp(place, (0, 0.5, 1), channel)) for channel in rgb.T)
    return Look(
        to_hex((red, green, blue)), "--" if family == "unconstrained" else "-"
    )  # black, and yet not clip_0.3's dark blue


def invented(number: int) -> Look:
    return Look(INVENTED[number % len(INVENTED)], DASHES[number % len(DASHES)])


def family_of(name: str) -> tuple[str, float]:
    """Family and setting: ("clip", 0.2) of clip_0.2, and ("", nan) of an invention."""
    family, _, value = name.rpartition("_")
    if name == "unconstrained":
        return name, 1.0
    try:
        return (family, float(value)) if family in FAMILIES and float(value) > 0 else ("", math.nan)
    except ValueError:
        return "", math.nan


def short_names(variants: Sequence[str]) -> dict[str, str]:
    """Names without what stands before the slash, if that sorts variants into groups: clip_0.2 of paper_text/clip_0.2
    if there is another variant of paper_text."""
    prefixes = {variant.rpartition("/")[0] for variant in variants}
    grouped = 1 < len(prefixes) < len(variants)
    return {variant: variant.rpartition("/")[2] if grouped else variant for variant in variants}


def outer(axes: Sequence[Axes], columns: int) -> None:
    """Labels only where no panel follows: values at the left, env steps and the like at the bottom."""
    for place, axis in enumerate(axes):
        if place % columns:
            axis.set_ylabel("")
            axis.tick_params(labelleft=False)
        if place + columns < len(axes):
            axis.set_xlabel("")
            axis.tick_params(labelbottom=False)


class Group(NamedTuple):
    """Variants that share a panel, and their names in it. Of the only group the title is empty."""

    title: str
    variants: list[str]
    names: list[str]


def groups(variants: Sequence[str]) -> list[Group]:
    """Those of one prefix (see `short_names`), and of these neighbouring families, as many as a panel bears."""
    by_prefix: dict[str, list[str]] = {}
    names = short_names(variants)
    for variant, name in names.items():
        by_prefix.setdefault(variant.removesuffix(name).rstrip("/"), []).append(variant)
    found = []
    for prefix, members in by_prefix.items():
        parts = neighbours(members, names)
        for families, together in parts:
            said = [prefix, *(FAMILIES[family].title for family in families if family and len(parts) > 1)]
            found.append(Group(", ".join(filter(None, said)), together, [names[variant] for variant in together]))
    return found


def neighbours(variants: Sequence[str], names: Mapping[str, str]) -> list[tuple[list[str], list[str]]]:
    """Families and their variants: small families that follow each other in one, large ones in several."""
    found: list[tuple[list[str], list[str]]] = []
    for family, grouped in itertools.groupby(variants, lambda variant: family_of(names[variant])[0]):
        members = list(grouped)
        for start in range(0, len(members), TOGETHER):
            some = members[start : start + TOGETHER]
            if found and len(found[-1][1]) + len(some) <= TOGETHER:
                found[-1] = ([*found[-1][0], family], [*found[-1][1], *some])
            else:
                found.append(([family], some))
    return found


def width(columns: int) -> float:
    """Of a figure with so many panels side by side, in inches: a page's where they fit."""
    return 4.0 if columns == 1 else max(min(PAGE, 2.4 * columns + 0.6), 1.5 * columns + 0.8)


def per_row(count: int) -> int:
    """So many panels side by side: up to four, and the last row not much shorter."""
    return count if count <= 4 else min(4, -(-count // 2))


def panels(count: int, columns: int, height: float, margin: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, row by row; `height` of a panel and `margin` of the whole in inches."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width(columns), height * rows + margin), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def alike(groups: Sequence[Group]) -> bool:
    """Whether all have the same names in them, so that one legend serves all."""
    return all(group.names == groups[0].names for group in groups)


def title(groups: Sequence[Group], group: Group) -> str:
    """What stands above the group's panel: its title, unless its legend does."""
    return group.title if alike(groups) else ""


def say_groups(
    figure: Figure,
    groups: Sequence[Group],
    axes: Sequence[Axes],
    looks: Mapping[str, Look],
    others: Sequence[str] = (),
    above: bool = True,
) -> None:
    """Legends above the groups' axes, or right of them; of groups that are alike, one below the figure. `others` are
    there too."""
    legends = [
        [handle(looks[v], name) for v, name in zip(group.variants, group.names, strict=True)] for group in groups
    ]
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    if not above:
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    for group, handles, axis in zip(groups, legends, axes, strict=True):
        if not alike(groups):
            axis.legend(handles=handles, title=group.title or None, alignment="left", **where)
    say_below(figure, [*legends[0] * alike(groups), *(handle(looks[variant], variant) for variant in others)])


def say_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend below the figure, in as few rows as fit."""
    inches = [0.5 + CHARACTER * len(str(each.get_label())) for each in handles]
    for rows in range(1, len(handles) + 1):
        columns = [inches[start : start + rows] for start in range(0, len(inches), rows)]
        if sum(map(max, columns)) < figure.get_figwidth() or rows == len(handles):
            figure.legend(handles=handles, loc="outside lower center", ncols=len(columns))
            break


def say_missing(figure: Figure, sentences: Sequence[str]) -> None:
    """At the top of a figure: what its data lack."""
    if sentences:
        fitting = int(figure.get_figwidth() / CHARACTER)
        words = textwrap.fill(" ".join(["Partial.", *sentences]), fitting, break_on_hyphens=False)
        figure.suptitle(words, x=0.01, ha="left", fontsize=7, color=ALARM)


def handle(look: Look, name: str, **marks: Any) -> Line2D:
    return Line2D([], [], **{"color": look.colour, "ls": look.dashes, "label": name, **marks})


def limits(shown: Sequence[Shown]) -> tuple[float, float]:
    """Where an axis begins and ends: everything shown, but for what falls out of sight of the upper half of it. A
    return far above all others is a result, one far below an explosion. Intervals get what leaves most of the axis to
    the values."""
    finite = [Shown(*(each[np.isfinite(each)] for each in item)) for item in shown]
    finite = [item for item in finite if item.values.size]
    if not finite:
        return 0.0, 1.0
    lows, top = sorted(float(item.values.min()) for item in finite), max(float(item.values.max()) for item in finite)
    usual = lows[len(lows) // 2]
    fence = usual - FAR * max(top - usual, abs(usual))
    bottom = next(low for low in lows if low >= fence)
    calm = [item.interval for item in finite if item.values.min() >= fence]
    reach = SPARE * (top - bottom)
    ends = np.concatenate([[bottom, top], np.clip(np.concatenate(calm), bottom - reach, top + reach)])
    margin = 0.05 * float(np.ptp(ends)) or max(1.0, 0.05 * abs(top))
    return float(ends.min()) - margin, float(ends.max()) + margin


def number(value: float) -> str:
    """A value for people, as short as it can be: 0.82, 1534, −300k."""
    if abs(value) >= 1e4:
        return EngFormatter(places=0, sep="")(value)
    rounded = round(value, 2 if abs(value) < 10 else None) + 0.0  # no −0.00
    return (f"{rounded:.2f}" if abs(value) < 10 else f"{rounded:.0f}").replace("-", "\N{MINUS SIGN}")


def shortened(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def save(figure: Figure, path: Path, endings: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write PATH.png, PATH.pdf without a date or a version in them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # found once, for all files
    written = []
    for ending in endings:
        written.append(path.with_name(f"{path.name}.{ending}"))
        figure.savefig(written[-1], metadata=dict.fromkeys(TELLTALE[ending]))
    return written
