"""Atari tables and Figure 6: numbers by hand, by scipy and as published; what lacks is said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from scipy import stats

from analysis import atari
from analysis.curves import FINEST
from analysis.dataset import RUN_COLUMNS, SCHEMA, load
from analysis.figures import atari as figures
from analysis.figures import style
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import Results
from analysis.tables import Table

BREAKOUT, PONG, QBERT, SKIING = (f"{game}NoFrameskip-v4" for game in ("Breakout", "Pong", "Qbert", "Skiing"))
PAPER_GAMES = [env for env, row in published.atari_human().iterrows() if row["game"] in published.table6().index]
STEPS = 10_000_000
Returns = Mapping[tuple[str, str], Sequence[np.ndarray]]
"""By variant and task: each seed's episodes."""


def level(*scores: float) -> list[np.ndarray]:
    """Runs that have the same return in every episode."""
    return [np.full(300, score) for score in scores]


def dataset(folder: Path, returns: Returns, diverged: Sequence[tuple[str, str, int]] = (), left: Mapping = {}) -> Path:
    folder.mkdir()
    rows, episodes = [], []
    for (variant, env), runs in returns.items():
        for seed, each in enumerate(runs):
            key = f"{variant}-{env}-{seed}"
            status = "diverged" if (variant, env, seed) in diverged else "complete"
            rows.append({**dict.fromkeys(RUN_COLUMNS, ""),
                         "run": key, "variant": variant, "env": env, "seed": seed, "status": status,
                         "score": each[-100:].mean(), "score_episodes": min(each.size, 100), "episodes": each.size,
                         "env_steps": STEPS, "budget": STEPS, "seconds": 3600.0, "measure": "training episodes",
                         **dict.fromkeys(("code_id", "commit", "cpu", "gpu"), "invented")})  # fmt: skip
            ends = np.linspace(0, STEPS, each.size + 1)[1:].astype(np.int64)
            episodes.append(pd.DataFrame({"run": key, "env_step": ends, "return": each, "length": 1}))
    pd.DataFrame(rows).to_parquet(folder / "runs.parquet")
    pd.concat(episodes).to_parquet(folder / "episodes.parquet")
    pd.DataFrame(columns=["run", "iteration", "env_steps"]).to_parquet(folder / "iterations.parquet")
    (folder / "dataset.json").write_text(json.dumps({"schema": SCHEMA, "sources": [], "left_out": left}))
    return folder


def found(tmp_path: Path, returns: Returns, **more: object) -> Results:
    return atari.learning(load(dataset(tmp_path / "dataset", returns, **more)))  # type: ignore[arg-type]


def section(results: Results) -> str:
    return atari.section(results, atari.tables(results))


def rising(tasks: Sequence[str], variants: Sequence[str], episodes: int = 600) -> Returns:
    rng, humans = np.random.default_rng(0), published.atari_human()
    runs = {}
    for task in tasks:
        zero, one = humans.loc[task, ["random", "human"]].astype(float)
        share = 1 - np.exp(-4 * np.linspace(0, 1, episodes))
        for variant in variants:
            skills = rng.normal(0.8, 0.2, 3)
            runs[variant, task] = [zero + (one - zero) * (k * share + rng.normal(0, 0.1, episodes)) for k in skills]
    return runs


def won(table: Table) -> dict[tuple[str, str], dict[str, int]]:
    groups = table.values.groupby(["criterion", "source"])
    return {key: group.set_index("algorithm")["games"].to_dict() for key, group in groups}


