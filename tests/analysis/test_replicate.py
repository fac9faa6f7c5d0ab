"""Whether Table 1 is reproduced: rightly told of pools that are the paper's, and of pools that are not."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pools import TASKS, dataset, pool, printed
from scipy import stats

from analysis import replicate
from analysis.records import RecordError
from analysis.scores import Scaling, raw_scores, table


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def report(runs: pd.DataFrame) -> str:
    return replicate.report(runs, rng(), Scaling(), 1000)


class TestRanks:
    @pytest.mark.parametrize("ties", [False, True])
    def test_scipy_agrees(self, ties: bool) -> None:
        tables, scores = rng().normal(size=(20, 11)), rng(1).normal(size=11)
        if ties:
            tables, scores = tables.round(), scores.round()
        for ours, theirs in ((replicate.kendall, stats.kendalltau), (replicate.spearman, stats.spearmanr)):
            np.testing.assert_allclose(ours(tables, scores), [theirs(row, scores).statistic for row in tables])

    def test_equal_scores_have_no_order(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for correlation in (replicate.kendall, replicate.spearman):
                assert list(correlation(np.ones((2, 5)), np.arange(5.0))) == [0, 0]

    def test_the_same_order_agrees_best(self) -> None:
        again = pd.DataFrame(np.arange(5.0) + 0.1 * rng().normal(size=(200, 5)), columns=list("abcde"))
        for order, value in ((np.arange(5.0), 1), (-np.arange(5.0), -1)):
            ranks = replicate.agreement(pd.Series(order, index=list("abcde")), again)
            np.testing.assert_allclose(ranks[["ours", "low", "median", "high"]], value)
            np.testing.assert_allclose(ranks[["own_low", "own_median", "own_high"]], 1)

    def test_re_runs_are_held_against_others(self) -> None:
        """Of noise alone tau has the mean 0 and the variance 2 (2n + 5) / 9n(n − 1)."""
        again = pd.DataFrame(rng().normal(size=(4000, 11)), columns=list("abcdefghijk"))
        own = replicate.agreement(again.iloc[0], again).loc["Kendall", ["own_low", "own_median", "own_high"]]
        reach = 1.96 * np.sqrt(2 * 27 / (9 * 11 * 10))
        np.testing.assert_allclose(own, [-reach, 0, reach], atol=0.04)


class TestPlaces:
    def test_by_hand(self) -> None:
        again = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0, 4.0], "b": [5.0, 5.0, 5.0, 5.004, 4.996]})
        found = replicate.places(pd.Series({"a": 3.5, "b": 5.0}), again, level=0.5)
        assert list(found.loc["a", ["ours", "low", "high", "quantile"]]) == [2, 1, 3, 0.8]
        assert found.loc["a", "as_far"] == (1 + 2) / (1 + 5)
        assert found.loc["a", "same"] == 0
        assert found.loc["b", "same"] == 1

    def test_re_runs_stand_around_the_paper_comparable_score(self) -> None:
        raw = raw_scores(pool({"x": 0.7, "y": 0.8}, 12))
        for scaling in (Scaling(), Scaling(best_from="run")):
            again = replicate.reruns(raw, rng(), scaling, 4000)
            expected = replicate.paper_table(raw, rng(1), scaling, draws=4000)["score"]
            np.testing.assert_allclose(again.mean(), expected, atol=0.003)

    def test_few_seeds_make_re_runs_uncertain(self) -> None:
        few, many = (
            replicate.reruns(raw_scores(pool({"x": 0.7, "y": 0.8}, seeds)), rng(), Scaling(), 2000)["x"]
            for seeds in (3, 40)
        )
        assert np.ptp(few.quantile([0.025, 0.975])) > 1.2 * np.ptp(many.quantile([0.025, 0.975]))


EQUAL = {**dict.fromkeys(printed().index, 0.75), "unconstrained": -0.39}


def agrees(seed: int, seeds: int, truth: Mapping[str, float]) -> bool:
    """Whether a paper whose 3 seeds are of the same kind as our `seeds` is said to be reproduced."""
    paper = table(raw_scores(pool(truth, 3, seed=10_000 + seed)))
    again = replicate.reruns(raw_scores(pool(truth, seeds, seed=seed)), rng(seed), Scaling(), 1000)
    scores = pd.Series({variant: float(score) for variant, score in paper.items()})
    places = replicate.places(scores, again)
    return "no; " not in replicate.verdict(places, replicate.agreement(scores, again), again)[-1].lower()


class TestVerdict:
    @pytest.mark.parametrize("seeds", [3, 10])
    @pytest.mark.parametrize("truth", [printed().to_dict(), EQUAL], ids=["the paper's", "ten equal rows"])
    def test_a_paper_of_the_same_kind_is_reproduced(self, truth: dict[str, float], seeds: int) -> None:
        """As often as the two questions promise together."""
        draws = 120
        alarms = sum(not agrees(seed, seeds, truth) for seed in range(draws))
        assert stats.binomtest(alarms, draws, 2 * replicate.ALPHA, alternative="greater").pvalue > 0.001

    def test_another_row_is_told(self) -> None:
        said = report(pool({**printed(), "unconstrained": 0.75}, 10))
        assert "Reproduced? No; against it speak" in said
        assert "the score of unconstrained" in said
        assert "negative in 0% of re-runs" in said

    def test_another_order_is_told(self) -> None:
        """Its tau, which is scipy's; it is the rows that speak against it."""
        turned = {variant: 1.5 - score for variant, score in printed().items()}
        said = report(pool({**turned, "unconstrained": -0.39}, 30, spread=0.05))
        tau = stats.kendalltau(list({**turned, "unconstrained": -0.39}.values()), printed()).statistic
        assert tau == pytest.approx(-0.63, abs=0.02)
        assert float(re.search(r"published scores and ours is (\S+);", said)[1]) == pytest.approx(tau, abs=0.1)
        assert "against it speak the score of unconstrained, clip_0.1, clip_0.2, " in said.splitlines()[-1]

    def test_wide_intervals_prove_little(self) -> None:
        assert "too uncertain to tell the rows apart" in report(pool(printed().to_dict(), 10, spread=0.4))


