"""Trust region policy optimisation (arXiv:1502.05477, appendix C): one natural-gradient step per run and rollout.

The step s solves F s = g by conjugate gradients, F the Fisher matrix of the policy (the Hessian of the mean KL at
θ = θ_old), and is as long as ½ sᵀF s = δ allows; a line search halves it until the surrogate has not fallen and the
mean KL is acceptable. All runs of a pack go through it together: each has its own row, and stops by a mask.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppo.actor_critic import ActorCritic, Views
from ppo.declarations import Objective, Setting
from ppo.losses import Batch, Coefficients
from ppo.objectives import DELTA, unconstrained
from ppo.policies import Distribution
from ppo.refusals import UserError
from ppo.surrogate import Surrogate

if TYPE_CHECKING:
    from ppo.config import Algo, RunConfig

RESIDUAL = 1e-10
"""Squared norm of the residual at which conjugate gradients stop (baselines@d9f194f, common/cg.py)."""


class TrustRegion(Surrogate):
    """R runs whose policies take a natural-gradient step per rollout; the critic's fit is the surrogates'."""

    def move_policy(self, whole: Batch, c: Coefficients, stepsize: Tensor) -> None:
        natural_step(self.model, self.flat, whole, c, self.algo)


def natural_step(model: ActorCritic, flat: Tensor, whole: Batch, c: Coefficients, algo: "Algo") -> None:
    """Move every run's policy, in place, or leave it where no step of the line search is accepted."""
    x, old, leaves = whole.x, whole.old, model.leaves(flat)
    assert old is not None

    def surrogate_and_kl(views: Views) -> tuple[Tensor, Tensor]:
        """L^CPI with the entropy bonus, and the mean KL from the old policy: (R,) each."""
        new = model.policy(views, x)
        ratio = torch.exp(new.log_prob(whole.action) - whole.log_prob)
        gain = unconstrained(ratio, whole.advantage).mean(-1)
        return gain + c.entropy_coef[:, 0] * new.entropy().mean(-1), old.kl(new).mean(-1)

    before, _ = surrogate_and_kl(leaves)
    g = model.network.gradient(leaves, before.sum())
    sampled = old.map(lambda parameter: parameter[:, :: algo.fisher_every])
    product = fisher_vector_product(model, leaves, x[:, :: algo.fisher_every], sampled, algo.cg_damping)
    direction = conjugate_gradients(product, g, algo.cg_iterations)
    length = torch.sqrt(2 * c.settings["delta"] / dot(direction, product(direction)))

    with torch.no_grad():
        start, before = flat.clone(), before.detach()
        accepted = torch.zeros_like(before, dtype=torch.bool)
        for halvings in range(algo.backtracks):
            candidate = start + direction * length * 0.5**halvings
            after, kl = surrogate_and_kl(model.network.views(candidate))
            good = ~accepted & (after >= before) & (kl <= algo.kl_accepted * c.settings["delta"][:, 0])
            flat[good] = candidate[good]
            accepted |= good
            if accepted.all():
                break


def fisher_vector_product(
    model: ActorCritic, leaves: Views, x: Tensor, old: Distribution, damping: float
) -> Callable[[Tensor], Tensor]:
    """v ↦ (F + damping) v, (R, P) each; F is of the states x (R, B, D) at the present parameters, π_θold = `old`."""
    gradient = model.network.gradient(leaves, old.kl(model.policy(leaves, x)).mean(-1).sum(), create_graph=True)

    def product(v: Tensor) -> Tensor:
        return model.network.gradient(leaves, (gradient * v).sum(), retain_graph=True) + damping * v

    return product


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with product(x) ≈ b, row by row: (R, P). A row whose residual is small enough stays as it is."""
    x, residual, p = torch.zeros_like(b), b.clone(), b.clone()
    square = dot(residual, residual)
    for _ in range(iterations):
        active = square >= RESIDUAL
        if not active.any():
            break
        z = product(p)
        step = square / dot(p, z)
        x = torch.where(active, x + step * p, x)
        residual = torch.where(active, residual - step * z, residual)
        following = dot(residual, residual)
        p = torch.where(active, residual + following / square * p, p)
        square = torch.where(active, following, square)
    return x


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row: (R, P) each → (R, 1)."""
    return (a * b).sum(1, keepdim=True)


def check(run: "RunConfig") -> None:
    """Raise UserError where the critic would move with the policy."""
    if run.profile.value_fit != "separate":
        raise UserError("algo.objective=trust_region moves the policy alone; it needs profile.value_fit=separate")


TRUST_REGION = Objective(
    "trust_region",
    unconstrained,
    (
        DELTA,
        Setting("kl_accepted", "the line search accepts a mean KL up to this times δ", "above 0"),
        Setting("backtracks", "step lengths tried, each half the last", "above 0", int),
        Setting("cg_iterations", "of conjugate gradients", "above 0", int),
        Setting("cg_damping", "added to the Fisher matrix's diagonal", "at least 0"),
        Setting("fisher_every", "Fisher products use every n-th sample, n this", "above 0", int),
    ),
    label="delta",
    check=check,
)
