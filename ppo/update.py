"""Optimisation: K epochs of minibatch steps on the surrogate (Algorithm 1), for every run of a pack at once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ppo import objectives
from ppo.config import SETTINGS
from ppo.declarations import arguments
from ppo.losses import Batch, Coefficients, loss, policy_loss, value_loss
from ppo.numerics import variant
from ppo.pack import Pack
from ppo.randomness import generator
from ppo.rollout import Rollout
from ppo.trust_region import natural_step


def estimate_advantages(pack: Pack, rollout: Rollout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Advantages, value targets and old values, (R, N·T) float64 each, under the statistics of the rollout."""
    rewards = pack.reward_scale.scale(rollout.rewards, rollout.ended)
    terminated = rollout.ended if pack.profile.time_limit == "terminal" else rollout.terminated
    segment = pack.profile.segment or pack.profile.horizon
    values, next_values, rewards, terminated, ended = (
        array.reshape(len(pack), -1, segment)
        for array in (*old_values(pack, rollout), rewards, terminated, rollout.ended)
    )
    estimator = pack.algo.estimator
    known = {
        "rewards": rewards, "values": values, "next_values": next_values, "terminated": terminated, "ended": ended,
        "gamma": pack.column("gamma")[..., None],
        **{name: pack.settings[name][..., None] if SETTINGS[name].per_run else getattr(pack.algo, name)
           for name in (setting.name for setting in estimator.settings)},
    }  # fmt: skip
    estimate = estimator.function(**arguments(estimator.function, known))
    advantage, value_target, values = map(merged, (*estimate, values))
    at_once = pack.profile.value_fit == "separate"  # the policy's one minibatch is the whole rollout
    if pack.profile.standardise == "rollout" or (at_once and pack.profile.standardise == "minibatch"):
        advantage = standardised(advantage, pack.profile.standardise_epsilon)
    return advantage, value_target, values