class TestReport:
    def test_a_partial_table_says_so(self) -> None:
        some = dict(list(TASKS.items())[:2])
        said = report(pool(printed()[["clip_0.1", "clip_0.2"]].to_dict(), 3, tasks=some))
        assert "partial: 2 of Table 1's 11 rows" in said
        assert "partial: 2 of the paper's 7 tasks" in said
        assert "3 seeds: what a re-run may score is known roughly" in said

    def test_failures_are_counted(self) -> None:
        runs = pool(printed().to_dict(), 10)
        runs.loc[(runs["variant"] == "clip_0.1") & (runs["seed"] < 2) & (runs["env"] == "Hopper-v4"), "status"] = [
            "diverged",
            "partial",
        ]
        runs.loc[runs["variant"] == "kl_fixed_1", "score_episodes"] = 99
        said = report(runs)
        assert "70 runs finished fewer than 100 episodes" in said
        assert "1 unfinished runs left out" in said
        assert "1 diverged runs count as the worst of their task" in said

    def test_a_mean_that_hinges_on_one_run_is_named(self) -> None:
        runs = pool(printed().to_dict(), 10)
        worst = (runs["variant"] == "unconstrained") & (runs["seed"] == 0) & (runs["env"] == "HalfCheetah-v4")
        runs.loc[worst, "score"] = -300_000
        assert "the means of unconstrained hinge on one run" in report(runs)

    def test_variants_outside_the_table_do_not_count(self) -> None:
        truth = printed().to_dict()
        with_another = pool({**truth, "clip_0.9": 3.0}, 3)
        without = with_another[with_another["variant"] != "clip_0.9"]
        assert report(with_another) == report(without)

    def test_nothing_to_compare(self) -> None:
        with pytest.raises(RecordError, match="fewer than two variants"):
            report(pool({"clip_0.2": 1.0, "mine": 2.0}, 3))


class TestCommand:
    def test_prints_the_same_for_the_same_seed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = dataset(tmp_path / "dataset", pool(printed().to_dict(), 4))
        said = []
        for _ in range(2):
            assert replicate.main([str(folder), "--draws", "1000", "--best", "run", "--seed", "3"]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        assert "Reproduced?" in said[0]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--random", "initial"], "initial on HalfCheetah-v4"),
            (["--draws", "999"], "fewer than 1000 draws"),
            (["--code-id", "other"], "choose one code_id of c0de"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = dataset(tmp_path / "dataset", pool(printed().to_dict(), 3))
        assert replicate.main([str(folder), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert says in error
        assert len(error.splitlines()) == 1

    def test_too_few_runs_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = dataset(tmp_path / "dataset", pool(printed().to_dict(), 2))
        assert replicate.main([str(folder)]) == 2
        error = capsys.readouterr().err
        assert "fewer than 3 scored runs of unconstrained on HalfCheetah-v4, unconstrained on Hopper-v4, " in error
        assert error.endswith("and 67 more\n")
