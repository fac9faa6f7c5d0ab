"""The paper's scores by hand, in all readings of its words, and what becomes of runs that failed."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import pool

from analysis import scores
from analysis.paper import published
from analysis.records import RecordError
from analysis.scores import References, Scaling
from analysis.sources import records
from analysis.statistics import Array

RAW = {
    "random": {"A": np.array([0.0, 2.0]), "B": np.array([-10.0])},
    "initial": {"A": np.array([-1.0]), "B": np.array([-20.0])},
    "x": {"A": np.array([5.0, 7.0, 9.0]), "B": np.array([0.0, 0.0, 3.0])},
    "y": {"A": np.array([3.0, 3.0, 12.0]), "B": np.array([10.0, 20.0, 30.0])},
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def score_of(*returns: float) -> tuple[float, int, int]:
    found = records.score_of(pa.table({"return": pa.array(returns, pa.float64())}))
    return found["score"], found["score_episodes"], found["episodes"]


class TestRunScore:
    def test_is_the_mean_of_the_last_100_episodes(self) -> None:
        assert score_of(*range(250)) == (199.5, 100, 250)

    def test_says_when_there_are_fewer(self) -> None:
        assert score_of(1, 4) == (2.5, 2, 2)
        assert score_of() == (pytest.approx(np.nan, nan_ok=True), 0, 0)

    def test_is_none_of_returns_that_are_not_finite(self) -> None:
        assert score_of(1, np.inf) == (pytest.approx(np.nan, nan_ok=True), 2, 2)


class TestNormalisation:
    @pytest.mark.parametrize(
        ("scaling", "zero", "one"),
        [
            (Scaling(), (1, -10), (7, 20)),
            (Scaling("initial"), (-1, -20), (7, 20)),
            (Scaling(best_from="run"), (1, -10), (12, 30)),
            (Scaling("initial", "run"), (-1, -20), (12, 30)),
        ],
        ids=lambda value: "-".join(map(str, value)),
    )
    def test_each_reading_by_hand(self, scaling: Scaling, zero: tuple[float, float], one: tuple[float, float]) -> None:
        found = scores.references(RAW, scaling)
        assert [(found.zero[e], found.one[e]) for e in "AB"] == list(zip(zero, one, strict=True))
        table = scores.table(RAW, scaling)
        shares = [(raw - z) / (o - z) for raw, z, o in zip((7, 1), zero, one, strict=True)]
        assert table["x"] == pytest.approx(np.mean(shares))
        assert set(table) == {"x", "y"}

    def test_the_best_variant_everywhere_scores_1(self) -> None:
        again = {**RAW, "best": {"A": np.array([8.0]), "B": np.array([30.0, 20.0])}}
        assert scores.table(again)["best"] == 1

    @settings(max_examples=30, deadline=None)
    @given(st.floats(-1e3, 1e3), st.floats(0.1, 10), st.sampled_from(["variant", "run"]))
    def test_the_units_of_a_task_do_not_matter(self, shift: float, scale: float, best: str) -> None:
        moved = {v: {e: shift + scale * runs for e, runs in cells.items()} for v, cells in RAW.items()}
        for variant, score in scores.table(moved, Scaling(best_from=best)).items():  # type: ignore[arg-type]
            assert score == pytest.approx(scores.table(RAW, Scaling(best_from=best))[variant])  # type: ignore[arg-type]

    def test_resamples_have_references_of_their_own(self) -> None:
        stacked = {v: {e: np.stack([runs, 3 * runs]) for e, runs in cells.items()} for v, cells in RAW.items()}
        once, thrice = (scores.table({v: {e: k * r for e, r in c.items()} for v, c in RAW.items()}) for k in (1, 3))
        for variant, score in scores.table(stacked).items():
            np.testing.assert_allclose(score, [once[variant], thrice[variant]])

    def test_humans(self) -> None:
        raw = {"ppo": {"PongNoFrameskip-v4": np.array([14.6, -20.7, 20.0])}}
        humans = scores.human_references(published.atari_human(), ["PongNoFrameskip-v4"])
        np.testing.assert_allclose(
            scores.normalise(raw, humans)["ppo"]["PongNoFrameskip-v4"], [1, 0, (20 + 20.7) / (14.6 + 20.7)]
        )
        with pytest.raises(RecordError, match="no human score of Pong-v5"):
            scores.human_references(published.atari_human(), ["Pong-v5"])

    def test_what_cannot_be_scaled_is_named(self) -> None:
        with pytest.raises(RecordError, match="x on B"):
            scores.table({**RAW, "x": {"A": np.array([1.0])}})
        with pytest.raises(RecordError, match="random on A, random on B"):
            scores.table({"x": RAW["x"]})
        with pytest.raises(RecordError, match="better than the random policy on A"):
            scores.table({"random": {"A": np.array([3.0])}, "x": {"A": np.array([3.0])}})
        with pytest.raises(RecordError, match="no finished run of a variant that learns"):
            scores.table({})


def tables_of_three(raw: scores.Raw, scaling: Scaling) -> list[dict[str, Array]]:
    """Every table of three runs per cell that there is."""
    cells = [(v, e) for v in ("x", "y") for e in raw[v]]
    found = []
    for chosen in product(*(combinations(raw[v][e], 3) for v, e in cells)):
        part: dict[str, dict[str, Array]] = {"random": dict(raw["random"])}
        for (variant, environment), runs in zip(cells, chosen, strict=True):
            part.setdefault(variant, {})[environment] = np.array(runs)
        found.append(scores.table(part, scaling))
    return found


class TestPaperTable:
    @pytest.mark.parametrize("scaling", [Scaling(), Scaling(best_from="run")])
    def test_is_the_average_over_all_tables_of_three(self, scaling: Scaling) -> None:
        raw = {"random": RAW["random"]} | {v: {e: rng(n).normal(5, 1, 5) for e in "AB"} for n, v in enumerate("xy")}
        every = pd.DataFrame(tables_of_three(raw, scaling)).astype(float)
        found = scores.paper_table(raw, rng(), scaling, draws=20_000)
        np.testing.assert_allclose(found["score"], every.mean(), atol=0.004)
        np.testing.assert_allclose(found["spread"], every.std(ddof=0), atol=0.004)

    def test_more_seeds_do_not_raise_the_best_single_run(self) -> None:
        truth, reading = {"x": 0.7, "y": 0.8}, Scaling(best_from="run")
        papers = [scores.table(scores.raw_scores(pool(truth, 3, seed=n)), reading)["y"] for n in range(40)]
        many = scores.raw_scores(pool(truth, 60))
        assert scores.table(many, reading)["y"] < np.mean(papers) - 0.1
        assert scores.paper_table(many, rng(), reading).loc["y", "score"] == pytest.approx(np.mean(papers), abs=0.02)

    def test_of_three_seeds_there_is_one(self) -> None:
        found = scores.paper_table(RAW, rng())
        np.testing.assert_allclose(found["score"], list(map(float, scores.table(RAW).values())))
        np.testing.assert_allclose(found["spread"], 0, atol=1e-12)

    def test_too_few_runs_are_named(self) -> None:
        with pytest.raises(RecordError, match="fewer than 4 scored runs of x on A, x on B, y on A, y on B"):
            scores.paper_table(RAW, rng(), seeds=4)


class TestIntervals:
    def test_few_seeds_take_t_and_many_the_bootstrap(self) -> None:
        for seeds, method in ((3, "t"), (9, "t"), (10, "bootstrap")):
            raw = scores.raw_scores(pool({"x": 0.7, "y": 0.8}, seeds))
            found, table = scores.score_intervals(raw, rng()), scores.table(raw)
            assert {interval.method for interval in found.values()} == {method}
            for variant, interval in found.items():
                assert interval.low < table[variant] < interval.high

    def test_the_bootstrap_finds_the_references_anew(self) -> None:
        """A variant without rivals is the best result of every resample, whatever its spread."""
        alone = scores.raw_scores(pool({"x": 0.7}, 12))
        assert scores.score_intervals(alone, rng())["x"][:2] == pytest.approx((1, 1))
        assert np.ptp(scores.score_intervals(alone, rng(), Scaling(best_from="run"))["x"][:2]) > 0.05

    def test_references_are_kept_where_a_resample_has_none(self) -> None:
        """Without its one good run the variant is below the random policy: in 0.9^10 of the resamples."""
        raw = {"random": {"A": np.full(10, 100.0)}, "x": {"A": np.array([150.0] + [99.0] * 9)}}
        found = scores.score_intervals(raw, rng())["x"]
        drawn = np.random.default_rng(1).binomial(10, 0.1, 100_000) * 51 / 10 - 1
        assert found.method == "fixed"
        assert found[:2] == pytest.approx(np.quantile(drawn / 4.1, [0.025, 0.975]), abs=1e-9)

    def test_tables_without_a_scale_are_refused_with_their_number(self) -> None:
        raw = {"random": {"A": np.full(3, 100.0)}, "x": {"A": np.array([150.0, 90.0, 95.0])}}
        with pytest.raises(RecordError, match=r"in [23]\d\d of 1,000 tables of 3 seeds .* no variant is better"):
            scores.drawn_tables(raw, rng(), Scaling(), 3, 1000, replace=True)  # (2/3)^3 = 0.296 of them

    def test_one_seed_has_none(self) -> None:
        with pytest.raises(RecordError, match="fewer than 2"):
            scores.score_intervals(scores.raw_scores(pool({"x": 0.7}, 1)), rng())


RUNS = pd.DataFrame(
    [
        ("x", "A", 1, "complete", 5.0),
        ("x", "A", 0, "complete", 4.0),
        ("x", "A", 2, "diverged", 9.0),
        ("x", "A", 3, "partial", 6.0),
        ("y", "A", 0, "complete", -7.0),
        ("y", "A", 1, "diverged", np.nan),
        ("y", "A", 2, "diverged", -np.inf),
    ],
    columns=["variant", "env", "seed", "status", "score"],
)


class TestFromRuns:
    def test_a_diverged_run_is_as_bad_as_the_worst(self) -> None:
        raw = scores.raw_scores(RUNS)
        np.testing.assert_array_equal(raw["x"]["A"], [4, 5, -7])
        np.testing.assert_array_equal(raw["y"]["A"], [-7, -7, -7])

    def test_or_what_it_had_before(self) -> None:
        raw = scores.raw_scores(RUNS, diverged="plain")
        np.testing.assert_array_equal(raw["x"]["A"], [4, 5, 9])
        np.testing.assert_array_equal(raw["y"]["A"], [-7])

    def test_the_same_run_twice_is_refused(self) -> None:
        with pytest.raises(RecordError, match="two runs of x on A with seed 1"):
            scores.raw_scores(pd.concat([RUNS, RUNS.iloc[:1]]))

    def test_kinds_are_not_mixed(self) -> None:
        runs = pd.concat([RUNS.assign(profile="p"), RUNS.assign(profile="q")])
        with pytest.raises(RecordError, match="choose one profile of p, q"):
            scores.one_kind(runs, profile=None)
        with pytest.raises(RecordError, match="choose one profile of p, q"):
            scores.one_kind(runs, profile="r")
        assert len(scores.one_kind(runs, profile="q")) == len(RUNS)
        assert isinstance(scores.references(RAW), References)
