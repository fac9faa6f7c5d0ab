"""Noise and bias of gradient estimates: episodes' gradients against plain autograd, statistics against known ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.gradients import __main__, rungs
from experiments.gradients import play as play_module
from experiments.gradients.__main__ import COLUMNS, main, rows, text_of
from experiments.gradients.play import Critics, Episodes, Policy, fit_critics, perturbed, play, to_go
from experiments.gradients.rungs import GAMMA, REFERENCES, RUNGS, blocks_of, effective_episodes, episode_gradients
from experiments.gradients.statistics import BATCH, Blocks, facts
from ppo.config import Algo, Env, RunConfig
from ppo.pack import Pack
from tests.conftest import profile_of

TASKS = ("CartPole-v1", "InvertedPendulum-v4", "Reacher-v4")


def policy_of(task: str) -> Policy:
    """An untrained one with a filter of its own."""
    profile = profile_of("ppo1_2017_08", hidden_sizes=[6, 5], policy_gain=1.0)
    pack = Pack([RunConfig(Algo("clip", epsilon=0.2), profile, Env(task), seed=3, env_steps=profile.steps)])
    pack.filter.see_rollout(np.random.default_rng(0).normal(0.1, 0.5, (1, 50, pack.spaces.observation_size)))
    return Policy.present(pack)


@pytest.fixture(scope="module", params=TASKS)
def played(request: pytest.FixtureRequest) -> tuple[Policy, Policy, Critics, Episodes]:
    """A policy, another one that played the episodes, and the first one's critics."""
    policy = policy_of(request.param)
    data = list(play(policy, 0, "critic", 2, 8))
    other = perturbed(policy, data, 0.01, 0)
    (episodes,) = play(other, 0, "episodes", 1, 4)
    return policy, other, fit_critics(policy, data, (1.0, GAMMA), 0), episodes


def logs_by_torch(policy: Policy, flat: torch.Tensor, x: np.ndarray, actions: np.ndarray) -> torch.Tensor:
    """log π of one episode's steps, (L,), by torch's own layers and distributions."""
    views = {name: view[0] for name, view in policy.model.network.views(flat).items()}
    hidden = torch.from_numpy(x)
    for layer in range(2):
        hidden = torch.tanh(hidden @ views[f"policy.{layer}.weight"] + views[f"policy.{layer}.bias"])
    output = (hidden @ views["policy.head.weight"] + views["policy.head.bias"])[:, : policy.model.spaces.action_size]
    taken = torch.from_numpy(actions)
    if policy.model.spaces.discrete:
        return torch.distributions.Categorical(logits=output).log_prob(taken)
    return torch.distributions.Normal(output, views["log_std"].exp()).log_prob(taken).sum(-1)


def advantages_by_hand(name: str, rewards: np.ndarray, values: np.ndarray) -> list[float]:
    """By definition, as sums over the rest of the episode; after its end everything is worth 0."""
    each, steps = RUNGS[name], len(rewards)
    gamma, v = each.gamma, np.append(values, 0.0)

    def n_step(t: int, n: int) -> float:
        end = min(t + n, steps)
        return sum(gamma ** (k - t) * rewards[k] for k in range(t, end)) + gamma ** (end - t) * v[end] - v[t]

    if name == "whole_return":
        return [rewards.sum()] * steps
    if "rewards_to_go" in name:
        return [n_step(t, steps) + v[t] for t in range(steps)]
    if name == "n_step_5":
        return [n_step(t, 5) for t in range(steps)]
    decay = gamma * each.algo.gae_lambda
    delta = rewards + gamma * v[1:] - v[:-1]
    return [sum(decay ** (k - t) * delta[k] for k in range(t, steps)) for t in range(steps)]


