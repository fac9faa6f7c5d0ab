"""Learning curves of runs, as a PNG, and their scores.

python -m analysis.plot RECORDS... [--out curves.png]
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.curves import Curves, band, by_task
from analysis.figures.curves import steps_axis
from analysis.folders import building
from analysis.records import RecordError, Run, find_runs
from analysis.tables import many
from experiments.commands import command
from experiments.records.schema import SCORE_EPISODES

TOLD_OF_ALL = ("profile", "code", "backend", "numerics")  # even where only runs of other variants differ in it


def curves_of(runs: Sequence[Run], label: Mapping[Path, str]) -> dict[str, Curves]:
    """By task, the curves that `analysis.curves` reads in these records, under the labels of the runs' folders."""
    episodes = [run.episodes() for run in runs]
    steps = [rows["env_step"].to_numpy() for rows in episodes]
    table = pd.DataFrame(
        {"env": run.config["env"]["id"], "variant": label[run.folder], "budget": run.config["env_steps"],
         "env_steps": max(1, run.done["env_steps"] if run.done else seen.max(initial=0))}
        for run, seen in zip(runs, steps, strict=True)
    )  # fmt: skip
    returns = [rows["return"].to_numpy() for rows in episodes]
    return by_task(table, [(np.full(len(seen), n), seen, returns[n]) for n, seen in enumerate(steps)])


def labels(runs: Sequence[Run]) -> dict[Path, str]:
    """By run's folder: the variant, and whatever else tells these runs apart. RecordError if one run is there twice."""
    told = [settings(run) for run in runs]
    common = [name for name in told[0] if all(name in each for each in told)]
    chosen = [name for name in common if name in TOLD_OF_ALL and len({each[name] for each in told}) > 1]
    found = {}
    for variant in {run.variant for run in runs}:
        of_variant = [(run, each) for run, each in zip(runs, told, strict=True) if run.variant == variant]
        names = list(chosen)
        for name in common:
            if len(apart(of_variant, [*names, name])) > len(apart(of_variant, names)):
                names.append(name)
        seeds: dict[tuple[str, ...], Path] = {}
        for run, each in of_variant:
            found[run.folder] = ", ".join([variant, *(each[name] for name in names)])
            first = seeds.setdefault((run.config["env"]["id"], found[run.folder], str(run.config["seed"])), run.folder)
            if first != run.folder:
                raise RecordError(f"{first} and {run.folder} are the same run; give a folder that holds one of them")
    return found


def apart(runs: Sequence[tuple[Run, Mapping[str, str]]], names: Sequence[str]) -> set[tuple[str, ...]]:
    """The groups that these settings sort runs into; those on other tasks are told apart already."""
    return {(run.config["env"]["id"], *(told[name] for name in names)) for run, told in runs}


def settings(run: Run) -> dict[str, str]:
    """All that makes a run but its task and its seed, in words, by name: what is told first stands first."""
    found = {"profile": run.names["profile"], "code": f"code {run.code_id}"}
    found |= {name: str(run.config[name]) for name in ("backend", "numerics")}
    for name, value in run.config.items():
        parts = value.items() if isinstance(value, Mapping) else [(name, value)]
        found |= {f"{name}.{part}": f"{part}={each}" for part, each in parts if part not in ("id", "seed")}
    return found


def draw(runs: Sequence[Run]) -> Figure:
    """One panel per environment: a thin line per run, a bold one for the mean over seeds."""
    label = labels(runs)
    names, found = sorted(set(label.values())), curves_of(runs, label)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    sns.set_theme(style="whitegrid", context="notebook", rc={"text.parse_math": False})  # names may have $ in them
    palette = "husl" if len(names) > len(sns.color_palette()) else None  # the usual one would begin again
    colours = dict(zip(names, sns.color_palette(palette, n_colors=len(names)), strict=True))
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns + 0.6, 3.9 * rows), squeeze=False)
    for axis, (environment, curves) in zip(axes.flat, found.items(), strict=False):
        for name, values in sorted(curves.runs.items()):
            style = {"color": colours[name], "marker": ".", "markersize": 3}  # a bin between empty ones has no line
            axis.plot(curves.env_steps, values.T, linewidth=0.8, alpha=0.35, **style)
            centre = band(values).centre
            axis.plot(curves.env_steps, centre, linewidth=2.2, label=f"{name} ({many(len(values), 'seed')})", **style)
        axis.set(title=environment, xlabel="env steps", ylabel="return")
        steps_axis(axis, curves.env_steps[-1])
        axis.legend(loc="best", fontsize="small", frameon=True)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    figure.tight_layout()
    return figure


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Scores of the finished runs over seeds: mean, sample standard deviation and range per environment and label."""
    label = labels(runs)
    finished = [run for run in runs if run.done is not None and run.done["score"] is not None]
    rows = [
        (run.config["env"]["id"], label[run.folder], run.done["score"], len(run.episodes()) < SCORE_EPISODES)
        for run in finished
        if run.done
    ]
    cells = pd.DataFrame(rows, columns=["environment", "variant", "score", "short"]).groupby(["environment", "variant"])
    table = cells["score"].agg(["count", "mean", "std", "min", "max"])
    short = cells["short"].sum().astype(int)
    return table.assign(**{f"under {SCORE_EPISODES} episodes": short}) if short.any() else table


def save(figure: Figure, out: Path) -> None:
    """The whole PNG, or what was there before."""
    if out.suffix != ".png":
        raise RecordError(f"--out {out}: the picture is a PNG; give a name that ends in .png")
    with building(out) as new:
        figure.savefig(new / out.name, dpi=110, metadata={"Software": None})
        (new / out.name).replace(out)


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.plot", description="Learning curves of runs, as a PNG.")
    parser.add_argument("records", nargs="+", type=Path, help="records root, or any folder of runs inside")
    parser.add_argument("--out", type=Path, help="where the picture goes (default: curves.png in the first folder)")
    options = parser.parse_args(arguments)
    out = options.out or options.records[0] / "curves.png"
    runs = find_runs(options.records)
    figure = draw(runs)
    save(figure, out)
    if not (table := scores(runs)).empty:
        print(table.to_string(float_format="{:.1f}".format, na_rep="–"))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
