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
from matplotlib.ticker import EngFormatter

from analysis.folders import building
from analysis.records import RecordError, Run, find_runs
from experiments.records.schema import SCORE_EPISODES

POINTS = 200  # per curve
TOLD_OF_ALL = ("profile", "code", "backend", "numerics")  # even where only runs of other variants differ in it


def curve(run: Run) -> pd.Series:
    """Mean return of the last 100 episodes against env steps, on an even grid; it starts with the first episode."""
    episodes = run.episodes()
    grid = np.linspace(0, run.config["env_steps"], POINTS + 1)
    if episodes.empty:
        return pd.Series(np.nan, index=grid)
    smooth = episodes["return"].rolling(SCORE_EPISODES, min_periods=1).mean()
    last = np.searchsorted(episodes["env_step"], grid, side="right") - 1
    values = np.where(last >= 0, smooth.to_numpy()[np.maximum(last, 0)], np.nan)
    reached = episodes["env_step"].iloc[-1] if run.done is None else run.config["env_steps"]
    return pd.Series(np.where(grid <= reached, values, np.nan), index=grid)


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
    environments = sorted({run.config["env"]["id"] for run in runs})
    label = labels(runs)
    names = sorted(set(label.values()))
    columns = min(3, len(environments))
    rows = -(-len(environments) // columns)
    sns.set_theme(style="whitegrid", context="notebook", rc={"text.parse_math": False})  # names may have $ in them
    palette = "husl" if len(names) > len(sns.color_palette()) else None  # the usual one would begin again
    colours = dict(zip(names, sns.color_palette(palette, n_colors=len(names)), strict=True))
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns + 0.6, 3.9 * rows), squeeze=False)
    for axis, environment in zip(axes.flat, environments, strict=False):
        for name in names:
            group = [r for r in runs if r.config["env"]["id"] == environment and label[r.folder] == name]
            if not group:
                continue
            curves = pd.concat([curve(run) for run in group], axis=1)
            axis.plot(curves.index, curves, color=colours[name], linewidth=0.8, alpha=0.35)
            seeds = f"{len(group)} seed" + "s" * (len(group) > 1)
            mean = curves.mean(axis=1).where(curves.notna().all(axis=1))
            axis.plot(mean.index, mean, color=colours[name], linewidth=2.2, label=f"{name} ({seeds})")
        axis.set_title(environment)
        axis.set_xlabel("env steps")
        axis.set_ylabel(f"return (last {SCORE_EPISODES} episodes)")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.legend(loc="best", fontsize="small", frameon=True)
    for axis in axes.flat[len(environments) :]:
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.plot", description="Learning curves of runs, as a PNG.")
    parser.add_argument("records", nargs="+", type=Path, help="records root, or any folder of runs inside")
    parser.add_argument("--out", type=Path, help="where the picture goes (default: curves.png in the first folder)")
    options = parser.parse_args(arguments)
    out = options.out or options.records[0] / "curves.png"
    try:
        runs = find_runs(options.records)
        figure = draw(runs)
        save(figure, out)
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not (table := scores(runs)).empty:
        print(table.to_string(float_format="{:.1f}".format, na_rep="–"))
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