class TestGamesWon:
    def test_by_hand(self, tmp_path: Path) -> None:
        """Breakout: fast is 55 over all of training and 10 at the end, slow 20. Pong: 20 both. Qbert: fast."""
        early = np.repeat([100.0, 10.0], 100)
        returns = {
            ("fast", BREAKOUT): [early, early], ("slow", BREAKOUT): level(19, 21),
            ("fast", PONG): level(19, 21), ("slow", PONG): level(20, 20),
            ("fast", QBERT): level(500, 700), ("slow", QBERT): level(100, 1000),
        }  # fmt: skip
        table = atari.table2(found(tmp_path, returns))
        assert won(table)["all of training", "ours"] == {"fast": 2, "slow": 0, "tie": 1}
        assert won(table)["last 100 episodes", "ours"] == {"fast": 1, "slow": 1, "tie": 1}
        assert list(table.shown.iloc[0]) == ["all of training", "ours", "fast 2, slow 0", "1", "3"]

    def test_the_same_scores_in_another_order_tie(self, tmp_path: Path) -> None:
        returns = {("a", PONG): level(0.1, 0.2, 1.1), ("b", PONG): level(0.1, 1.1, 0.2)}
        assert len({np.mean([run[-100:].mean() for run in runs]) for runs in returns.values()}) == 2  # by rounding
        ours = won(atari.table2(found(tmp_path, returns)))["last 100 episodes", "ours"]
        assert ours == {"a": 0, "b": 0, "tie": 1}

    def test_both_published_counts_are_there(self, tmp_path: Path) -> None:
        counts = won(atari.table2(found(tmp_path, {("a", PONG): level(1)})))
        last, names = "last 100 episodes", ("A2C", "ACER", "PPO", "tie")
        assert counts["all of training", "paper, Table 2"] == dict(zip(names, (1, 18, 30, 0), strict=True))
        assert counts[last, "paper, Table 2"] == dict(zip(names, (1, 28, 19, 1), strict=True))
        assert counts[last, "paper, counted from Table 6"] == dict(zip(names, (1, 27, 19, 2), strict=True))

    def test_one_variant_wins_nothing(self, tmp_path: Path) -> None:
        table = atari.table2(found(tmp_path, {("a", PONG): level(1, 2), ("random", PONG): level(0)}))
        assert "ours" not in set(table.values["source"])
        assert "Ours: not counted, for there is one variant." in table.caption


