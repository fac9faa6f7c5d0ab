"""Watching a run: the returns against a loop written out here, which checkpoint is played, films, refusals."""

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from experiments.identity import code_id
from experiments.records import checkpoint
from experiments.records.record import seal
from ppo.config import Algo
from ppo.randomness import generator
from tests.conftest import small_run, train
from tests.experiments.conftest import RUNS, assert_refused

pytestmark = pytest.mark.usefixtures("headless")


def copied(folder: Path, records: Path, **changes: str) -> Path:
    """A copy of a run's folder below another `records`, with other head entries in its config.json."""
    copy = shutil.copytree(folder, records / "runs" / folder.parent.name / folder.name)
    left_with(copy, json.loads((copy / "config.json").read_text()) | changes)
    return copy


def left_with(folder: Path, head: dict[str, Any]) -> None:
    """Another config.json, as if the run had been finished with it."""
    (folder / "config.json").write_text(json.dumps(head))
    done = json.loads((folder / "done.json").read_text()) | {name: head[name] for name in ("run_id", "code_id")}
    done["config_sha256"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "done.json").write_text(json.dumps(done | {"sha256": seal(done)}))


def half_done(folder: Path, records: Path) -> Path:
    """The run as it lay there an iteration before its end."""
    copy = copied(folder, records)
    (copy / "done.json").unlink()
    newest = max(copy.rglob("checkpoint-*.pt"))
    newest.unlink()
    return copy


def rewritten(folder: Path, **changes: Any) -> None:
    """Other entries in the content of a run's newest checkpoint, its digest right again."""
    attempt = folder / "attempt-1"
    head = json.loads((folder / "config.json").read_text())
    iteration = checkpoint.iterations_in(attempt)[0]
    content = checkpoint.load(checkpoint.path_of(attempt, iteration), {"run_id": head["run_id"]})
    checkpoint.save(attempt, iteration, content | changes)


def state_of(folder: Path) -> dict[str, Any]:
    newest = max(folder.rglob("checkpoint-*.pt"))
    return checkpoint.load(newest, {})["state"]


def weights(flat: np.ndarray, sizes: Sequence[int], outputs: int, gaussian: bool) -> list[np.ndarray]:
    """Weights and biases of policy and value layers, then of both heads, then log_std: each from the next 64 bytes."""
    hidden = [shape for a, b in pairwise(sizes) for shape in ((a, b), (b,))]
    head = [(sizes[-1], max(2, outputs)), (max(2, outputs),)]
    shapes = [*hidden, *hidden, *head, (sizes[-1], 2), (2,), *[(outputs,)] * gaussian]
    found, start = [], 0
    for shape in shapes:
        found.append(flat[start : start + math.prod(shape)].reshape(shape))
        start += math.ceil(math.prod(shape) / 16) * 16
    return found


def by_hand(folder: Path, env_id: str, sample: bool, clip: bool, seed: int, number: int) -> tuple[float, int]:
    """An episode of a 64-64 tanh policy under ppo1_2017_08's filter, from the checkpoint's arrays alone."""
    state = state_of(folder)
    environment = gymnasium.make(env_id)
    discrete = isinstance(environment.action_space, gymnasium.spaces.Discrete)
    outputs = int(environment.action_space.n) if discrete else environment.action_space.shape[0]
    arrays = weights(
        np.asarray(state["parameters"]), (environment.observation_space.shape[0], 64, 64), outputs, not discrete
    )
    mean, std = state["filter"]["mean"], np.sqrt(np.maximum(state["filter"]["variance"], 1e-2))
    reset_seed = int(generator(seed, "watch environment", number).integers(2**31 - 1))
    noise = generator(seed, "watch action", number)
    observation, _ = environment.reset(seed=reset_seed)
    total, length, over = 0.0, 0, False
    while not over:
        x = np.clip((observation - mean) / std, -5, 5).astype(np.float32)
        hidden = np.tanh(np.tanh(x @ arrays[0] + arrays[1]) @ arrays[2] + arrays[3])
        policy = (hidden @ arrays[8] + arrays[9])[:outputs]
        if discrete:
            action = np.argmax(policy + noise.gumbel(size=outputs).astype(np.float32) * sample)
        else:
            action = policy + sample * np.exp(arrays[12]) * noise.standard_normal(outputs, dtype=np.float32)
            action = np.clip(action, -1, 1) if clip else action
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, length, over = total + float(reward), length + 1, terminated or truncated
    return total, length


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cartpole", []),
        ("cartpole", ["--sample"]),
        ("hopper", []),
        ("hopper", ["--sample", "--seed", "7"]),
        ("clipped", ["--sample"]),
    ],
)
def test_the_returns_are_those_of_a_loop_written_by_hand(
    trained: dict[str, Path], said: Any, name: str, options: list[str]
) -> None:
    seed = 7 if "--seed" in options else 0
    wanted = [
        by_hand(trained[name], RUNS[name].env.id, "--sample" in options, name == "clipped", seed, n) for n in range(3)
    ]
    answer = said(trained[name], "--episodes", 3, *options)
    assert answer.code == 0
    assert answer.err == ""
    assert answer.results == [(pytest.approx(total, abs=0.06), length) for total, length in wanted]
    assert len({total for total, _ in wanted}) > 1
    assert f"mean return {np.mean([total for total, _ in wanted]):.1f}; " in answer.out


