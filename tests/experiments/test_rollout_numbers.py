"""A rollout's numbers as a file: against a loop and a critic written out here, twice the same bytes, and refusals."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from experiments import rollout_numbers
from ppo.config import Algo
from ppo.randomness import generator
from tests.conftest import small_run, train
from tests.experiments.conftest import Said, assert_refused
from tests.experiments.test_watch import state_of, weights

pytestmark = pytest.mark.usefixtures("headless")


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Said:
        code = rollout_numbers.main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


def by_hand(folder: Path, steps: int) -> list[tuple[int, float, float, bool]]:
    """Episode, V before and after, and whether the pole fell, of each step of CartPole with sampled actions."""
    state = state_of(folder)
    arrays = weights(np.asarray(state["parameters"]), (4, 64, 64), 2, False)
    mean, std = state["filter"]["mean"], np.sqrt(np.maximum(state["filter"]["variance"], 1e-2))

    def network(observation: np.ndarray, trunk: int, head: int) -> np.ndarray:
        x = np.clip((observation - mean) / std, -5, 5).astype(np.float32)
        for weight, bias in zip(arrays[trunk : trunk + 4 : 2], arrays[trunk + 1 : trunk + 4 : 2], strict=True):
            x = np.tanh(x @ weight + bias)
        return x @ arrays[head] + arrays[head + 1]

    environment, rows, number = gymnasium.make("CartPole-v1"), [], 0
    while len(rows) < steps:
        seed = int(generator(0, "watch environment", number).integers(2**31 - 1))
        noise = generator(0, "watch action", number)
        observation, over = environment.reset(seed=seed)[0], False
        while not over:
            action = np.argmax(network(observation, 0, 8) + noise.gumbel(size=2).astype(np.float32))
            value = network(observation, 4, 10)[0]
            observation, _, over, _, _ = environment.step(action)
            rows.append((number, value, network(observation, 4, 10)[0], over))
        number += 1
    return rows[:steps]


def test_the_numbers_are_those_of_a_loop_written_by_hand(trained: dict[str, Path], export: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rollout.csv"
    answer = export(trained["cartpole"], "--steps", 150, "--out", out)
    assert answer.code == 0
    story, *table = out.read_text().splitlines()
    assert story == "# run=CartPole-v1-clip_0.2.s0 env_steps=768 gamma=0.99 gae_lambda=0.95"
    rows = list(csv.DictReader(table))
    wanted = by_hand(trained["cartpole"], 150)
    assert wanted[-1][0] > 1  # several episodes
    for t, (row, (number, value, following, fell)) in enumerate(zip(rows, wanted, strict=True)):
        assert (int(row["t"]), int(row["episode"]), float(row["reward"])) == (t, number, 1.0)
        assert float(row["value"]) == pytest.approx(value, rel=1e-4, abs=1e-5)
        assert float(row["next_value"]) == pytest.approx(following, rel=1e-4, abs=1e-5)
        assert (row["terminated"], row["truncated"]) == (str(int(fell)), "0")


def test_a_time_limit_is_no_end_of_the_task(trained: dict[str, Path], export: Any, tmp_path: Path) -> None:
    """Reacher's episodes are cut after 50 env steps."""
    assert export(trained["clipped"], "--steps", 120, "--out", tmp_path / "rollout.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "rollout.csv").read_text().splitlines()[1:]))
    assert [int(row["t"]) for row in rows if row["truncated"] == "1"] == [49, 99]
    assert {row["terminated"] for row in rows} == {"0"}
    assert rows[49]["next_value"] != rows[50]["value"]  # of the final state, not of the next episode's first
    assert rows[48]["next_value"] == rows[49]["value"]


def test_the_same_command_writes_the_same_bytes(trained: dict[str, Path], export: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(trained["hopper"], "--steps", 100, "--out", tmp_path / name)
    export(trained["hopper"], "--steps", 100, "--seed", 1, "--out", tmp_path / "c")
    first, second, other = ((tmp_path / name).read_bytes() for name in ("a", "b", "c"))
    assert first == second != other


def test_what_has_no_such_numbers_is_refused(trained: dict[str, Path], export: Any, tmp_path: Path) -> None:
    out = tmp_path / "rollout.csv"
    assert_refused(export(trained["random"], "--out", out), "has no critic", "random")
    assert_refused(export(trained["hopper"], "--steps", 0, "--out", out), "--steps=0")
    for seed in (-1, 2**63):
        assert_refused(export(trained["hopper"], "--seed", seed, "--out", out), f"--seed {seed}")
    assert_refused(export("nobody", "--records", tmp_path, "--out", out), "no run is at the path nobody")
    profile = {"horizon": 256, "epochs": 1, "scale_rewards": True, "observation_filter": "per_step"}
    scaled = small_run(env="CartPole-v1", iterations=1, profile=profile)
    cem = Algo("cem", candidates=4, elite_fraction=0.5, initial_variance=1.0, extra_std=0.0, extra_generations=1.0)
    for name, run, words in (("scaled", scaled, "scaled rewards"), ("cem", replace(scaled, algo=cem), "no critic")):
        train([run], tmp_path / name)
        assert_refused(export(tmp_path / name, "--out", out), words)
    assert not out.exists()
