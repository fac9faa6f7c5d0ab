"""What an update minimises: the batch it reads, the objective of each run's rows, the value loss, their sum (eq. 9)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ppo import objectives
from ppo.pack import Pack
from ppo.policies import Distribution


@dataclass
class Batch:
    """What the loss reads: leading axes (R, B), (R, N·T) for the whole rollout; x is (R, B, D). `old` is π_θold(·|s_t),
    `old_value` V_θold(s_t) where values are clipped, `average` the average policy's distribution, `trajectory` which of
    its run's trajectories a sample belongs to; a minibatch leaves out what no run of its pack asks for."""

    x: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    value_target: Tensor
    old: Distribution | None
    old_value: Tensor | None
    average: Distribution | None = None
    trajectory: Tensor | None = None

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
            None if self.average is None else self.average.map(f),
            None if self.trajectory is None else f(self.trajectory),
        )

    def rows(self, rows: slice) -> "Batch":
        return self.map(lambda tensor: tensor[rows])


@dataclass
class Coefficients:
    """This iteration's numbers, (R, 1) each."""

    epsilon: Tensor
    beta: Tensor
    value_coef: Tensor
    value_clip: Tensor  # NaN: none
    entropy_coef: Tensor
    delta: Tensor


def surrogate(pack: Pack, batch: Batch, new: Distribution, c: Coefficients) -> Tensor:
    """Each run's objective on its own rows, (R, B). A run meets no KL and no ratio that its objective does not read:
    where they overflow, its gradient of 0 there would become 0·∞."""
    log_probs = new.log_prob(batch.action)
    log_ratios = log_probs - batch.log_prob
    parts = []
    for name, rows in pack.objective_rows():
        ours, policy = batch.rows(rows), new.rows(rows)
        advantage, epsilon, beta, delta = ours.advantage, c.epsilon[rows], c.beta[rows], c.delta[rows]
        log_prob, log_ratio = log_probs[rows], log_ratios[rows]
        ratio = torch.exp(log_ratio)
        match name:
            case "clip":
                part = objectives.clip(ratio, advantage, epsilon)
            case "kl_fixed" | "kl_adaptive":
                assert ours.old is not None
                part = objectives.kl_penalty(ratio, advantage, ours.old.kl(policy), beta)
            case "policy_gradient":
                part = objectives.policy_gradient(log_prob, advantage)
            case "trajectory_ratio":
                assert ours.trajectory is not None
                of_run = log_prob, log_ratio, advantage, ours.trajectory
                part = objectives.trajectory_ratio(*of_run, count=pack.profile.batch)
            case "projected":
                assert ours.average is not None
                part = projected(ours.average, policy, ours.action, advantage, delta)
            case _:
                part = objectives.unconstrained(ratio, advantage)
        parts.append(part)
    return torch.cat(parts)


def projected(average: Distribution, new: Distribution, action: Tensor, advantage: Tensor, delta: Tensor) -> Tensor:
    """log π_θ(a_t|s_t)·Â_t, (R, B), whose gradient with respect to the distribution's parameters is projected so that
    the policy does not run away from its average (A2C with a trust region: arXiv:1611.01224, section 3.3)."""
    with torch.enable_grad():
        here = new.map(lambda parameter: parameter.detach().expand(*advantage.shape, -1).clone().requires_grad_())
        gain = objectives.policy_gradient(here.log_prob(action), advantage)
        g = torch.autograd.grad(gain.sum(), here.parameters, retain_graph=True)
        k = torch.autograd.grad(average.kl(here).sum(), here.parameters)
    z = objectives.project(list(g), list(k), delta)
    pairs = zip(z, new.parameters, here.parameters, strict=True)
    return gain.detach() + torch.stack([(each * (moved - fixed.detach())).sum(-1) for each, moved, fixed in pairs]).sum(
        0
    )


def policy_loss(pack: Pack, new: Distribution, batch: Batch, c: Coefficients) -> tuple[Tensor, Tensor]:
    """−L of the objective, and the entropy: (R,) each."""
    return -surrogate(pack, batch, new, c).mean(-1), new.entropy().mean(-1)


def value_loss(value: Tensor, batch: Batch, c: Coefficients) -> Tensor:
    """L^VF (section 5, eq. 9), (R,); clipped where the batch has the old value."""
    error = (value - batch.value_target).square()
    if batch.old_value is not None:
        clipped = batch.old_value + torch.clamp(value - batch.old_value, -c.value_clip, c.value_clip)
        error = torch.maximum(error, (clipped - batch.value_target).square())
    return error.mean(-1)


def loss(pack: Pack, parameters: Mapping[str, Tensor], batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """−L^{CLIP+VF+S} (section 5, eq. 9) and its parts, one number per run: (R,) each."""
    policy, value = pack.network.policy_and_value(parameters, batch.x)
    return loss_of(pack, pack.distribution(parameters, policy), value, batch, c)


def loss_of(pack: Pack, new: Distribution, value: Tensor, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """The same, from what the networks said of the batch: π_θ(·|s_t) and V_θ(s_t), (R, B)."""
    of_policy, entropy = policy_loss(pack, new, batch, c)
    of_value = value_loss(value, batch, c)
    total = of_policy + c.value_coef[:, 0] * of_value - c.entropy_coef[:, 0] * entropy
    return {"loss": total, "policy_loss": of_policy, "value_loss": of_value, "entropy": entropy}