@pytest.mark.parametrize("name", RUNGS)
def test_every_episodes_gradient_is_autograds(name: str, played: tuple[Policy, Policy, Critics, Episodes]) -> None:
    policy, other, critics, episodes = played
    (found,) = episode_gradients(policy, other, critics, episodes, [RUNGS[name]])
    values = critics.values(episodes)[RUNGS[name].gamma]
    assert len(set(episodes.lengths)) > 1 or policy.pack.runs[0].env.id == "Reacher-v4"
    for row, length in enumerate(episodes.lengths):
        flat = policy.flat.clone().requires_grad_()
        x, actions = episodes.x[row, :length], episodes.actions[row, :length]
        logs = logs_by_torch(policy, flat, x, actions)
        log_ratio = (logs - logs_by_torch(other, other.flat, x, actions)).detach()
        weight = {
            "ratio_per_step": log_ratio.exp(), "ratio_of_trajectories": log_ratio.sum().exp().expand_as(log_ratio),
        }.get(name, torch.ones_like(log_ratio))  # fmt: skip
        worth = advantages_by_hand(name, episodes.rewards[row, :length], values[row, :length])
        (expected,) = torch.autograd.grad((weight * logs * torch.tensor(worth)).sum(), flat)
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found[row].numpy(), expected[0].numpy(), atol=1e-4 * scale)


