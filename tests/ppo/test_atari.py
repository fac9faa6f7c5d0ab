"""Atari: the games against Gymnasium's and SB3's wrappers step by step, replay, lives, frames through the network."""

import math
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv

from ppo.atari import FIRE, Ale
from ppo.config import Algo, Env, RunConfig
from ppo.environments import Environments
from ppo.networks import Network, initialise
from ppo.numerics import precision
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.rollout import collect
from ppo.train import train
from tests.conftest import Killed, game, profile_of, promised, small_game, small_run
from tests.conftest import train as train_with_records
from tests.experiments.test_resume import train_until_checkpoint

gymnasium.register_envs(ale_py)


def shares(source: int, target: int) -> np.ndarray:
    """(target, source): how much of each source pixel a target pixel covers; resizing by area, in one dimension."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return covered.clip(min=0) * target / source


ROWS, COLUMNS = shares(210, 84), shares(160, 84)


def resized(frame: np.ndarray) -> np.ndarray:
    return ROWS @ frame.astype(np.float64) @ COLUMNS.T


@pytest.mark.parametrize("name", ["Pong", "Breakout", "Seaquest", "Qbert"])
def test_a_whole_game_is_that_of_gymnasium_under_sb3s_frame_skip(name: str) -> None:
    """Frames (to the rounding of a pixel), rewards, lives and the end, for the same actions. The last frame apart:
    where a game ends inside an env step, SB3 takes the brighter of two older frames."""
    ours = Ale(game(name, noop_max=0), [0])
    theirs = MaxAndSkipEnv(gymnasium.make(f"{name}NoFrameskip-v4", obs_type="grayscale"), 4)
    first, _ = theirs.reset(seed=0)
    ale: Any = theirs.unwrapped
    observations = ours.reset(np.array([0]))
    first = ale.step(FIRE)[0] if ours.fires else first  # ALE presses it for one frame
    assert np.abs(resized(first) - observations[0, -1]).max() <= 0.51
    rng, seen = np.random.default_rng(0), [observations[0, -1]]
    for _ in range(3000):
        lives, was_lost = ale.ale.lives(), bool(ours.lost[0])
        action = int(rng.integers(ours.spaces.action_size))
        observations, rewards, over, truncated = ours.step(np.array([action]), np.array([0]))
        frame, reward, terminated, _, _ = theirs.step(FIRE if was_lost and ours.fires else action)
        seen.append(observations[0, -1])
        assert (rewards[0], over[0], truncated[0]) == (reward, terminated, False)
        if over[0]:
            break
        assert np.abs(resized(frame) - observations[0, -1]).max() <= 0.51
        assert (observations[0, -len(seen[-4:]) :] == np.stack(seen[-4:])).all()
        assert ours.lost[0] == (ale.ale.lives() < lives)
    assert over[0]


def test_a_game_starts_after_up_to_so_many_no_ops() -> None:
    ours = Ale(game("Pong"), range(12))
    frames = []
    for _ in range(4):
        ours.reset(np.arange(12))
        frames += ours.envs.reset(options={"reset_mask": np.zeros(12, dtype=bool)})[1]["episode_frame_number"].tolist()
    assert len(set(frames)) > 12
    assert min(frames) >= 1 and max(frames) <= 31


def test_a_game_ends_at_its_frame_cap_as_truncated() -> None:
    ours = Ale(game("Pong", max_episode_steps=10, noop_max=0), [0])
    ours.reset(np.array([0]))
    ends = [ours.step(np.array([0]), np.array([0]))[2:] for _ in range(10)]
    assert [bool(truncated[0]) for _, truncated in ends].index(True) in (8, 9)
    assert not any(over[0] for over, _ in ends)


def played(environments: Environments, rng: np.random.Generator, steps: int) -> list[np.ndarray]:
    seen = []
    for _ in range(steps):
        rewards, over, truncated = environments.step(rng.integers(4, size=len(environments.ids)))
        seen += [rewards, over, environments.lost.copy(), environments.observations.copy()]
        if (ended := np.flatnonzero(over | truncated)).size:
            environments.reset(ended)
    environments.forget()
    return seen


def test_games_rebuilt_by_replay_go_on_with_the_same_bits() -> None:
    """Of different lengths, some at a lost life; and each is the one it would be alone."""
    original = Environments(game("Breakout"), "ale", [1, 2, 3])
    original.reset()
    rng = np.random.default_rng(0)
    played(original, rng, 150)
    assert len({*original.resets.tolist(), *original.started.tolist()}) > 2
    while not original.lost.any():
        played(original, rng, 1)
    states = [original.state_dict(run) for run in range(3)]
    after = played(original, np.random.default_rng(1), 120)
    rebuilt = Environments(game("Breakout"), "ale", [1, 2, 3])
    rebuilt.load_state_dicts(states)
    assert all(map(np.array_equal, played(rebuilt, np.random.default_rng(1), 120), after))
    alone = Environments(game("Breakout"), "ale", [2])
    alone.load_state_dicts([states[1]])  # refuses what differs in a pixel


@pytest.mark.parametrize("name", ["IceHockey", "TimePilot"])
def test_a_game_does_not_hang_on_those_before_it(name: str) -> None:
    """Both leave in the machine's memory what was played, which frames do not show at once; a replay plays only the
    last game of each."""
    original = Environments(game(name, max_episode_steps=150), "ale", [1, 2])
    original.reset()
    played(original, np.random.default_rng(0), 310)
    rebuilt = Environments(game(name, max_episode_steps=150), "ale", [1, 2])
    rebuilt.load_state_dicts([original.state_dict(run) for run in range(2)])
    after = [played(environments, np.random.default_rng(1), 200) for environments in (original, rebuilt)]
    assert all(map(np.array_equal, *after))


# Lives and rewards


def test_a_lost_life_ends_the_estimate_and_not_the_game() -> None:
    """Breakout pays 1, 4 or 7 points; scores are raw and of whole games, what is learnt from is clipped."""
    pack = Pack([small_game(profile={"horizon": 1024})])
    pack.start()
    rollout = collect(pack)
    lost = rollout.terminated.sum()
    assert lost > 4 * len(rollout.episodes[0]) > 0  # five lives a game, the last of which ends it
    running = rollout.rewards[0].sum() - pack.episode_return.sum()
    assert running == sum(episode.episode_return for episode in rollout.episodes[0])
    _, value_target, _ = pack.learner.estimate(rollout)
    at_ends = value_target.reshape(1, 2, -1)[rollout.terminated]
    assert set(at_ends) <= {0.0, 1.0}
    goes_on = Pack([small_game(profile={"horizon": 1024, "lost_life": "goes_on"})])
    goes_on.start()
    again = collect(goes_on)
    assert (again.rewards == rollout.rewards).all()
    assert again.terminated.sum() == len(again.episodes[0]) == len(rollout.episodes[0])


def test_rewards_are_clipped_to_their_sign_for_learning_alone() -> None:
    pack = Pack([small_game(name="Qbert", profile={"horizon": 256})])
    pack.start()
    rollout = collect(pack)
    assert rollout.rewards.max() >= 25
    rollout.terminated[:] = True
    assert set(np.unique(pack.learner.estimate(rollout)[1])) == {0.0, 1.0}


# The network


@pytest.mark.parametrize("convolutions", ["nature", "a3c"])
def test_frames_pass_the_network_as_they_pass_torchs_own_layers(convolutions: str) -> None:
    profile = profile_of("atari_ppo2", convolutions=convolutions, hidden_sizes=(20,))
    network = Network((4, 84, 84), 6, False, profile)
    flat = np.stack([initialise(network, profile, np.random.default_rng(seed)) for seed in range(3)])
    leaves = {name: view.detach().requires_grad_() for name, view in network.views(torch.from_numpy(flat)).items()}
    x = torch.from_numpy(np.random.default_rng(9).integers(256, size=(3, 5, 4, 84, 84), dtype=np.uint8))
    policy, value = network.policy_and_value(leaves, x)
    gradient = network.gradient(leaves, policy.square().sum() + value.square().sum())
    layers = {"nature": [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)], "a3c": [(4, 16, 8, 4), (16, 32, 4, 2)]}
    for run in range(3):
        convolution = [torch.nn.Conv2d(*layer) for layer in layers[convolutions]]
        with torch.no_grad():
            for number, layer in enumerate(convolution):
                layer.weight.copy_(leaves[f"trunk.convolution{number}.weight"][run].T.reshape(layer.weight.shape))
                layer.bias.copy_(leaves[f"trunk.convolution{number}.bias"][run, 0])
        z = x[run].float() / 255
        for layer in convolution:
            z = torch.relu(layer(z))
        weights = {name: leaf[run].detach().requires_grad_() for name, leaf in leaves.items()}
        hidden = torch.relu(z.flatten(1) @ weights["trunk.0.weight"] + weights["trunk.0.bias"])
        logits = (hidden @ weights["policy.head.weight"] + weights["policy.head.bias"])[:, :6]
        values = (hidden @ weights["value.head.weight"] + weights["value.head.bias"])[:, 0]
        torch.testing.assert_close(policy[run], logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(value[run], values, rtol=1e-5, atol=1e-6)
        (logits.square().sum() + values.square().sum()).backward()
        ours = network.views(gradient)
        for number, layer in enumerate(convolution):
            expected = layer.weight.grad.reshape(len(layer.bias), -1).T
            torch.testing.assert_close(ours[f"trunk.convolution{number}.weight"][run], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours["trunk.0.weight"][run], weights["trunk.0.weight"].grad, rtol=1e-4, atol=1e-5)


def test_kernels_start_orthogonal() -> None:
    profile = profile_of("atari_ppo2")
    network = Network((4, 84, 84), 6, False, profile)
    flat = torch.from_numpy(initialise(network, profile, np.random.default_rng(0)))[None]
    kernels = network.views(flat)["trunk.convolution0.weight"][0]
    assert kernels.shape == (4 * 8 * 8, 32)
    torch.testing.assert_close(kernels.T @ kernels, 2 * torch.eye(32), rtol=1e-4, atol=1e-5)
    assert network.size == sum(math.ceil(math.prod(s) / 16) * 16 for s in network.shapes.values())
    assert network.views(flat)["trunk.0.weight"].shape == (1, 7 * 7 * 64, 512)


def test_bfloat16_rounds_what_frames_become_and_no_parameter() -> None:
    """`fast` has outputs and gradients of `exact` to the rounding of 8 bits, both float32."""
    profile = profile_of("atari_ppo2")
    x = torch.from_numpy(np.random.default_rng(9).integers(256, size=(2, 64, 4, 84, 84), dtype=np.uint8))
    found = []
    for numerics in ("exact", "fast"):
        network = Network((4, 84, 84), 6, False, profile, precision(numerics))
        flat = np.stack([initialise(network, profile, np.random.default_rng(seed)) for seed in range(2)])
        leaves = {name: view.detach().requires_grad_() for name, view in network.views(torch.from_numpy(flat)).items()}
        policy, value = network.policy_and_value(leaves, x)
        gradient = network.gradient(leaves, value.square().mean(1).sum() + policy.square().mean((1, 2)).sum())
        assert {policy.dtype, value.dtype, gradient.dtype} == {torch.float32}
        found.append((policy, value, gradient))
    for exact, fast in zip(*found, strict=True):
        assert 0 < (fast - exact).norm() < 0.02 * exact.norm()


# Packs and records


def digests(runs: list[RunConfig]) -> dict[RunConfig, bytes]:
    pack = Pack(runs)
    list(train(pack))
    return {run: pack.learner.flat[row].numpy().tobytes() for row, run in enumerate(pack.runs)}


@pytest.mark.parametrize("convolutions", ["nature", "a3c"])
def test_a_run_is_the_same_run_alone_and_in_a_pack(convolutions: str) -> None:
    algos = (Algo("clip", epsilon=0.1), Algo("kl_fixed", beta=1.0))
    changes = {"profile": {"convolutions": convolutions}}
    runs = [small_game(seed, algo=algo, **changes) for seed in range(2) for algo in algos]
    together = digests(runs)
    assert len(set(together.values())) == 4
    for run in runs[1:3]:
        assert digests([run]) == {run: together[run]}


@pytest.mark.parametrize("count", [1, 2])
def test_stopping_at_every_boundary_changes_no_byte(count: int, undisturbed: Any, tmp_path: Any) -> None:
    runs = [small_game(seed, "Pong", iterations=3) for seed in range(2)]
    expected = undisturbed(runs)
    with pytest.raises(Killed):
        train_until_checkpoint(runs, tmp_path / "stopped", count)
    train_with_records(runs, tmp_path / "stopped")
    assert promised(runs, tmp_path / "stopped") == expected


# What is refused


def test_mistakes_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"ALE has no game PnogNoFrameskip-v4, did you mean PongNoFrameskip-v4"):
        Environments(game("Pnog"), "ale", [0])
    with pytest.raises(UserError, match=r"env\.frame_skip is not set, and PongNoFrameskip-v4 needs it; env=atari/pong"):
        Environments(Env("PongNoFrameskip-v4"), "ale", [0])
    with pytest.raises(UserError, match=r"profile\.policy=gaussian: .* has discrete actions"):
        Pack([small_game(profile={"policy": "gaussian"})])
    with pytest.raises(UserError, match=r"profile\.observation_filter=per_step: .* shows frames"):
        Pack([small_game(profile={"observation_filter": "per_step"})])
    with pytest.raises(UserError, match=r"profile\.convolutions=none: the observations are frames, which need"):
        Pack([small_game(profile={"convolutions": "none"})])
    with pytest.raises(UserError, match=r"profile\.convolutions=nature: the observations are numbers"):
        Pack([small_run(profile={"convolutions": "nature"})])
    monkeypatch.setattr(ale_py.roms, "get_rom_path", lambda rom: None)
    with pytest.raises(UserError, match=r"PongNoFrameskip-v4: ale-py .* has no ROM pong; reinstall ale-py"):
        Environments(game("Pong"), "ale", [0])
