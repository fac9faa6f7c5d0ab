"""The pilot's distance, by hand."""

import math

import pandas as pd
import pytest

from analysis import pilot
from analysis.paper import published
from analysis.records import RecordError

TASKS = ("Hopper-v4", "Reacher-v4")


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
