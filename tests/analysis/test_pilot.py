"""The pilot's distance, by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from legible import assert_legible

from analysis import pilot, scores, table1
from analysis.baseline import FOLDER
from analysis.dataset import Dataset, load
from analysis.figures import pilot as drawn
from analysis.figures import style
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import Results

TASKS = ("Hopper-v4", "Reacher-v4")
PAGE = " ".join((FOLDER.parent / "reports" / "which_implementation.md").read_text().split())


def runs(**means: float) -> pd.DataFrame:
    """Two seeds about each setting's share of the way from random (−10) to 90, on two tasks."""
    rows = [("random", task, seed, -10.0) for task in TASKS for seed in (0, 1)]
    for name, mean in means.items():
        for task in TASKS:
            rows += [
                (name.replace("__", "/"), task, seed, -10 + 100 * (mean + 0.01 * (2 * seed - 1))) for seed in (0, 1)
            ]
    return pd.DataFrame(rows, columns=["variant", "env", "seed", "score"]).assign(status="complete")


def test_the_pattern_is_scaled_within_an_implementation() -> None:
    found = pilot.pattern(runs(a__unconstrained=-0.5, a__kl_fixed_1=0.5, b__unconstrained=0.4, b__kl_fixed_1=0.8))
    assert found["a"] == pytest.approx({"unconstrained": -1.0, "kl_fixed_1": 1.0})
    assert found["b"] == pytest.approx({"unconstrained": 0.5, "kl_fixed_1": 1.0})


def test_the_distance_by_hand() -> None:
    first, second = math.asinh(-1.0 / 0.2) - math.asinh(-0.39 / 0.2), math.asinh(1.0 / 0.2) - math.asinh(0.71 / 0.2)
    found = pilot.distance({"unconstrained": -1.0, "kl_fixed_1": 1.0}, published.table1()["score"].to_dict())
    assert found == pytest.approx(math.sqrt((first**2 + second**2) / 2))


def test_a_collapse_ten_times_as_deep_is_not_ten_times_as_far() -> None:
    theirs = {"unconstrained": -0.39}
    deep, deeper = (pilot.distance({"unconstrained": value}, theirs) for value in (-10.0, -100.0))
    assert deeper - deep == pytest.approx(math.log(10), rel=0.01)


def test_the_nearest_comes_first_with_its_range_over_seeds() -> None:
    found = pilot.ranked(runs(a__unconstrained=0.9, a__clip_0=1.0, b__unconstrained=-0.39, b__kl_fixed_1=1.0)
                         .replace({"a/clip_0": "a/kl_fixed_1"}))  # fmt: skip
    assert list(found["implementation"]) == ["b", "a"]
    assert (found["low"] < found["high"]).all()
    text = pilot.markdown(pilot.table(found))
    assert "| published (7 tasks) | −0.39 | 0.71 | 0.00 |" in text


def test_a_random_policy_that_is_not_trained_yet_is_said_to_be_so() -> None:
    begun = runs(a__unconstrained=0.5, a__kl_fixed_1=1.0)
    lacks = (begun["variant"] == "random") & (begun["env"] == "Hopper-v4")
    with pytest.raises(RecordError, match=r"the pilot's random policy is not trained yet on Hopper-v4$"):
        pilot.ranked(begun[~lacks])
    with pytest.raises(RecordError, match=r"is not trained yet on Hopper-v4, Reacher-v4$"):
        pilot.ranked(begun[begun["variant"] != "random"])


def test_a_dataset_of_something_else_is_refused() -> None:
    with pytest.raises(RecordError, match="study=pilot"):
        pilot.ranked(runs(clip=0.5))


class TestPicture:
    def test_the_marks_are_the_scores_and_the_words_the_distances(self) -> None:
        found = runs(a__unconstrained=-5.0, a__kl_fixed_1=1.0, b__unconstrained=-0.39, b__kl_fixed_1=0.71)
        style.use()
        figure = drawn.pilot(Dataset(Path("by-hand"), found, {"left_out": {}}))
        (axis,) = figure.axes
        marks = {line.get_color(): 0.2 * np.sinh(line.get_xdata()) for line in axis.lines if len(line.get_ydata()) == 2
                 and line.get_marker() == "o"}  # fmt: skip
        colours = style.colours(["unconstrained", "kl_fixed_1"])
        span = 0.71  # of b: its best setting is 1
        assert marks[colours["unconstrained"]] == pytest.approx([-0.39 / span, -5.0])
        assert marks[colours["kl_fixed_1"]] == pytest.approx([1.0, 1.0])
        assert [text.get_text() for text in axis.get_yticklabels()] == ["published (7 tasks)", "b", "a"]
        near, far = pilot.ranked(found)["distance"]
        words = [text.get_text() for text in axis.texts]
        assert words[0].startswith(f"{near:.2f}")
        assert words[1].startswith(f"{far:.2f}")
        assert_legible("pilot", figure)


