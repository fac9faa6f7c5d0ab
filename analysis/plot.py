"""Learning curves of runs, as a PNG, and their scores.

python -m analysis.plot RECORDS... [--out curves.png]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analysis.dataset import SCORE_EPISODES
from analysis.records import RecordError, Run, find_runs

POINTS = 200  # per curve


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


def budgets(run: Run, runs: Sequence[Run]) -> set[int]:
    """Env steps of the runs of the same variant on the same task."""
    return {r.config["env_steps"] for r in runs if r.variant == run.variant and r.config["env"] == run.config["env"]}


def label(run: Run, runs: Sequence[Run]) -> str:
    """The variant, and whatever else tells these runs apart."""
    parts = [run.variant]
    for part, values in (
        (run.names["profile"], {r.names["profile"] for r in runs}),
        (f"code {run.code_id}", {r.code_id for r in runs}),
        (run.config["backend"], {r.config["backend"] for r in runs}),
        (run.config["numerics"], {r.config["numerics"] for r in runs}),
        (run.config["device"], {r.config["device"] for r in runs}),
        (f"{run.config['env_steps']:,} env steps", budgets(run, runs)),
    ):
        if len(values) > 1:
            parts.append(part)
    return ", ".join(parts)


def settings(run: Run) -> dict[str, Any]:
    """All settings but the seed, by their dotted names."""
    found = pd.json_normalize({key: value for key, value in run.config.items() if key != "seed"})
    return {str(key): str(value) for key, value in found.iloc[0].items()}


def require_alike(runs: Sequence[Run]) -> None:
    """RecordError if runs that would be seeds of one line differ in more than their seeds."""
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        other = first.setdefault((run.config["env"]["id"], label(run, runs)), run)
        ours, theirs = settings(run), settings(other)
        if differ := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
            said = ", ".join(f"{key} ({theirs.get(key)} and {ours.get(key)})" for key in differ[:3])
            raise RecordError(
                f"{other.folder} and {run.folder} differ in {said}: no seeds of one line; plot them apart"
            )


def draw(runs: Sequence[Run]) -> Figure:
    """One panel per environment: a thin line per run, a bold one for the mean over seeds."""
    require_alike(runs)
    environments = sorted({run.config["env"]["id"] for run in runs})
    labels = sorted({label(run, runs) for run in runs})
    columns = min(3, len(environments))
    rows = -(-len(environments) // columns)
    sns.set_theme(style="whitegrid", context="notebook")
    colours = dict(zip(labels, sns.color_palette(n_colors=len(labels)), strict=True))
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns + 0.6, 3.9 * rows), squeeze=False)
    for axis, environment in zip(axes.flat, environments, strict=False):
        for name in labels:
            group = [r for r in runs if r.config["env"]["id"] == environment and label(r, runs) == name]
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
    finished = [run for run in runs if run.done is not None and run.done["score"] is not None]
    rows = [
        (run.config["env"]["id"], label(run, runs), run.done["score"], len(run.episodes()) < SCORE_EPISODES)
        for run in finished
        if run.done
    ]
    cells = pd.DataFrame(rows, columns=["environment", "variant", "score", "short"]).groupby(["environment", "variant"])
    table = cells["score"].agg(["count", "mean", "std", "min", "max"])
    short = cells["short"].sum().astype(int)
    return table.assign(**{f"under {SCORE_EPISODES} episodes": short}) if short.any() else table


def save(figure: Figure, out: Path) -> None:
    """The whole PNG, or what was there before."""
    building = out.with_name(f".{out.name}.building")
    try:
        figure.savefig(building, dpi=110, format="png", metadata={"Software": None})
        building.replace(out)
    except OSError as error:
        raise RecordError(f"{out} cannot be written ({error.strerror or error}); what was there is kept") from error
    finally:
        if building.exists():
            building.unlink()


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
