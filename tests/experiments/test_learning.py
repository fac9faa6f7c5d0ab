"""The suite learns: not a measure of how well, which the committed studies are, but of whether."""

from pathlib import Path

from ppo.config import Algo, Env, RunConfig
from tests.conftest import profile_of, train


def test_cartpole_is_solved(tmp_path: Path) -> None:
    profile, env = profile_of("ppo1_2017_08"), Env("CartPole-v1")
    runs = [RunConfig(Algo("clip", epsilon=0.2), profile, env, seed=seed, env_steps=102_400) for seed in range(2)]
    scores = [done["score"] for done in train(runs, tmp_path, checkpoint_seconds=1e9).done]
    assert sum(scores) / len(scores) >= 475