def test_the_pages_words_on_the_collapse_are_of_the_committed_runs() -> None:
    part = FOLDER / "pilot" / "HalfCheetah-v4" / "no_filter-raw_advantage-unconstrained.s1000-1002"
    iterations, episodes = (pd.read_parquet(part / f"{name}.parquet") for name in ("iterations", "episodes"))
    first = iterations[iterations["env_steps"] <= 500_000 / 4].groupby("run", observed=True)["kl"]
    assert set(first.size()) == {61}
    moved = first.agg(lambda kl: (kl > 10).sum())
    lost = -episodes.groupby("run", observed=True)["return"].agg(lambda returns: returns.rolling(10).mean().min())
    assert f"{moved.min()} to {moved.max()} of 61 updates move it by more than 10 nats" in PAGE
    assert f"lose {round(lost.min(), -2):,.0f} to {round(lost.max(), -2):,.0f} each" in PAGE


class TestMatch:
    """The page's words on Table 1 under the nearest implementation, against the committed runs."""

    folder = FOLDER / "paper_match"

    def returns_of(self, part: str) -> list[pd.DataFrame]:
        return [run for _, run in pd.read_parquet(self.folder / part / "episodes.parquet").groupby("run")]

    def test_every_seed_without_constraint_collapses_on_halfcheetah(self) -> None:
        of = [f"HalfCheetah-v4/unconstrained.{seeds}" for seeds in ("s0-2", "s3-9")]
        lost = [-run["return"].rolling(10).mean().min() for part in of for run in self.returns_of(part)]
        ends = sorted(run["return"].iloc[-100:].mean() for part in of for run in self.returns_of(part))
        assert len(lost) == len(ends) == 10
        assert f"in a row lose {min(lost):,.0f} to {max(lost):,.0f} each" in PAGE
        shown = [f"{end:,.0f}".replace("-", "−") for end in ends]
        assert f"({shown[2]} to {shown[-1]}); two do not ({shown[1]}, {shown[0]})" in PAGE

    def test_tables_of_three_seeds(self) -> None:
        found = Results(table1.comparable(load(self.folder)))
        means = {v: dict(zip(found.environments, map(np.mean, found.cells(v)), strict=True)) for v in found.complete}
        assert [(v, e) for v, of in means.items() for e, mean in of.items() if mean < 0] == [
            ("unconstrained", "HalfCheetah-v4")
        ]
        tables = scores.drawn_tables(found.of_paper, found.rng(), found.options.scaling, 3, 10_000)["unconstrained"]
        assert f"{(tables < 0).mean():.0%} are negative, all of them below −10" in PAGE
        assert tables[tables < 0].max() < -10
        positive = tables[tables > 0]
        assert {f"{score:.1f}" for score in positive} == {"0.6", "0.2", "0.1"}
        assert "of the two they have 0.6, with the shallower alone 0.1 to 0.2" in PAGE
        assert found.references is not None
        zero, one = (float(of["HalfCheetah-v4"]) for of in found.references)
        others = {e: mean for e, mean in means["unconstrained"].items() if e != "HalfCheetah-v4"}
        needed = zero + (one - zero) * (7 * -0.39 - sum(others.values()))
        usual = np.median(found.raw["unconstrained"]["HalfCheetah-v4"])
        assert round(3 * needed - 2 * usual, -3) == -27_000

    def test_clip_learns_first_and_loses_it(self) -> None:
        early = {
            variant: [run.loc[run["env_step"] <= 125_000, "return"].iloc[-50:].mean()
                      for run in self.returns_of(f"InvertedDoublePendulum-v4/{variant}.s0-2")]
            for variant in ("clip_0.2", "kl_adaptive_0.01", "kl_fixed_1", "unconstrained")
        }  # fmt: skip
        clip = early.pop("clip_0.2")
        assert f"({min(clip):,.0f} to {max(clip):,.0f} after an eighth of the budget)" in PAGE
        assert max(max(means) for means in early.values()) < min(clip)
        part = self.folder / "InvertedDoublePendulum-v4/clip_0.2.s0-2" / "iterations.parquet"
        std = pd.read_parquet(part).groupby("run")["std"]
        assert {f"{lowest:.2f}" for lowest in std.min()} == {"0.01"}
