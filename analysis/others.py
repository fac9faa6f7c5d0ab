"""What others published for clipping at ε = 0.2, and ours beside it: means, intervals, and what each number means."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.paper import published
from analysis.results import Results
from analysis.statistics import LEVEL
from analysis.tables import Table, returns
from experiments.records.schema import SCORE_EPISODES

OURS = "this suite"
OVER_SEEDS = "population std (ddof=0) over seeds"


def published_scores(results: Results) -> Table:
    """What others published for clipping on the same tasks and number of steps, and ours before it."""
    others = others_scores(results)
    found = pd.concat([own_scores(results, list(others["env"].unique())), others], ignore_index=True)
    found[["low", "high"]] = [seeds_interval(row) for _, row in found.iterrows()]
    found = found.sort_values("env", kind="stable", ignore_index=True)
    shown = pd.DataFrame(
        {
            "task": found["env"] + "-" + found["env_version"],
            "who": found["library"],
            "algorithm": found["algo"],
            "mean": found["mean"].map(returns),
            "spread": found["spread"].map(as_printed),
            f"{LEVEL:.0%} interval": [
                "–" if np.isnan(low) else f"[{returns(low)}, {returns(high)}]"
                for low, high in found[["low", "high"]].to_numpy()
            ],
            "seeds": found["seeds"].fillna("–").astype(str),
            "what the spread is": found["spread_kind"].fillna(""),
            "note": found["note"].fillna(""),
        }
    )
    caption = (
        f"Raw scores after 1 M env steps, clipping at ε = 0.2. {LEVEL:.0%} interval: of the mean over seeds (t), "
        "where the spread is one over seeds. Mind the notes: a last tenth of training is not the last 100 episodes."
    )
    return Table("published", "What others published", caption, shown, found)


def in_short(results: Results) -> Table:
    """The same, a row per task: means and intervals alone."""
    found = published_scores(results).values
    ends = zip(found["low"], found["high"], strict=True)
    intervals = [f" [{returns(low)}, {returns(high)}]" if np.isfinite(low) else "" for low, high in ends]
    said = found.assign(said=found["mean"].map(returns) + intervals)
    rows = []
    for task, cells in said.groupby("env", sort=False):
        ours = cells["library"] == OURS
        theirs = [f"{who.split()[0]} {score}" for who, score in cells.loc[~ours, ["library", "said"]].to_numpy()]
        rows.append({"task": f"{task}-{cells['env_version'].iloc[0]}", OURS: ", ".join(cells.loc[ours, "said"]),
                     "others": "; ".join(theirs)})  # fmt: skip
    caption = (
        f"Scores after 1 M env steps, clipping at ε = 0.2, each with the {LEVEL:.0%} interval of its mean over seeds."
    )
    return Table("published_in_short", "What others published", caption, pd.DataFrame(rows), found)


def own_scores(results: Results, tasks: Sequence[str]) -> pd.DataFrame:
    """Our clip_0.2 on these tasks (named without version), as others print theirs."""
    rows, profiles = [], results.runs.loc[results.runs["variant"] == published.WINNER, "profile"].unique()
    for environment, runs in results.raw.get(published.WINNER, {}).items():
        task, _, version = environment.rpartition("-")
        if task in tasks:
            rows.append({"library": OURS, "algo": published.WINNER, "env": task, "env_version": version,
                         "steps": 1_000_000, "seeds": runs.size, "mean": runs.mean(), "spread": runs.std(),
                         "spread_kind": f"{OVER_SEEDS} of per-seed mean of the last {SCORE_EPISODES} training episodes",
                         "note": f"profile {', '.join(profiles)}"})  # fmt: skip
    return pd.DataFrame(rows)


def seeds_interval(row: pd.Series) -> tuple[float, float]:
    """Student's t interval of a mean over seeds from their population standard deviation; NaN if that was not told."""
    if not str(row["spread_kind"]).startswith(OVER_SEEDS) or int(row["seeds"]) < 2:
        return np.nan, np.nan
    freedom = int(row["seeds"]) - 1
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * float(row["spread"]) / np.sqrt(freedom)
    return row["mean"] - reach, row["mean"] + reach


def as_printed(spread: object) -> str:
    """A spread is a number, or an interval that is text already."""
    return spread if isinstance(spread, str) else returns(float(spread))  # type: ignore[arg-type]


def others_scores(results: Results) -> pd.DataFrame:
    """Published rows of clipping that the dataset's runs can stand beside; none if they took another number of steps,
    and no penalties, of which others print the best of a sweep."""
    rows = published.mujoco()
    alike = (results.runs["budget"][results.runs["variant"].isin(results.trained)] == 1_000_000).all()
    tasks = (rows["env"] + "-" + rows["env_version"]).isin(results.environments)
    alike &= rows["algo"].str.startswith("PPO") & ~rows["algo"].str.contains("KL") & (rows["steps"] == 1_000_000)
    return rows[alike & tasks].sort_values(["env", "mean"])
