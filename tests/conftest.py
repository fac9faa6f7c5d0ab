"""Shared pieces: small runs of the real thing, and digests of all they left."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf

from experiments.benchmark import TABLE_1
from experiments.compose import NamedRun, build
from experiments.records import record
from experiments.records.record import PROMISED, Record
from experiments.runner import Outcome, Watcher, train_runs
from ppo.config import Algo, Env, Profile, RunConfig

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)

# Whether a test passes must not depend on how busy this machine is, nor on chance.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROWS = TABLE_1
PROFILES = sorted(path.stem for path in (ROOT / "conf" / "profile").glob("*.yaml") if "atari" not in path.stem)


def profile_of(name: str, **overrides: Any) -> Profile:
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "profile" / f"{name}.yaml"))
    assert isinstance(values, dict)
    return build(Profile, values | overrides, "profile.")


def small_run(seed: int = 0, iterations: int = 3, env: str = "InvertedPendulum-v4", **changes: Any) -> RunConfig:
    """256 env steps an iteration, 2 epochs of 4 minibatches, clip 0.2, `ppo1_2017_08` unless told otherwise."""
    profile = profile_of(
        changes.pop("base", "ppo1_2017_08"), **{"horizon": 256, "epochs": 2} | changes.pop("profile", {})
    )
    algo = changes.pop("algo", Algo("clip", epsilon=0.2))
    run = RunConfig(algo, profile, Env(env), seed=seed, env_steps=profile.steps * iterations)
    return replace(run, **changes)


def game(name: str, **changes: Any) -> Env:
    settings = {"frame_skip": 4, "frame_max": True, "frame_stack": 4, "screen": 84, "noop_max": 30, "fire": True}
    return Env(f"{name}NoFrameskip-v4", **{"max_episode_steps": 27_000} | settings | changes)


def small_game(seed: int = 0, name: str = "Breakout", iterations: int = 2, **changes: Any) -> RunConfig:
    """16 env steps of two actors an iteration, one epoch of two minibatches, A3C's network with 32 units."""
    small = {"horizon": 8, "actors": 2, "epochs": 1, "minibatch_size": 8, "convolutions": "a3c", "hidden_sizes": (32,)}
    profile = profile_of("atari_ppo2", **small | changes.pop("profile", {}))
    algo = changes.pop("algo", Algo("clip", epsilon=0.1))
    return RunConfig(algo, profile, game(name), "ale", seed=seed, env_steps=profile.steps * iterations, **changes)


class Killed(BaseException):
    """Stands for kill -9 at one exact line: nothing after it runs."""


def named(runs: Sequence[RunConfig]) -> list[NamedRun]:
    return [NamedRun(run, {"algo": "test", "profile": "test", "env": "test"}) for run in runs]


def train(
    runs: Sequence[RunConfig], records: Path, checkpoint_seconds: float = 0.0, said: list[str] | None = None
) -> Outcome:
    """What `experiments.train` does, in this process; `Killed` leaves it as kill -9 would."""
    watcher = Watcher(say=(said if said is not None else []).append)
    try:
        return train_runs(named(runs), records, checkpoint_seconds, watcher)
    except Killed:
        for path in records.rglob("owner.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": -1}))  # this process must look dead
        raise


def promised(runs: Sequence[RunConfig], records: Path) -> list[list[str]]:
    """Digests of the files whose bytes are promised, of every finished run."""
    out = []
    for run in named(runs):
        record = Record(records, run)
        done = record.done()
        assert done is not None, f"{record.folder.name} is not finished"
        folder = record.attempt_folder(done["attempt"])
        out.append([hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PROMISED])
        assert out[-1] == [done["episodes_sha256"], done["iterations_sha256"]]
    return out


@pytest.fixture
def undisturbed(tmp_path: Path) -> Any:
    """The promised digests of runs trained with nothing in their way."""

    def train_them(runs: Sequence[RunConfig]) -> list[list[str]]:
        train(runs, tmp_path / "undisturbed", checkpoint_seconds=1e9)
        return promised(runs, tmp_path / "undisturbed")

    return train_them


@contextmanager
def killed_before(done: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, whoever would write this done.json is killed just before."""
    original = record.create_once

    def dies(path: Path, content: bytes) -> bool:
        if path == done:
            raise Killed
        return original(path, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(record, "create_once", dies)
        yield
