"""What an update minimises (eq. 9) and its gradients: each run's objective, the value loss, their sum.

Losses take networks, batches and numbers: they can be tried without environments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppo.actor_critic import ActorCritic, Views
from ppo.declarations import Objective
from ppo.policies import Distribution

Rows = Sequence[tuple[Objective, slice]]
"""Each objective present in a pack, and the rows of its runs."""


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
    """This iteration's numbers, (R, 1) each; NaN where a run has none."""

    settings: dict[str, Tensor]  # of the objectives, by name
    value_coef: Tensor
    value_clip: Tensor  # NaN: none
    entropy_coef: Tensor
    count: int  # N·T, env steps of a run in a rollout


@dataclass
class Seen:
    """What the objective of some rows may read of its batch."""

    batch: Batch
    new: Distribution  # π_θ(·|s_t)
    log_prob: Tensor  # log π_θ(a_t|s_t)
    log_ratio: Tensor  # log r_t(θ)
    count: int


QUANTITIES: dict[str, Callable[[Seen], object]] = {
    "advantage": lambda seen: seen.batch.advantage,  # Â_t
    "ratio": lambda seen: torch.exp(seen.log_ratio),  # r_t(θ)
    "log_ratio": lambda seen: seen.log_ratio,
    "log_prob": lambda seen: seen.log_prob,
    "kl": lambda seen: seen.batch.old.kl(seen.new),  # type: ignore[union-attr]  # KL[π_θold(·|s_t), π_θ(·|s_t)]
    "action": lambda seen: seen.batch.action,
    "old": lambda seen: seen.batch.old,  # π_θold(·|s_t)
    "new": lambda seen: seen.new,
    "average": lambda seen: seen.batch.average,  # the average policy's distribution
    "trajectory": lambda seen: seen.batch.trajectory,  # the number of each sample's trajectory, below …
    "count": lambda seen: seen.count,  # … this
}
"""What an objective may read, by the name of its function's parameter: (R, B) each, or a distribution."""


def check_reads(objective: Objective) -> None:
    """Raise TypeError for an objective that has nothing to maximise, or reads what there is not."""
    if objective.function is None:
        raise TypeError(f"objective {objective.name} has no function to maximise")
    settings = {setting.name for setting in objective.settings if setting.per_run}
    if unknown := sorted(set(objective.reads) - QUANTITIES.keys() - settings):
        raise TypeError(
            f"objective {objective.name} reads {', '.join(unknown)}: neither one of {', '.join(QUANTITIES)}, nor a "
            "setting of its own with per_run=True"
        )


def rows_of(objectives: Sequence[Objective]) -> Rows:
    """Each objective present and its rows, from those of a pack's runs, where equal ones stand together."""
    return [(each, slice(start := objectives.index(each), start + objectives.count(each)))
            for each in dict.fromkeys(objectives)]  # fmt: skip


def surrogate(objectives: Rows, batch: Batch, new: Distribution, c: Coefficients) -> Tensor:
    """Each run's objective on its own rows, (R, B). A run meets no KL and no ratio that its objective does not read:
    where they overflow, its gradient of 0 there would become 0·∞."""
    log_probs = new.log_prob(batch.action)
    log_ratios = log_probs - batch.log_prob
    parts = []
    for objective, rows in objectives:
        assert objective.function is not None
        seen = Seen(batch.rows(rows), new.rows(rows), log_probs[rows], log_ratios[rows], c.count)
        arguments = {
            name: QUANTITIES[name](seen) if name in QUANTITIES else c.settings[name][rows] for name in objective.reads
        }
        parts.append(objective.function(**arguments))
    return torch.cat(parts)


def policy_loss(objectives: Rows, new: Distribution, batch: Batch, c: Coefficients) -> tuple[Tensor, Tensor]:
    """−L of the objective, and the entropy: (R,) each."""
    return -surrogate(objectives, batch, new, c).mean(-1), new.entropy().mean(-1)


def value_loss(value: Tensor, batch: Batch, c: Coefficients) -> Tensor:
    """L^VF (section 5, eq. 9), (R,); clipped where the batch has the old value."""
    error = (value - batch.value_target).square()
    if batch.old_value is not None:
        clipped = batch.old_value + torch.clamp(value - batch.old_value, -c.value_clip, c.value_clip)
        error = torch.maximum(error, (clipped - batch.value_target).square())
    return error.mean(-1)


def loss(objectives: Rows, new: Distribution, value: Tensor, batch: Batch, c: Coefficients) -> dict[str, Tensor]:
    """−L^{CLIP+VF+S} (section 5, eq. 9) and its parts, one number per run: (R,) each; `new` and `value` are what the
    networks say of the batch, π_θ(·|s_t) and V_θ(s_t), (R, B)."""
    of_policy, entropy = policy_loss(objectives, new, batch, c)
    of_value = value_loss(value, batch, c)
    total = of_policy + c.value_coef[:, 0] * of_value - c.entropy_coef[:, 0] * entropy
    return {"loss": total, "policy_loss": of_policy, "value_loss": of_value, "entropy": entropy}


def joint_gradient(model: ActorCritic, leaves: Views, rows: Rows, batch: Batch, c: Coefficients) -> Tensor:
    """∂/∂θ of every run's loss, (R, P). The sum over runs asks for all gradients at once: a run's parameters meet its
    own loss alone."""
    output, value = model.network.policy_and_value(leaves, batch.x)
    total = loss(rows, model.distribution(leaves, output), value, batch, c)["loss"].sum()
    return model.network.flatten(torch.autograd.grad(total, list(leaves.values())))


def value_gradient(model: ActorCritic, leaves: Views, batch: Batch, c: Coefficients) -> Tensor:
    """∂/∂θ of every run's value loss, (R, P); 0 for the policy's parameters."""
    total = (c.value_coef[:, 0] * value_loss(model.network.value(leaves, batch.x), batch, c)).sum()
    of_value = [name for name in leaves if name.startswith("value.")]
    found = dict(zip(of_value, torch.autograd.grad(total, [leaves[name] for name in of_value]), strict=True))
    return model.network.flatten(
        found[name] if name in found else torch.zeros_like(leaf) for name, leaf in leaves.items()
    )


def policy_gradient(model: ActorCritic, leaves: Views, rows: Rows, batch: Batch, c: Coefficients) -> Tensor:
    """∂/∂θ of every run's policy loss with its entropy bonus, (R, P); 0 for the critic's own parameters."""
    of_policy, entropy = policy_loss(rows, model.policy(leaves, batch.x), batch, c)
    return model.network.gradient(leaves, (of_policy - c.entropy_coef[:, 0] * entropy).sum())
