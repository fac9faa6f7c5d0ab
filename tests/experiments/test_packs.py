"""Which runs share a pack, and in what order packs are started."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.compose import NamedRun
from experiments.identity import run_id
from experiments.jobs import packs as packs_module
from experiments.jobs.dry_run import makespan
from experiments.jobs.packs import Calibration, even, plan, seconds_per_step
from experiments.manifest import Entry
from ppo.config import Algo, pack_key
from ppo.refusals import UserError
from tests.conftest import ROWS, small_run


def entries_of(*runs: object) -> list[Entry]:
    return [Entry(run_id(run), "v", "e", NamedRun(run, {})) for run in runs]  # type: ignore[arg-type]


GRID = entries_of(
    *(
        small_run(seed=seed, env=env, algo=algo)
        for env in ("Hopper-v4", "Reacher-v4")
        for algo in ROWS
        for seed in (0, 1)
    ),
    *(small_run(seed=seed, env="Hopper-v4", algo=Algo("random")) for seed in (0, 1)),
)


def one_second_per_step(_config: object, _size: int) -> float:
    return 1.0


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 50), workers=st.integers(0, 60))
def test_every_run_is_in_one_pack_that_may_hold_it(size: int, workers: int) -> None:
    packs = plan(GRID, size, workers, one_second_per_step)
    assert sorted(e.run_id for pack in packs for e in pack.entries) == sorted(e.run_id for e in GRID)
    for pack in packs:
        assert 0 < len(pack.entries) <= size
        assert len({pack_key(e.run.config) for e in pack.entries}) == 1
    assert [p.seconds for p in packs] == sorted((p.seconds for p in packs), reverse=True)
    assert len(packs) >= min(workers, len(GRID))


def test_packs_are_as_large_as_allowed_when_no_worker_stands_idle() -> None:
    assert sorted(len(pack.entries) for pack in plan(GRID, 33, 2, one_second_per_step)) == [2, 22, 22]
    assert sorted(len(pack.entries) for pack in plan(GRID, 11, 2, one_second_per_step)) == [2, 11, 11, 11, 11]


@given(count=st.integers(1, 100), pieces=st.integers(1, 20))
def test_pieces_differ_by_one_at_most(count: int, pieces: int) -> None:
    runs = entries_of(small_run()) * count
    sizes = [len(piece) for piece in even(runs, min(pieces, count))]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("seconds", "places", "expected"),
    [([5, 4, 3], 1, 12), ([5, 4, 3], 3, 5), ([5, 4, 3], 2, 7), ([1], 9, 1), ([], 2, 0)],
)
def test_the_end_is_that_of_the_last_place(seconds: Sequence[float], places: int, expected: float) -> None:
    assert makespan(seconds, places) == expected


def test_calibration_measures_once_per_task_and_larger_packs_cost_less_per_run() -> None:
    measure = Calibration()
    run = small_run()
    alone, together = measure(run, 1), measure(run, 8)
    assert alone > together > 0
    assert measure(small_run(seed=9), 1) == alone  # not measured anew
    assert len(measure.measured) == 1


@pytest.mark.parametrize(
    "profile",
    [
        {"horizon": 192, "minibatch_size": 96},
        {"horizon": 64, "actors": 3, "minibatch_size": 96},
        {"horizon": 16, "actors": 8, "minibatch_size": 32},
        {"horizon": 600, "minibatch_size": 600},
        {"horizon": 5, "actors": 16, "minibatch_size": 80, "rollouts": 25},
        {"horizon": 2048, "segment": 16, "minibatch_size": 512},
    ],
)
def test_calibration_takes_whole_minibatches_of_any_size(profile: dict[str, int]) -> None:
    assert seconds_per_step(small_run(env="CartPole-v1", profile=profile), 1) > 0


def test_calibration_survives_a_run_that_diverges_at_once() -> None:
    run = small_run(env="InvertedPendulum-v4", profile={"stepsize": 100.0})
    assert Calibration()(run, 3) > 0


class Broken(gymnasium.Env[np.ndarray, np.ndarray]):
    """Two numbers to see and one to act; `step` is the test's."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, step: Callable[[], None]):
        self.fault = step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        return np.zeros(2), {}

    def step(self, action: np.ndarray) -> Any:
        try:
            self.fault()
        except ValueError:
            pass  # as an environment may swallow what is not its own
        return np.zeros(2), 0.0, False, False, {}


def raises() -> None:
    raise ArithmeticError("the knee is out of its joint\nline two")


def leaves() -> None:
    raise SystemExit(3)


def hangs() -> None:
    time.sleep(600)


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[None]:
    gymnasium.register("Broken-v0", lambda: Broken(request.param))
    yield
    del gymnasium.registry["Broken-v0"]


@pytest.mark.parametrize(
    ("registered", "words"),
    [
        (
            raises,
            r"TaskError: Broken-v0 failed at env step 1 of the run clip, seed 0: "
            r"ArithmeticError: the knee is out of its joint line two \(.*test_packs.py, line \d+\)",
        ),
        (leaves, "SystemExit: 3"),
        (hangs, r"Overtime: not done after 0\.2 seconds"),
    ],
    indirect=["registered"],
)
@pytest.mark.usefixtures("registered")
def test_what_breaks_in_calibration_stops_no_other_run(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    good = small_run(env="CartPole-v1")
    bad = replace(small_run(env="Broken-v0"), backend="gymnasium")
    measured = [Calibration()(good, 1)]
    monkeypatch.setattr(packs_module, "CALIBRATION_SECONDS", 0.2)
    said: list[str] = []

    def rate(config: Any, size: int) -> float:
        return measured[0] if config is good else Calibration(said.append)(config, size)

    (longest, other) = plan(entries_of(bad, good), 33, 2, rate)
    assert [entry.run.config for entry in longest.entries] == [good]
    assert [entry.run.config for entry in other.entries] == [bad]
    (line,) = said
    said = rf"Broken-v0-clip_0\.2\.s0: how long it takes could not be measured \({words}\); the times here leave it out"
    assert re.fullmatch(said, line), line


def test_a_task_that_is_not_there_is_still_refused_before_anything_trains() -> None:
    with pytest.raises(UserError, match="no task Nowhere-v0"):
        Calibration()(replace(small_run(env="Nowhere-v0"), backend="gymnasium"), 1)
