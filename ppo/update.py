"""Optimisation: K epochs of minibatch Adam on the surrogate (Algorithm 1), for every run of a pack at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ppo import advantages, objectives
from ppo.numerics import variant
from ppo.pack import Pack
from ppo.policies import Distribution
from ppo.randomness import generator
from ppo.rollout import Rollout


@dataclass
class Batch:
    """What the loss reads: leading axes (R, B), (R, N·T) for the whole rollout; x is (R, B, D). `old` is π_θold(·|s_t),
    `old_value` V_θold(s_t); a minibatch leaves out what no run of its pack asks for."""

    x: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value_target: Tensor
    old: Distribution | None
    old_value: Tensor | None

    def map(self, f: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with f applied to each of its tensors."""
        return Batch(
            f(self.x),
            f(self.action),
            f(self.log_prob),
            f(self.advantage),
            f(self.value_target),
            None if self.old is None else self.old.map(f),
            None if self.old_value is None else f(self.old_value),
        )


@dataclass
class Coefficients:
    """This iteration's numbers, (R, 1) each."""

    epsilon: Tensor
    beta: Tensor
    value_coef: Tensor
    entropy_coef: Tensor


def estimate_advantages(pack: Pack, rollout: Rollout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advantages, value targets and old values, (R, N·T) float64 each, under the statistics of the rollout."""
    values, next_values = values_of(pack, rollout.x), values_of(pack, rollout.next_x)
    rewards = pack.reward_scale.scale(rollout.rewards, rollout.ended)
    ended, gamma, gae_lambda = rollout.ended, pack.column("gamma")[..., None], pack.column("gae_lambda")[..., None]
    terminated = ended if pack.profile.time_limit == "terminal" else rollout.terminated
    match pack.algo.advantage:
        case "gae":
            estimate = advantages.gae(rewards, values, next_values, terminated, ended, gamma, gae_lambda)
        case "n_step":
            assert pack.algo.n_step is not None
            estimate = advantages.n_step(rewards, values, next_values, terminated, ended, gamma, pack.algo.n_step)
        case "whole_return":
            estimate = advantages.whole_return(rewards, next_values, terminated, ended, gamma)
        case _:
            estimate = advantages.rewards_to_go(rewards, next_values, terminated, ended, gamma)
    advantage, value_target, values = map(merged, (*estimate, values))
    if pack.profile.standardise == "rollout":
        advantage = standardised(advantage, pack.profile.standardise_epsilon)
    return advantage, value_target, values


def values_of(pack: Pack, x: np.ndarray) -> np.ndarray:
    """V_θold of a rollout's inputs, (R, N, T, D) → (R, N, T) float64."""
    with torch.no_grad():
        values = pack.network.value(pack.parameters, pack.tensor(merged(x)))
    return values.cpu().numpy().astype(np.float64).reshape(x.shape[:3])


def merged(array: np.ndarray) -> np.ndarray:
    """(R, N, T, …) → (R, N·T, …): all that a run has seen, one actor after another."""
    return array.reshape(len(array), -1, *array.shape[3:])


def standardised(advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the last axis."""
    mean, std = advantage.mean(axis=-1, keepdims=True), advantage.std(axis=-1, keepdims=True)
    return (advantage - mean) / (std + epsilon)


def surrogate(pack: Pack, ratio: Tensor, batch: Batch, new: Distribution, c: Coefficients) -> Tensor:
    """Each run's objective on its own rows, (R, B). A run without penalty never meets a KL, so no 0·∞ arises."""
    parts = []
    for name, rows in pack.objective_rows():
        match name:
            case "clip":
                part = objectives.clip(ratio[rows], batch.advantage[rows], c.epsilon[rows])
            case "kl_fixed" | "kl_adaptive":
                assert batch.old is not None
                kl = batch.old.rows(rows).kl(new.rows(rows))
                part = objectives.kl_penalty(ratio[rows], batch.advantage[rows], kl, c.beta[rows])
            case _:
                part = objectives.unconstrained(ratio[rows], batch.advantage[rows])
        parts.append(part)
    return torch.cat(parts)


def loss(pack: Pack, parameters: Mapping[str, Tensor], batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """−L^{CLIP+VF+S} (section 5, eq. 9) and its parts, one number per run: (R,) each."""
    policy, value = pack.network.policy_and_value(parameters, batch.x)
    new = pack.distribution(parameters, policy)
    ratio = torch.exp(new.log_prob(batch.action) - batch.log_prob)
    policy_loss = -surrogate(pack, ratio, batch, new, c).mean(-1)

    error = (value - batch.value_target).square()
    if batch.old_value is not None and pack.profile.value_clip is not None:
        bound = pack.profile.value_clip
        clipped = batch.old_value + torch.clamp(value - batch.old_value, -bound, bound)
        error = torch.maximum(error, (clipped - batch.value_target).square())
    value_loss = error.mean(-1)

    entropy = new.entropy().mean(-1)
    total = policy_loss + c.value_coef[:, 0] * value_loss - c.entropy_coef[:, 0] * entropy
    return {"loss": total, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def minibatch_step(pack: Pack, batch: Batch, c: Coefficients, rate: Tensor, epsilon: Tensor) -> None:
    """One Adam step of every run, in place. The sum over runs asks for all gradients at once: a run's parameters meet
    its own loss alone."""
    # Compiled code must make its own views: handed tensors that share memory, it copies them all.
    leaves = pack.leaves
    if torch.compiler.is_compiling():
        leaves = {name: view.detach().requires_grad_() for name, view in pack.network.views(pack.flat).items()}
    total = loss(pack, leaves, batch, c)["loss"].sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    pack.adam.move(pack.network.flatten(gradients), rate, epsilon)


def update(pack: Pack, rollout: Rollout) -> dict[str, np.ndarray]:
    """One update of every run; returns its diagnostics, (R,) float64 each.

    Losses, KL, ratio and entropy are measured after the last epoch over the whole rollout, under the update's own
    filter statistics. Also moves the observation filter (`per_rollout`), and the adaptive β for the *next* update.
    """
    advantage, value_target, values = estimate_advantages(pack, rollout)
    observations = merged(rollout.observations)
    pack.filter.see_rollout(observations)
    # ppo1 recomputes the old policy and value under the new statistics, so the first ratio is exactly 1.
    x = pack.filter.normalise(observations) if pack.filter.when == "per_rollout" else merged(rollout.x)
    whole = whole_rollout(pack, x, merged(rollout.actions), advantage, value_target)
    coefficients, stepsize = scheduled(pack)

    before = pack.flat.clone()
    step = variant(minibatch_step, pack.numerics)
    for batch in minibatches(pack, whole):
        bias, epsilon = pack.adam.next_step()
        step(pack, batch, coefficients, stepsize * bias, epsilon)

    metrics = diagnostics(pack, whole, coefficients)
    metrics["update_norm"] = torch.linalg.vector_norm(pack.flat - before, dim=1).cpu().numpy()
    metrics["explained_variance"] = explained_variance(values, value_target)
    metrics["stepsize"] = annealed(pack, "stepsize")[:, 0]
    metrics["epsilon"] = annealed(pack, "epsilon")[:, 0]
    metrics["beta"] = pack.beta[:, 0].copy()
    for name, rows in pack.objective_rows():
        if name == "kl_adaptive":
            kl = metrics["kl"][rows, None]
            pack.beta[rows] = objectives.adapt_beta(pack.beta[rows], kl, pack.column("kl_target")[rows])
    pack.alive &= torch.isfinite(pack.flat).all(dim=1).cpu().numpy()
    return {name: values.astype(np.float64) for name, values in metrics.items()}


def whole_rollout(
    pack: Pack, x: np.ndarray, actions: np.ndarray, advantage: np.ndarray, value_target: np.ndarray
) -> Batch:
    """The rollout as one batch, (R, N·T), with π_θold and V_θold evaluated once, both under the statistics of `x`."""
    inputs, action = pack.tensor(x), pack.tensor(actions)
    with torch.no_grad():
        policy, old_value = pack.network.policy_and_value(pack.parameters, inputs)
        old = pack.distribution(pack.parameters, policy).map(lambda parameter: parameter.expand_as(policy).clone())
        log_prob = old.log_prob(action)
    return Batch(inputs, action, log_prob, pack.tensor(advantage), pack.tensor(value_target), old, old_value)


def scheduled(pack: Pack) -> tuple[Coefficients, Tensor]:
    """This iteration's coefficients and stepsize."""
    coefficients = Coefficients(
        epsilon=pack.tensor(annealed(pack, "epsilon")),
        beta=pack.tensor(pack.beta),
        value_coef=pack.tensor(pack.column("value_coef")),
        entropy_coef=pack.tensor(pack.column("entropy_coef")),
    )
    return coefficients, pack.tensor(annealed(pack, "stepsize"))


def annealed(pack: Pack, name: str) -> np.ndarray:
    """`stepsize` or `epsilon`, (R, 1), times α where the profile's schedule is linear."""
    linear = getattr(pack.profile, f"{name}_schedule") == "linear"
    return pack.column(name) * (pack.remaining if linear else 1.0)


def minibatches(pack: Pack, whole: Batch) -> Iterator[Batch]:
    """K epochs of N·T/M minibatches; every run shuffles by its own named draw. Gathered once per epoch."""
    profile, runs = pack.profile, len(pack)
    size, count = profile.minibatch_size, profile.steps // profile.minibatch_size
    steps = np.tile(np.arange(profile.steps), (profile.epochs, 1))
    orders = [generator(run.seed, "minibatch", pack.iteration).permuted(steps, axis=1) for run in pack.runs]
    rows = np.stack(orders, axis=1).reshape(profile.epochs, runs, count, size).swapaxes(1, 2)
    rows = rows + profile.steps * np.arange(runs)[:, None]  # (K, count, R, M), into the flattened (R·N·T)
    penalised = any(name.startswith("kl") for name, _ in pack.objective_rows())
    needed = replace(
        whole,
        old=whole.old if penalised else None,
        old_value=whole.old_value if profile.value_clip is not None else None,
    )
    for epoch in torch.from_numpy(rows).to(pack.device):
        index = epoch.flatten()

        def gather(values: Tensor, index: Tensor = index) -> Tensor:
            return values.flatten(0, 1).index_select(0, index).unflatten(0, (count, runs, size))

        shuffled = needed.map(gather)
        if profile.standardise == "minibatch":
            centred = shuffled.advantage - shuffled.advantage.mean(-1, keepdim=True)
            std = shuffled.advantage.std(-1, correction=0, keepdim=True)
            shuffled.advantage = centred / (std + profile.standardise_epsilon)
        for m in range(count):

            def minibatch(values: Tensor, m: int = m) -> Tensor:
                return values[m]

            yield shuffled.map(minibatch)


@torch.no_grad()
def diagnostics(pack: Pack, whole: Batch, coefficients: Coefficients) -> dict[str, np.ndarray]:
    """The updated policy against the old one on the whole rollout, (R,) each.

    kl: exact, KL[π_θold, π_θ]; kl_k1 and kl_k3: the sample estimators −log r and r − 1 − log r
    (http://joschu.net/blog/kl-approx.html); clip_fraction: share of ratios outside 1 ± ε, NaN without ε.
    """
    assert whole.old is not None
    new = pack.distribution(pack.parameters, pack.network.policy(pack.parameters, whole.x))
    log_ratio = new.log_prob(whole.action) - whole.log_prob
    ratio = torch.exp(log_ratio)
    outside = (ratio - 1).abs() > coefficients.epsilon
    parts = loss(pack, pack.parameters, whole, coefficients)
    metrics = {
        "kl": whole.old.kl(new).mean(-1),
        "kl_k1": -log_ratio.mean(-1),
        "kl_k3": (ratio - 1 - log_ratio).mean(-1),
        "clip_fraction": torch.where(coefficients.epsilon[:, 0].isnan(), torch.nan, outside.float().mean(-1)),
        "entropy": parts["entropy"],
        "policy_loss": parts["policy_loss"],
        "value_loss": parts["value_loss"],
    }
    if "log_std" in pack.parameters:
        metrics["std"] = torch.exp(pack.parameters["log_std"]).mean((1, 2))
    return {name: values.cpu().numpy() for name, values in metrics.items()}


def explained_variance(values: np.ndarray, value_target: np.ndarray) -> np.ndarray:
    """1 − Var[target − V] / Var[target] per run, (R,): 1 is perfect, 0 no better than the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (value_target - values).var(axis=-1) / value_target.var(axis=-1)