def test_what_was_never_played_changes_nothing(played: tuple[Policy, Policy, Critics, Episodes]) -> None:
    policy, other, critics, episodes = played
    wider = replace(
        episodes, x=np.pad(episodes.x, ((0, 0), (0, 3), (0, 0)), constant_values=7.0),
        actions=np.pad(episodes.actions, [(0, 0), (0, 3)] + [(0, 0)] * (episodes.actions.ndim - 2), constant_values=1),
        rewards=np.pad(episodes.rewards, ((0, 0), (0, 3))),
    )  # fmt: skip
    expected, found = (
        torch.stack(list(episode_gradients(policy, other, critics, each, RUNGS.values()))) for each in (episodes, wider)
    )
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_blocks_hold_the_means_however_episodes_are_cut(
    played: tuple[Policy, Policy, Critics, Episodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, other, critics, episodes = played
    every = torch.stack(list(episode_gradients(policy, other, critics, episodes, RUNGS.values()))).double()
    for size in (1, int(episodes.lengths.max()) * 2, 10**6):
        monkeypatch.setattr(rungs, "CHUNK", size)
        found = blocks_of(policy, other, critics, [episodes, episodes], RUNGS)
        for each, blocks in zip(every, found.values(), strict=True):
            near = {"rtol": 1e-3, "atol": 1e-4 * float(each.abs().max())}
            np.testing.assert_allclose(blocks.gradients, np.tile(each.mean(0).numpy(), (2, 1)), **near)
            np.testing.assert_allclose(blocks.squares, [float(each.square().sum(1).mean())] * 2, rtol=1e-4)
            assert blocks.env_steps.tolist() == [episodes.lengths.mean()] * 2


def test_effective_episodes_are_kishs(played: tuple[Policy, Policy, Critics, Episodes]) -> None:
    policy, other, _, episodes = played
    weights = []
    for row, length in enumerate(episodes.lengths):
        step = episodes.x[row, :length], episodes.actions[row, :length]
        with torch.no_grad():
            log_ratio = logs_by_torch(policy, policy.flat, *step) - logs_by_torch(other, other.flat, *step)
        weights.append(float(log_ratio.sum().exp()))
    expected = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    assert 1 < expected < len(weights)
    assert effective_episodes(policy, other, [episodes]) == pytest.approx(expected, rel=1e-3)
    assert effective_episodes(policy, policy, [episodes, episodes]) == pytest.approx(2 * len(weights))


class TestPlay:
    def test_every_environment_plays_one_episode_a_round_to_its_end(self) -> None:
        policy = policy_of("CartPole-v1")
        for episodes in play(policy, 0, "play", 3, 20):
            assert episodes.rewards.sum(axis=1).tolist() == episodes.lengths.tolist()  # 1 per env step
            assert episodes.rewards.shape == (20, episodes.lengths.max())
            assert (episodes.ended.argmax(axis=1) == episodes.lengths - 1).all()
            assert (np.abs(episodes.x[episodes.there]).sum(axis=1) > 0).all()
            assert not episodes.x[~episodes.there].any()

    def test_the_draws_have_names(self) -> None:
        policy = policy_of("InvertedPendulum-v4")
        first, again, other = (list(play(policy, 0, name, 2, 3)) for name in ("a", "a", "b"))
        assert all((x.x == y.x).all() for x, y in zip(first, again, strict=True))
        assert first[0].x.shape != first[1].x.shape or (first[0].x != first[1].x).any()
        assert first[0].x.shape != other[0].x.shape or (first[0].x != other[0].x).any()

    def test_actions_follow_the_policy(self) -> None:
        """z-scores of the Gaussian's actions are standard normal."""
        policy = policy_of("InvertedPendulum-v4")
        (episodes,) = play(policy, 0, "play", 1, 400)
        with torch.no_grad():
            pi = policy.distribution(torch.from_numpy(episodes.x))
            z = ((torch.from_numpy(episodes.actions) - pi.mean) / pi.log_std.exp()).numpy()[episodes.there]  # type: ignore[union-attr]
        assert abs(z.mean()) < 4 / np.sqrt(z.size)
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size)

    def test_the_other_policy_is_as_far_away_as_asked(self) -> None:
        policy = policy_of("CartPole-v1")
        data = list(play(policy, 0, "play", 1, 50))
        x = torch.from_numpy(data[0].x[data[0].there])[None]
        with torch.no_grad():
            there, here = (each.distribution(x).log_probs for each in (perturbed(policy, data, 0.01, 0), policy))  # type: ignore[union-attr]
        assert float((there.exp() * (there - here)).sum(-1).mean()) == pytest.approx(0.01, rel=0.02)

    def test_critics_explain_returns_they_have_not_seen(self) -> None:
        policy = policy_of("CartPole-v1")
        critics = fit_critics(policy, list(play(policy, 0, "fit", 4, 256)), (1.0, GAMMA), 0, with_clock=True)
        (fresh,) = play(policy, 0, "fresh", 1, 100)
        for gamma, values in critics.values(fresh).items():
            returns = to_go(fresh, gamma)
            assert (returns - values[fresh.there]).var() < 0.85 * returns.var()


def simulated(rng: np.random.Generator, mean: np.ndarray, std: float, episodes: int) -> Blocks:
    """32 blocks of independent gradients N(mean, std²)."""
    draws = mean + std * rng.standard_normal((32, episodes, len(mean)))
    return Blocks(draws.mean(axis=1), np.square(draws).sum(axis=2).mean(axis=1), np.full(32, 10.0))


def test_statistics_are_those_of_simulated_gradients() -> None:
    """Known bias and variance, 400 times: right on average, though the noise of a mean is as long as the bias, and
    standard errors say how far off a single one is."""
    rng, size, episodes, std = np.random.default_rng(0), 40, 8, 3.0
    g = np.full(size, 0.5)
    off = np.where(np.arange(size) % 2, 0.15, -0.15)  # at right angles to g
    expected = {
        "gradient_norm": np.linalg.norm(g),
        "relative_std": np.sqrt(size * std**2 * 10 / BATCH) / np.linalg.norm(g),
        "share": 0.6,
        "squared_bias": 0.4**2 + off @ off / (g @ g),
        "noise": np.sqrt(size * std**2 * 10 / BATCH) / np.linalg.norm(g) / 0.6,
        "squared_turn": off @ off / (0.36 * g @ g),
        "squared_turn_discounted": 0.0,
    }
    assert np.sqrt(size) * std / np.sqrt(32 * episodes) > np.linalg.norm(off)
    found = []
    for _ in range(400):
        sides = (
            simulated(rng, mean, s, episodes) for mean, s in ((0.6 * g + off, std), (g, 0.5), (0.6 * g + off, 0.5))
        )
        found.append(facts(*sides))
    for name, value in expected.items():
        values = np.array([each[name] for each in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - value) < 3.5 * error + 0.02 * abs(value), name
        said = np.sqrt(np.mean([each[f"{name}_se"] ** 2 for each in found]))
        assert 0.7 < said / values.std() < 1.5, name


def test_a_known_expectation_makes_the_noise_sharper() -> None:
    rng, g = np.random.default_rng(0), np.full(40, 0.5)
    noisy, reference = simulated(rng, g, 12.0, 8), simulated(rng, g, 0.5, 8)
    expected = np.sqrt(40 * 12.0**2 * 10 / BATCH) / np.linalg.norm(g)
    known, unknown = facts(noisy, reference, reference, reference), facts(noisy, reference, reference)
    assert known["noise"] == pytest.approx(expected, rel=0.03)
    assert known["noise_se"] < 0.1 * unknown["noise_se"]
    assert known["squared_bias"] == unknown["squared_bias"]


def test_no_bias_of_episodes_shared_with_the_reference() -> None:
    blocks = simulated(np.random.default_rng(0), np.full(40, 0.5), 3.0, 8)
    found = facts(blocks, blocks, blocks)
    assert [found[name] for name in ("squared_bias", "squared_turn", "share")] == pytest.approx([0, 0, 1], abs=1e-12)


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[str, dict[str, float]]]:
    """The untrained CartPole policy's rows, by rung; `to discounted` has facts against the discounted reference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(play_module, "EPOCHS", 5)
        yield {row["rung"]: row for row in rows(policy_of("CartPole-v1"), "test", 60_000)}


@pytest.mark.parametrize("name", ["whole_return", "rewards_to_go", "baseline", "ratio_of_trajectories"])
def test_without_bias(name: str, measured: dict[str, dict[str, float]]) -> None:
    row = measured[name]
    assert abs(row["squared_bias"]) < 3 * row["squared_bias_se"]
    assert abs(row["share"] - 1) < 3 * row["share_se"]


@pytest.mark.parametrize("name", ["discounted_rewards_to_go", "discounted_baseline"])
def test_discounted_rungs_expect_what_the_discounted_reference_does(
    name: str, measured: dict[str, dict[str, float]]
) -> None:
    row, known = measured[name], measured["discounted_baseline"]
    assert abs(row["squared_turn_discounted"]) < 3 * row["squared_turn_discounted_se"]
    assert abs(row["share"] - known["share"]) <= 3 * row["share_se"]
    assert known["share"] < 1 - 10 * known["share_se"]
    assert row["squared_bias"] > 0


def test_rungs_that_have_a_bias_show_it(measured: dict[str, dict[str, float]]) -> None:
    row = measured["ratio_per_step"]
    assert row["squared_bias"] > 3 * row["squared_bias_se"]


def test_every_rung_of_the_ladder_is_less_noisy(measured: dict[str, dict[str, float]]) -> None:
    noise = [measured[name]["noise"] for name in ("whole_return", "rewards_to_go", "baseline", "gae_0.95", "gae_0.5")]
    assert noise == sorted(noise, reverse=True)


def test_columns_are_explained(measured: dict[str, dict[str, float]]) -> None:
    text = text_of([{"task": "t", "policy": "p", **row} for row in measured.values()])
    head, *body = text.splitlines()
    assert len(body) == len(RUNGS)
    for column in head.split(","):
        assert column in COLUMNS or f"\n    {column.removesuffix('_se')} " in str(facts.__doc__), column


def test_references_are_rungs_that_have_no_bias_of_their_own() -> None:
    assert {name: each.gamma for name, each in REFERENCES.items()} == {"undiscounted": 1.0, "discounted": GAMMA}
    assert all(each.algo.gae_lambda == 1.0 for each in REFERENCES.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.csv", "--env-steps", "100"], "--env-steps 100 is less than one batch, 2048"),
        (["--out", "nowhere/x.csv"], "nowhere/x.csv cannot be written: its folder does not exist"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def test_a_stage_never_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(__main__, "TRAINING", 2048)
    assert main(["--out", str(tmp_path / "x.csv")]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: CartPole-v1: no policy of 2048 env steps of training reached 90% of the highest return, 500\n"
    )
    assert not (tmp_path / "x.csv").exists()