def old_values(pack: Pack, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """V_θold of x and of next_x, (R, N, T) float64 each. Frames are dear: where no final observation is worth anything,
    a step's next value is the next step's."""
    values = values_of(pack, rollout.x)
    if not pack.spaces.frames or pack.profile.time_limit == "bootstrap":
        return values, values_of(pack, rollout.next_x)
    return values, np.concatenate([values[:, :, 1:], values_of(pack, rollout.next_x[:, :, -1:])], axis=2)


def values_of(pack: Pack, x: np.ndarray) -> np.ndarray:
    """V_θold of a rollout's inputs, (R, N, T, …) → (R, N, T) float64."""
    with torch.no_grad():
        pieces = [pack.network.value(pack.parameters, piece) for piece in in_pieces(pack, pack.tensor(merged(x)))]
    return torch.cat(pieces, dim=1).cpu().numpy().astype(np.float64).reshape(x.shape[:3])


FRAMES_AT_ONCE = 256  # more of them would only take more memory


def in_pieces(pack: Pack, inputs: Tensor) -> tuple[Tensor, ...]:
    """A whole rollout's inputs, (R, N·T, …), as they pass a network without gradients: numbers at once, frames not."""
    return inputs.split(FRAMES_AT_ONCE if pack.spaces.frames else inputs.shape[1], dim=1)


def whole_outputs(pack: Pack, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Policies and values of a whole rollout, (R, N·T, A) and (R, N·T), no gradients."""
    outputs = [pack.network.policy_and_value(pack.parameters, piece) for piece in in_pieces(pack, inputs)]
    policies, values = zip(*outputs, strict=True)
    return torch.cat(policies, dim=1), torch.cat(values, dim=1)


def merged(array: np.ndarray) -> np.ndarray:
    """(R, N, T, …) → (R, N·T, …): all that a run has seen, one actor after another."""
    return array.reshape(len(array), -1, *array.shape[3:])


def standardised(advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the last axis."""
    mean, std = advantage.mean(axis=-1, keepdims=True), advantage.std(axis=-1, keepdims=True)
    return (advantage - mean) / (std + epsilon)


def minibatch_step(pack: Pack, batch: Batch, c: Coefficients, rate: Tensor, epsilon: Tensor) -> None:
    """One step of every run on the joint loss, in place. The sum over runs asks for all gradients at once: a run's
    parameters meet its own loss alone."""
    leaves = fresh_leaves(pack)
    policy, value = pack.network.policy_and_value(leaves, batch.x)
    total = loss(pack.objective_rows(), pack.distribution(leaves, policy), value, batch, c)["loss"].sum()
    gradients = torch.autograd.grad(total, list(leaves.values()))
    pack.optimisers[0].move(pack.network.flatten(gradients), rate, epsilon)


def value_step(pack: Pack, batch: Batch, c: Coefficients, rate: Tensor, epsilon: Tensor) -> None:
    """One step of every run's value network alone, in place."""
    leaves = fresh_leaves(pack)
    total = (c.value_coef[:, 0] * value_loss(pack.network.value(leaves, batch.x), batch, c)).sum()
    of_value = [name for name in leaves if name.startswith("value.")]
    found = dict(zip(of_value, torch.autograd.grad(total, [leaves[name] for name in of_value]), strict=True))
    gradients = [found[name] if name in found else torch.zeros_like(leaf) for name, leaf in leaves.items()]
    pack.optimisers[1].move(pack.network.flatten(gradients), rate, epsilon)


def fresh_leaves(pack: Pack) -> dict[str, Tensor]:
    """The parameters to differentiate by. Compiled code must make its own views: handed tensors that share memory, it
    copies them all."""
    if not torch.compiler.is_compiling():
        return pack.leaves
    return {name: view.detach().requires_grad_() for name, view in pack.network.views(pack.flat).items()}


def policy_step(pack: Pack, whole: Batch, c: Coefficients, stepsize: Tensor) -> None:
    """The one step of every run's policy on the whole rollout, in place (profile.value_fit=separate)."""
    if pack.algo.declared.learner == "trust_region":
        natural_step(pack, whole, c)
        return
    new = pack.distribution(pack.leaves, pack.network.policy(pack.leaves, whole.x))
    of_policy, entropy = policy_loss(pack.objective_rows(), new, whole, c)
    bias, epsilon = pack.optimisers[0].next_step()
    gradient = pack.network.gradient(pack.leaves, (of_policy - c.entropy_coef[:, 0] * entropy).sum())
    pack.optimisers[0].move(gradient, stepsize * bias, epsilon)


def update(pack: Pack, rollout: Rollout) -> dict[str, np.ndarray]:
    """One update of every run; returns its diagnostics, (R,) float64 each: none for a policy that does not learn.

    Losses, KL, ratio and entropy are measured after the last epoch over the whole rollout, under the update's own
    filter statistics. Also moves the observation filter (`per_rollout`), and what adapts for the *next* update.
    """
    if pack.search is not None:  # it learns where episodes end, in `collect`
        return {"std": np.array([pack.search.std(run).mean() for run in range(len(pack))])}
    if not pack.algo.learns:
        return {}
    advantage, value_target, values = estimate_advantages(pack, rollout)
    observations = merged(rollout.observations)
    pack.filter.see_rollout(observations)
    # ppo1 recomputes the old policy and value under the new statistics, so the first ratio is exactly 1.
    x = pack.filter.normalise(observations) if pack.filter.when == "per_rollout" else merged(rollout.x)
    whole = whole_rollout(pack, x, rollout, advantage, value_target)
    coefficients, stepsize = scheduled(pack)

    before = pack.flat.clone()
    if pack.profile.value_fit == "joint":
        step, optimiser = minibatch_step, pack.optimisers[0]
    else:
        policy_step(pack, whole, coefficients, stepsize)
        step, optimiser = value_step, pack.optimisers[1]
        if pack.profile.value_stepsize is not None:
            stepsize = torch.full_like(stepsize, pack.profile.value_stepsize)
    step = variant(step, pack.numerics)
    for batch in minibatches(pack, whole):
        bias, epsilon = optimiser.next_step()
        step(pack, batch, coefficients, stepsize * bias, epsilon)

    metrics = diagnostics(pack, whole, coefficients)
    metrics["update_norm"] = torch.linalg.vector_norm(pack.flat - before, dim=1).cpu().numpy()
    metrics["explained_variance"] = explained_variance(values, value_target)
    metrics["stepsize"] = annealed(pack, "stepsize")[:, 0]
    metrics["epsilon"] = annealed(pack, "epsilon")[:, 0]
    metrics["beta"] = pack.settings["beta"][:, 0].copy()
    adapt(pack, metrics["kl"][:, None])
    pack.alive &= torch.isfinite(pack.flat).all(dim=1).cpu().numpy()
    return {name: values.astype(np.float64) for name, values in metrics.items()}


def adapt(pack: Pack, kl: np.ndarray) -> None:
    """What the next update takes from this one's mean KL, (R, 1): β, the stepsize, the average policy."""
    for objective, rows in pack.objective_rows():
        if objective.adapt is not None:
            known = {name: column[rows] for name, column in pack.settings.items()} | {"kl": kl[rows]}
            for name, column in objective.adapt(**arguments(objective.adapt, known)).items():
                pack.settings[name][rows] = column
    if pack.profile.stepsize_kl_target is not None:
        pack.stepsize = objectives.adapt_stepsize(pack.stepsize, kl, pack.profile.stepsize_kl_target)
    if pack.average is not None and pack.algo.average_decay is not None:
        pack.average.lerp_(pack.flat, 1 - pack.algo.average_decay)


def whole_rollout(
    pack: Pack, x: np.ndarray, rollout: Rollout, advantage: np.ndarray, value_target: np.ndarray
) -> Batch:
    """The rollout as one batch, (R, N·T), with π_θold and V_θold evaluated once, both under the statistics of `x`."""
    inputs, action = pack.tensor(x), pack.tensor(merged(rollout.actions))
    with torch.no_grad():
        policy, old_value = whole_outputs(pack, inputs)
        old = pack.distribution(pack.parameters, policy).map(lambda parameter: parameter.expand_as(policy).clone())
        log_prob = old.log_prob(action)
        average = None
        if pack.average is not None:
            parameters = pack.network.views(pack.average)
            outputs = [pack.network.policy(parameters, piece) for piece in in_pieces(pack, inputs)]
            of_average = pack.distribution(parameters, torch.cat(outputs, dim=1))
            average = of_average.map(lambda parameter: parameter.expand_as(policy).clone())
    trajectory = None
    if "trajectory" in read_by(pack):
        trajectory = pack.tensor(trajectories(rollout.ended, pack.profile.segment or pack.profile.horizon))
    targets = pack.tensor(advantage), pack.tensor(value_target)
    clipped = pack.profile.value_clip is not None
    return Batch(inputs, action, log_prob, *targets, old, old_value if clipped else None, average, trajectory)


def trajectories(ended: np.ndarray, segment: int) -> np.ndarray:
    """The number of each step's trajectory in its run, (R, N·T) from (R, N, T): episodes and segments end it."""
    last = ended.copy()
    last[..., segment - 1 :: segment] = True
    last = merged(last)
    return np.cumsum(last, axis=-1) - last


def scheduled(pack: Pack) -> tuple[Coefficients, Tensor]:
    """This iteration's coefficients and stepsize."""
    coefficients = Coefficients(
        settings={name: pack.tensor(annealed(pack, name)) for name in pack.settings},
        value_coef=pack.tensor(pack.column("value_coef")),
        value_clip=pack.tensor(annealed(pack, "value_clip")),
        entropy_coef=pack.tensor(pack.column("entropy_coef")),
        count=pack.profile.batch,
    )
    return coefficients, pack.tensor(annealed(pack, "stepsize"))


def annealed(pack: Pack, name: str) -> np.ndarray:
    """`stepsize`, `value_clip` or a setting of the objectives, (R, 1), times α where its schedule is linear."""
    if name == "stepsize":
        start, schedule = pack.stepsize, pack.profile.stepsize_schedule
    elif name in SETTINGS:
        start, schedule = pack.settings[name], pack.profile.epsilon_schedule if SETTINGS[name].annealed else "constant"
    else:
        start, schedule = pack.column(name), pack.profile.epsilon_schedule
    return start * (pack.remaining if schedule == "linear" else 1.0)


def read_by(pack: Pack) -> set[str]:
    """What the objectives of the pack read."""
    return {name for objective, _ in pack.objective_rows() for name in objective.reads}


def minibatches(pack: Pack, whole: Batch) -> Iterator[Batch]:
    """K epochs of N·T/M minibatches; every run shuffles its steps (or segments) by its own named draw. Gathered once
    per epoch."""
    profile, runs, unit = pack.profile, len(pack), pack.profile.segment or 1
    size, count = profile.minibatch_size, profile.batch // profile.minibatch_size
    units = np.tile(np.arange(profile.batch // unit), (profile.epochs, 1))
    orders = [generator(run.seed, "minibatch", pack.rollout).permuted(units, axis=1) for run in pack.runs]
    steps = np.stack(orders, axis=1)[..., None] * unit + np.arange(unit)
    rows = steps.reshape(profile.epochs, runs, count, size).swapaxes(1, 2)
    rows = rows + profile.batch * np.arange(runs)[:, None]  # (K, count, R, M), into the flattened (R·N·T)
    needed = replace(whole, old=whole.old if read_by(pack) & {"kl", "old"} else None)
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
    policy, value = whole_outputs(pack, whole.x)
    new = pack.distribution(pack.parameters, policy)
    log_ratio = new.log_prob(whole.action) - whole.log_prob
    ratio = torch.exp(log_ratio)
    epsilon = coefficients.settings["epsilon"]
    outside = (ratio - 1).abs() > epsilon
    parts = loss(pack.objective_rows(), new, value, whole, coefficients)
    metrics = {
        "kl": whole.old.kl(new).mean(-1),
        "kl_k1": -log_ratio.mean(-1),
        "kl_k3": (ratio - 1 - log_ratio).mean(-1),
        "clip_fraction": torch.where(epsilon[:, 0].isnan(), torch.nan, outside.float().mean(-1)),
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