def test_clipping_matters_here(trained: dict[str, Path]) -> None:
    """Otherwise the comparison above would not see it."""
    clipped, free = (by_hand(trained["clipped"], "Reacher-v4", True, clip, 0, 0) for clip in (True, False))
    assert abs(clipped[0] - free[0]) > 0.5


def test_the_random_objective_plays_uniform_actions(trained: dict[str, Path], said: Any) -> None:
    environment = gymnasium.make("Hopper-v4")
    environment.reset(seed=int(generator(0, "watch environment", 0).integers(2**31 - 1)))
    rng, total, length, over = generator(0, "watch action", 0), 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = environment.step(rng.uniform(-1, 1, 3))
        total, length, over = total + float(reward), length + 1, terminated or truncated
    assert said(trained["random"]).results == [(pytest.approx(total, abs=0.06), length)]


def test_the_untrained_policy_can_be_watched(tmp_path: Path, said: Any) -> None:
    train([replace(small_run(env="CartPole-v1"), algo=Algo("initial"), env_steps=256)], tmp_path)
    answer = said(tmp_path)
    assert answer.code == 0
    assert "CartPole-v1-initial.s0" in answer.out


def cem_by_hand(state: dict[str, Any], parameters: np.ndarray) -> int:
    """Length of CartPole's episode 0 under a policy with one hidden layer of 4 units, from its 30 numbers in order."""
    hidden, head = parameters[:20].reshape(5, 4), parameters[20:].reshape(5, 2)  # the last row is the bias
    mean, std = state["filter"]["mean"], np.sqrt(np.maximum(state["filter"]["variance"], 1e-2))
    environment = gymnasium.make("CartPole-v1")
    reset_seed = int(generator(0, "watch environment", 0).integers(2**31 - 1))
    observation, length, over = environment.reset(seed=reset_seed)[0], 0, False
    while not over:
        x = np.clip((observation - mean) / std, -5, 5)
        logits = np.tanh(x @ hidden[:4] + hidden[4]) @ head[:4] + head[4]
        observation, _, terminated, truncated, _ = environment.step(int(np.argmax(logits)))
        length, over = length + 1, terminated or truncated
    return length


def test_cem_plays_the_mean_of_its_search_without_noise(tmp_path: Path, said: Any) -> None:
    cem = Algo("cem", candidates=8, elite_fraction=0.25, initial_variance=4.0, extra_std=0.0, extra_generations=1.0)
    profile = {"hidden_sizes": (4,), "observation_filter": "per_step"}
    train([small_run(env="CartPole-v1", algo=cem, iterations=5, profile=profile)], tmp_path)
    (folder,) = [path.parent for path in tmp_path.rglob("config.json")]
    state = state_of(folder)
    flat = np.asarray(
        state["parameters"]
    )  # policy: 4×4 and 4, value: the same, policy's head: 4×2 and 2, 64 bytes each
    candidate = np.concatenate([flat[:16], flat[16:20], flat[64:72], flat[80:82]])
    wanted = cem_by_hand(state, state["search"]["mean"])
    assert wanted != cem_by_hand(state, candidate)  # otherwise the lines below would prove nothing
    for options in ([], ["--sample"]):
        answer = said(tmp_path, *options)
        assert answer.results == [(wanted, wanted)]
        assert "likeliest actions" in answer.out


def test_the_same_command_prints_the_same_and_episodes_do_not_depend_on_their_number(
    trained: dict[str, Path], said: Any
) -> None:
    once = said(trained["hopper"], "--episodes", 3, "--sample")
    assert said(trained["hopper"], "--episodes", 3, "--sample").out == once.out
    assert said(trained["hopper"], "--sample").results == once.results[:1]
    assert said(trained["hopper"], "--episodes", 3).results != once.results
    assert said(trained["hopper"], "--episodes", 3, "--sample", "--seed", 1).results != once.results


def test_a_finished_run_says_its_own_score(trained: dict[str, Path], said: Any) -> None:
    score = json.loads((trained["cartpole"] / "done.json").read_text())["score"]
    answer = said(trained["cartpole"])
    assert f"the run's own score: {score:.1f} (complete; " in answer.out
    assert "at env step 768," in answer.out


