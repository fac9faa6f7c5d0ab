"""Which runs share a pack, and in what order packs are started."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.cluster.dry_run import makespan
from experiments.cluster.packs import Calibration, even, plan, seconds_per_step
from experiments.compose import NamedRun
from experiments.identity import run_id
from experiments.manifest import Entry
from ppo.config import Algo, pack_key
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
