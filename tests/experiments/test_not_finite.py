"""What is not finite is named with its env step, and whose fault it is; no mate of it notices."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from experiments.jobs import worker
from experiments.jobs.progress import Progress
from experiments.jobs.standing import COMPLETE, standing
from experiments.jobs.survey import STATES
from experiments.records import checkpoint
from experiments.records.record import Record
from experiments.runner import train_runs
from ppo.config import RunConfig
from ppo.environments import TaskError
from ppo.pack import Pack
from ppo.rollout import collect
from tests.conftest import killed_before, named, promised, small_run, train

TASK = "TestFaulty-v0"


class Faulty(gymnasium.Env):
    """Episodes of 9 steps; from its 13th step on, one of a seed in `odd` hands out what `bad` says."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    bad = ""
    odd: tuple[int, ...] = ()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.taken = seed, 0
        self.t = 0
        late = self.bad == "reset" and self.taken >= 13
        return np.full(3, np.nan if late and self.seed in self.odd else 0.0, np.float32), {}

    def step(self, action: np.ndarray) -> tuple:
        self.t, self.taken = self.t + 1, self.taken + 1
        late = self.taken >= 13 and self.seed in self.odd
        if late and self.bad == "raise":
            raise RuntimeError("its belt broke")
        seen = (
            np.inf
            if late and self.bad in ("observation", "last") and (self.bad == "observation" or self.t == 9)
            else 0.1
        )
        reward = {"reward": np.nan, "none": None}.get(self.bad, 1.0) if late else 1.0
        return np.full(3, seen, np.float32), reward, self.t >= 9, False, {}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register(TASK, Faulty, disable_env_checker=True)
    pack = Pack(runs())
    rows = pack.environments.backend.seeds
    monkeypatch.setattr(Faulty, "odd", tuple(rows[1 : 1 + pack.profile.actors]))
    yield
    del gymnasium.registry[TASK]


def runs(iterations: int = 3, **changes: Any) -> list[RunConfig]:
    """Two members, of which the second's environment is the faulty one."""
    small = {"horizon": 32, "minibatch_size": 32}
    return [small_run(seed, iterations, TASK, backend="gymnasium", profile=small, **changes) for seed in range(2)]


EXPECTED = {
    "reward": ("rewards", 13),
    "none": ("rewards", 13),
    "observation": ("observations", 13),
    "last": ("observations", 18),
    "reset": ("observations", 18),
}


def done_of(run: RunConfig, records: Path) -> dict[str, Any]:
    done = Record(records, *named([run])).done()
    assert done is not None
    return done


@pytest.mark.parametrize("bad", EXPECTED)
def test_an_environment_that_hands_out_what_is_not_finite_is_faulty(
    bad: str, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    healthy, odd = runs()
    monkeypatch.setattr(Faulty, "bad", bad)
    train_runs(named([healthy, odd]), tmp_path, 0, Progress())
    quantity, env_step = EXPECTED[bad]
    done = done_of(odd, tmp_path)
    assert (done["status"], done["score"], done["env_steps"]) == ("faulty", None, 32)
    assert done["not_finite"] == {"quantity": quantity, "env_step": env_step}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("faulty: ")]
    assert f"no score: its {quantity} are not finite at env step {env_step}; an error of the environment" in line
    folder = Record(tmp_path, *named([odd])).folder
    episodes = (folder / "attempt-1/episodes.csv").read_text().splitlines()[1:]
    assert episodes == ["9,9.0,9"]  # those that ended before it
    shown = standing(folder, odd, 0.0)
    assert shown.state == "faulty" and {"faulty"} <= {*COMPLETE} & {*STATES}
    assert done_of(healthy, tmp_path)["status"] == "complete" and "not_finite" not in done_of(healthy, tmp_path)
    assert promised([healthy], tmp_path) == undisturbed([healthy])


def test_a_policy_that_explodes_is_said_to_with_its_quantity_and_env_step(tmp_path: Path) -> None:
    healthy, odd = runs()
    wild = replace(odd, profile=replace(odd.profile, stepsize=1e37))
    train([healthy, wild], tmp_path)
    done = done_of(wild, tmp_path)
    assert (done["status"], done["not_finite"]["quantity"] in ("parameters", "actions")) == ("diverged", True)
    assert 32 <= done["not_finite"]["env_step"] <= done["env_steps"]


def test_actions_that_are_not_finite_are_named_at_the_step_they_were_meant_for() -> None:
    pack = Pack(runs())
    pack.start()
    collect(pack)
    pack.rollout += 1
    pack.learner.flat[0] = np.nan
    collect(pack)
    assert pack.not_finite == [("actions", 33), None]


def test_a_kill_before_done_loses_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "bad", "observation")
    (_, odd) = runs()
    doomed = Record(tmp_path, *named([odd])).folder / "done.json"
    with killed_before(doomed, monkeypatch):
        train([odd], tmp_path)
    monkeypatch.setattr(Faulty, "bad", "")  # what a replay cannot see again: the checkpoint knows
    content = checkpoint.load(checkpoint.path_of(doomed.parent / "attempt-1", 1), {})
    assert content["state"]["not_finite"] == {"quantity": "observations", "env_step": 13}


def test_an_environment_that_raises_is_one_sentence_and_its_pack_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = runs(iterations=3)
    monkeypatch.setattr(Faulty, "bad", "raise")
    with pytest.raises(
        TaskError,
        match=rf"{TASK} failed at env step 13 of the run clip, seed 1 \(of 2 that train together\): "
        r"RuntimeError: its belt broke \(.*test_not_finite\.py, line \d+\)",
    ):
        train(members, tmp_path, 1e9)
    original = Faulty.step

    def later(self: Faulty, action: np.ndarray) -> tuple:
        """Fails in the second iteration."""
        if self.taken >= 40:
            raise RuntimeError("its belt broke")
        return original(self, action)

    monkeypatch.setattr(Faulty, "bad", "")
    monkeypatch.setattr(Faulty, "step", later)
    records = tmp_path / "later"
    with pytest.raises(TaskError, match="at env step 41 of the run clip, seed 0"):
        train(members, records, 1e9)
    for run in named(members):
        assert checkpoint.iterations_in(Record(records, run).attempt_folder(1)) == [1]


def test_a_study_tries_again_and_singly_what_a_task_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 would be a mistake in the command, after which no run of the pack is tried alone."""

    def work(*_: object) -> int:
        raise TaskError(TASK, 1, "RuntimeError: its belt broke")

    monkeypatch.setattr(worker, "follow_parent", lambda: None)
    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setattr(sys, "argv", ["worker", "/launch"])
    with pytest.raises(SystemExit) as left:
        worker.main()
    assert left.value.code == 1