def test_a_half_done_run_says_how_far_it_is(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = half_done(trained["cartpole"], tmp_path)
    (folder / "attempt-2").mkdir()  # claimed, and nothing saved in it so far
    answer = said(folder)
    assert answer.code == 0
    assert "still in training, env step 512" in answer.out
    assert answer.results == [by_hand(folder, "CartPole-v1", False, False, 0, 0)]


def test_a_finished_run_is_played_from_the_attempt_that_won(
    trained: dict[str, Path], said: Any, tmp_path: Path
) -> None:
    folder = copied(trained["cartpole"], tmp_path)
    (folder / "attempt-2").mkdir()
    checkpoint.path_of(folder / "attempt-2", 99).write_bytes(b"no checkpoint")
    answer = said(folder)
    assert answer.err == ""
    assert answer.out == said(trained["cartpole"]).out


def test_a_torn_checkpoint_is_said_and_the_older_one_played(
    trained: dict[str, Path], said: Any, tmp_path: Path
) -> None:
    folder = copied(trained["cartpole"], tmp_path)
    newest, older = sorted(folder.rglob("checkpoint-*.pt"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-1])
    answer = said(folder)
    assert answer.code == 0
    assert f"{newest} is torn" in answer.err
    assert "at env step 512," in answer.out
    older.write_bytes(b"")
    assert_refused(said(folder), str(folder), "no readable checkpoint yet")


def test_a_run_that_has_no_checkpoint_yet_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = half_done(trained["cartpole"], tmp_path)
    for path in folder.rglob("checkpoint-*.pt"):
        path.unlink()
    assert_refused(said(folder), str(folder), "no readable checkpoint yet", "Ctrl-C")


def test_a_run_of_other_code_is_played_and_said_to_be_one(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path, code_id="0123456789ab")
    rewritten(folder, code_id="0123456789ab")
    answer = said(folder)
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert "0123456789ab" in line
    assert code_id() in line
    assert answer.results == said(trained["hopper"]).results


def test_a_checkpoint_of_another_run_is_not_played(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path)
    for path in trained["random"].rglob("checkpoint-*.pt"):
        shutil.copy(path, folder / "attempt-1")
    answer = said(folder)
    assert_refused(answer, "no readable checkpoint")
    assert "belongs to another run id" in answer.err


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("profile.hidden_sizes", [32, 32], ("does not fit the networks of this code",)),
        ("profile.horizin", 7, ("config.json", "profile.horizin is not a setting", "did you mean horizon")),
        ("env.id", "HopperHop-v1", ("Gymnasium", "no task HopperHop-v1")),
        ("env.id", "Hoper-v4", ("no task Hoper-v4", "Hopper-v4")),
        ("env.id", "Ant-v4", ("does not fit the networks of this code",)),
        ("env.id", "CartPole-v1", ("does not fit the networks of this code",)),
    ],
)
def test_what_does_not_fit_is_refused(
    trained: dict[str, Path], said: Any, tmp_path: Path, where: str, value: object, words: Sequence[str]
) -> None:
    folder = copied(trained["hopper"], tmp_path)
    head = json.loads((folder / "config.json").read_text())
    group, _, name = where.partition(".")
    head["config"][group][name] = value
    left_with(folder, head)
    assert_refused(said(folder), *words)


def test_a_state_laid_out_otherwise_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path)
    rewritten(folder, state=state_of(folder) | {"filter": {}})
    assert_refused(said(folder), str(folder), "does not fit the networks of this code")


def test_a_diverged_policy_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path)
    state = state_of(folder)
    rewritten(folder, state=state | {"parameters": np.full_like(state["parameters"], np.nan)})
    assert_refused(said(folder), str(folder), "diverged")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "film.avi"], ("film.avi", ".mp4", ".gif")),
        (["--out", "film"], ("film", ".mp4", ".gif")),
        (["--window"], ("--window", "no display", "--out")),
        (["--episodes", "0"], ("--episodes=0",)),
        (["--seed", "-1"], ("--seed -1",)),
        (["--seed", str(2**63)], ("2^63",)),
    ],
)
def test_a_mistake_is_one_sentence(said: Any, arguments: list[str], words: Sequence[str]) -> None:
    answer = said("any", *arguments)
    assert_refused(answer, *words)
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1


def test_an_environment_is_watched_with_the_actions_it_was_trained_with(said: Any, tmp_path: Path) -> None:
    """Of its action space's dtype: this one takes no other."""
    space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    class Strict(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32), space

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
            super().reset(seed=seed)
            return np.zeros(3, np.float32), {}

        def step(self, action: np.ndarray) -> tuple:
            assert space.contains(action), action.dtype
            return np.zeros(3, np.float32), 1.0, False, False, {}

    gymnasium.register("TestStrict-v0", Strict, max_episode_steps=9)
    try:
        profile = {"horizon": 64, "minibatch_size": 32, "clip_actions": True}
        train([small_run(0, 1, "TestStrict-v0", backend="gymnasium", profile=profile)], tmp_path)
        (folder,) = [path.parent for path in tmp_path.rglob("done.json")]
        for options in ([], ["--sample"]):
            answer = said(folder, *options)
            assert (answer.code, answer.results) == (0, [(9.0, 9)])
    finally:
        del gymnasium.registry["TestStrict-v0"]