class TestHumanNormalised:
    def test_by_hand(self, tmp_path: Path) -> None:
        """Random play has 1.7 on Breakout and −20.7 on Pong, a human 30.5 and 14.6."""
        results = found(tmp_path, {("a", BREAKOUT): level(16.1, 30.5), ("a", PONG): level(-20.7, 14.6)})
        (breakout, pong) = atari.human_normalised(results.raw, [BREAKOUT, PONG])["a"]
        np.testing.assert_allclose([*breakout, *pong], [0.5, 1, 0, 1], atol=1e-12)
        rows = atari.human(results).values.set_index("algorithm")
        assert rows.loc["a", ["median", "mean"]].tolist() == pytest.approx([0.625, 0.625])
        ppo = ((274.8 - 1.7) / 28.8 + (20.7 + 20.7) / 35.3) / 2
        assert rows.loc["PPO", ["games", "mean", "median"]].tolist() == pytest.approx([2, ppo, ppo])
        assert np.isnan(rows.loc["PPO", "IQM"])

    def test_scipy_agrees(self, tmp_path: Path) -> None:
        tasks = PAPER_GAMES[:10]
        results = found(tmp_path, rising(tasks, ["a"]))
        humans = published.atari_human().loc[tasks]
        runs = np.array([results.raw["a"][task] for task in tasks])
        shares = (runs - humans[["random"]].to_numpy()) / (humans["human"] - humans["random"]).to_numpy()[:, None]
        row = atari.human(results).values.iloc[0]
        assert row["IQM"] == pytest.approx(stats.trim_mean(shares.ravel(), 0.25))
        assert row["median"] == pytest.approx(np.median(shares.mean(axis=1)))
        assert row["mean"] == pytest.approx(shares.mean())
        again = stats.bootstrap([shares], lambda x, axis: x.mean(axis), method="percentile", axis=1, rng=0)
        spread = np.sqrt((again.standard_error**2).sum()) / len(tasks)  # of a mean over independent games
        assert row["mean_high"] - row["mean_low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)

    def test_intervals_of_two_runs_are_the_runs(self, tmp_path: Path) -> None:
        """A quarter of the resamples draws either run twice."""
        row = atari.human(found(tmp_path, {("a", BREAKOUT): level(1.7, 30.5)})).values.iloc[0]
        assert row[["mean_low", "mean_high", "median_low", "IQM_high"]].tolist() == pytest.approx([0, 1, 0, 1])

    def test_one_seed_has_no_interval(self, tmp_path: Path) -> None:
        table = atari.human(found(tmp_path, {("a", BREAKOUT): level(30.5)}))
        assert list(table.shown.iloc[0]) == ["a", "ours", "1", "1.00", "1.00", "1.00"]


class TestTable6:
    def test_by_hand(self, tmp_path: Path) -> None:
        table = atari.table6(found(tmp_path, {("a", BREAKOUT): level(100, 200, 300)}))
        low, high = stats.t.interval(0.95, 2, 200, stats.sem([100, 200, 300]))
        row = table.values.iloc[0]
        assert row[["runs", "mean", "low", "high"]].tolist() == pytest.approx([3, 200, low, high])
        assert row["human_normalised"] == pytest.approx((200 - 1.7) / 28.8)
        assert list(table.shown.iloc[0]) == [
            "Breakout",
            f"200.0 [−{-low:.1f}, {high:.1f}] (3)",
            "303.0",
            "456.4",
            "274.8",
        ]
        assert "1 of its 49 games" in table.caption
        assert "†" not in table.caption

    def test_a_diverged_run_is_the_games_worst_and_flagged(self, tmp_path: Path) -> None:
        returns = {("a", PONG): level(21, 21), ("b", PONG): level(-10, 20)}
        table = atari.table6(found(tmp_path, returns, diverged=[("a", PONG, 1)]))
        assert table.values.set_index("variant")["mean"].to_dict() == {"a": 5.5, "b": 5.0}
        assert table.shown.loc[0, "a"].endswith("(2)†")
        assert table.shown.loc[0, "b"].endswith("(2)")
        assert "† a run diverged" in table.caption

    def test_a_game_the_paper_has_not(self, tmp_path: Path) -> None:
        table = atari.table6(found(tmp_path, {("a", SKIING): level(-9000)}))
        assert list(table.shown.iloc[0]) == ["Skiing", "−9,000 (1)", "–", "–", "–"]
        assert "0 of its 49 games" in table.caption


class TestSection:
    def test_a_missing_game_is_a_dash_and_counts_for_nobody(self, tmp_path: Path) -> None:
        returns = {("a", BREAKOUT): level(9), ("b", BREAKOUT): level(8), ("a", PONG): level(7)}
        results = found(tmp_path, returns, left={"missing": ["PongNoFrameskip-v4 b seed 0"]})
        text = section(results)
        assert "| Pong | 7.0 (1) | – | 19.7 | 20.7 | 20.7 |" in text
        assert "| last 100 episodes | ours | a 1, b 0 | 0 | 1 |" in text
        assert "Ours: on the 1 game that all our variants have." in text
        assert "> **Partial.** Left out, missing: PongNoFrameskip-v4 b seed 0." in text
        assert "Partial. Left out, missing" in atari.picture(results).get_suptitle()

    def test_no_game_in_common(self, tmp_path: Path) -> None:
        text = section(found(tmp_path, {("a", BREAKOUT): level(9), ("b", PONG): level(8)}))
        assert "Human-normalised" not in text
        assert "on the 0 games that all our variants have" in text

    def test_unknown_games_are_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(
            RecordError, match=r"^Hopper-v4: not among the 57 Atari games, such as AlienNoFrameskip-v4$"
        ):
            found(tmp_path, {("a", "Hopper-v4"): level(9), ("a", PONG): level(8)})


class TestFigure6:
    def test_means_against_frames_and_the_published_score(self, tmp_path: Path) -> None:
        style.use()
        returns = {("a", BREAKOUT): level(10, 30), ("a", SKIING): level(-9000, -7000)}
        breakout, skiing = atari.picture(found(tmp_path, returns)).axes
        assert [breakout.get_title(), skiing.get_title()] == ["Breakout", "Skiing"]
        (published_ppo, ours) = breakout.lines
        assert (published_ppo.get_linestyle(), set(published_ppo.get_ydata())) == ("--", {274.8})
        np.testing.assert_allclose(ours.get_ydata(), np.full(FINEST, 20))
        assert breakout.get_ylim()[1] > 274.8
        assert ours.get_xdata()[-1] == 4 * STEPS == breakout.get_xlim()[1]
        assert len(skiing.lines) == 1
        assert breakout.get_xlabel() == "frames"
        assert [label.get_text() for label in breakout.get_xticklabels()] == ["0", "20M", "40M"]

    @pytest.mark.parametrize("tasks", [[BREAKOUT, PONG], PAPER_GAMES[:5], PAPER_GAMES], ids=len)
    def test_legible(self, tmp_path: Path, tasks: list[str]) -> None:
        style.use()
        left = {"missing": [f"{task} a2c seed 2" for task in tasks[:3]]}
        figure = atari.picture(found(tmp_path, rising(tasks, ["atari_paper", "a2c"]), left=left))
        assert len(figure.axes) == len(tasks)
        assert_legible("figure 6", figure)

    def test_rows_of_seven(self, tmp_path: Path) -> None:
        figure = atari.picture(found(tmp_path, rising(PAPER_GAMES, ["a"], episodes=20)))
        assert {axis.get_subplotspec().get_gridspec().get_geometry() for axis in figure.axes} == {(7, 7)}


class TestBesideOthers:
    def test_a_published_run_stands_at_its_frames(self, tmp_path: Path) -> None:
        games = pd.DataFrame({"frames": [1, 5, 6, 96, 100, 101], "score": [-21, -19, 0, 10, 20, 5]})
        ends, means = figures.in_bins(games, 100)
        np.testing.assert_array_equal(ends, np.arange(5, 101, 5))
        np.testing.assert_array_equal(means, [-20, 0, *[np.nan] * 17, 15])
        results = found(tmp_path, rising([PONG], ["a"]))
        (axis,) = figures.beside_others(results).axes
        dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 1
        assert len(figures.figure6(results).axes[0].lines) == len(axis.lines) - 1

    def test_other_games_have_none(self, tmp_path: Path) -> None:
        figure = figures.beside_others(found(tmp_path, rising([BREAKOUT], ["a"])))
        assert not [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
        (legend,) = figure.legends
        assert not [text for text in legend.get_texts() if "Stable-Baselines3" in text.get_text()]


class TestCommand:
    def test_the_same_bytes_each_time(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = dataset(tmp_path / "dataset", rising([BREAKOUT, PONG], ["atari_paper", "a2c"]))
        outs = [tmp_path / "once", tmp_path / "again"]
        for out in outs:
            assert atari.main([str(folder), "--out", str(out)]) == 0
            assert capsys.readouterr().out == (out / "atari.md").read_text()
        first, second = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
        assert sorted(first) == ["atari.md", "figure6.png", "games_won.csv", "human.csv", "table6.csv"]
        assert first == second

    @pytest.mark.parametrize(
        ("returns", "says"),
        [
            (None, "neither a folder nor a study"),
            ({("a", "Hopper-v4"): level(9)}, "Hopper-v4: not among the 57 Atari games"),
            ({("random", PONG): level(9)}, "has no finished run"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self, tmp_path: Path, returns: Returns | None, says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "dataset"
        if returns:
            dataset(folder, returns)
        assert atari.main([str(folder), "--records", str(tmp_path / "records")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert says in error
        assert len(error.splitlines()) == 1
