"""The suite learns: not a measure of how well, which the README reports, but of whether."""

from pathlib import Path

import pytest
from conftest import profile_of, train

from ppo.config import Algo, Env, RunConfig


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_cartpole_is_solved(backend: str, tmp_path: Path) -> None:
    settings = {"profile": profile_of("ppo1_2017_08"), "env": Env("CartPole-v1"), "env_steps": 102_400}
    runs = [RunConfig(Algo("clip", epsilon=0.2), backend=backend, seed=seed, **settings) for seed in range(2)]
    scores = [done["score"] for done in train(runs, tmp_path, checkpoint_seconds=1e9).done]
    assert sum(scores) / len(scores) >= 475
