"""Published numbers, a CSV each beside this file; every row names its source.

Mind what is compared: "±" is a sample or population standard deviation, a standard error or an interval
(`spread_kind`); "the result at 1 M steps" is a mean over the last episodes, the best of training, or read off a figure
(`note`).
"""

from pathlib import Path

import pandas as pd

OBJECTIVES = {
    "No clipping or penalty": "unconstrained",
    "Clipping": "clip",
    "Adaptive KL": "kl_adaptive",
    "Fixed KL": "kl_fixed",
}
"""The paper's words for the objectives, and ours."""

TASKS = ("HalfCheetah", "Hopper", "InvertedDoublePendulum", "InvertedPendulum", "Reacher", "Swimmer", "Walker2d")
"""Table 1's tasks, then all `-v1` (section 6.1, footnote 2)."""

WINNER = "clip_0.2"
"""The best row of Table 1, with which the paper goes on (section 6.2)."""


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(f"{name}.csv"))


def table1() -> pd.DataFrame:
    """Table 1 by our names of its variants (clip_0.2), in the paper's order: setting, parameter, value, score (average
    over 7 tasks × 3 seeds, random = 0, best = 1), source."""
    rows = _read("table1")
    settings = rows["value"].map(lambda value: "" if pd.isna(value) else f"_{value:g}")
    return rows.set_index((rows["setting"].map(OBJECTIVES) + settings).rename("variant"))


def table2() -> pd.DataFrame:
    """Table 2 by its two criteria (`metric_id` 1: all of training, 2: last 100 episodes): games won by a2c, acer and
    ppo, and ties."""
    return _read("table2").set_index("metric_id")


def table6() -> pd.DataFrame:
    """Table 6 by game: mean score of a2c, acer, ppo over the last 100 episodes and 3 seeds."""
    return _read("table6").set_index("game")


def games_won(scores: pd.DataFrame) -> pd.Series:
    """Table 2's second criterion counted anew from a table like Table 6: games in which each algorithm (column) alone
    has the highest score, and ties. The printed Table 6 gives 1, 27, 19 and 2 ties where Table 2 prints 1, 28, 19 and
    1: Pong, 20.7 for both ACER and PPO, must have been ACER's before rounding."""
    best = scores.eq(scores.max(axis=1), axis=0)
    alone = best.sum(axis=1) == 1
    return pd.concat([best[alone].sum(), pd.Series({"tie": (~alone).sum()})])


def settings() -> pd.DataFrame:
    """Settings by key of a run's config: value (as JSON, texts bare), printed (yes, or no: then it is the neutral
    choice), source."""
    return pd.read_csv(Path(__file__).with_name("settings.csv"), dtype=str, keep_default_na=False).set_index("key")


def mujoco() -> pd.DataFrame:
    """Results of many implementations on MuJoCo tasks, a row each."""
    return _read("mujoco_published")


def figure3() -> pd.DataFrame:
    """The heights at 1 M env steps of Figure 3's curves by task (rows, without version) and variant of study `figure3`
    (columns): read off the printed figure by others, 3 to 15 % apart where two did so; none read CEM and vanilla PG."""
    names = {"A2C": "a2c", "A2C + Trust Region": "a2c_trust_region", "PPO": "clip_0.2", "TRPO": "trpo"}
    rows = mujoco()[lambda rows: rows["library"].str.contains("Fig. 3", regex=False)]
    return rows.pivot(index="env", columns="algo", values="mean").rename(columns=names)[list(names.values())]


def mujoco_random() -> pd.DataFrame:
    """Returns of random and of untrained policies (`kind`) on MuJoCo tasks."""
    return _read("mujoco_random")


def atari_human() -> pd.DataFrame:
    """Random and human scores of the usual 57 Atari games (up to 30 no-ops) by environment id."""
    rows = _read("atari_random_human")
    standard = rows[rows["standard_for_hns"] == "yes"]
    return standard.set_index("env_id")[["game", "random", "human", "source"]]


def atari_training() -> pd.DataFrame:
    """Games of a published training run, actor by actor in the order they ended: game, actor, frames (of all actors,
    who keep pace, skipped ones counted, at the game's end; the file has the actor's own), score (raw), source.

    Pong: Stable-Baselines3's PPO with the settings of its zoo, which are ppo2's but for the weight and clipping of V
    (8 actors × 128 env steps, 4 epochs, minibatches of 256, stepsize 2.5e-4 and ε 0.1 falling over 10 M env steps), one
    seed; two of its eight actors, through the first fifth of the run's 40 M frames.
    """
    rows = _read("atari_training")
    return rows.assign(frames=8 * rows["frames"])
