"""Trust region policy optimisation (arXiv:1502.05477, appendix C): one natural-gradient step per run and rollout.

The step s solves F s = g by conjugate gradients, F the Fisher matrix of the policy (the Hessian of the mean KL at
θ = θ_old), and is as long as ½ sᵀF s = δ allows; a line search halves it until the surrogate has not fallen and the
mean KL is acceptable. All runs of a pack go through it together: each has its own row, and stops by a mask.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppo import objectives
from ppo.losses import Batch, Coefficients
from ppo.pack import Pack
from ppo.policies import Distribution

RESIDUAL = 1e-10
"""Squared norm of the residual at which conjugate gradients stop (baselines@d9f194f, common/cg.py)."""


def natural_step(pack: Pack, whole: Batch, c: Coefficients) -> None:
    """Move every run's policy, in place, or leave it where no step of the line search is accepted."""
    algo, x, old = pack.algo, whole.x, whole.old
    assert old is not None
    assert algo.cg_iterations and algo.fisher_every and algo.backtracks and algo.kl_accepted
    assert algo.cg_damping is not None

    def surrogate_and_kl(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L^CPI with the entropy bonus, and the mean KL from the old policy: (R,) each."""
        new = pack.distribution(parameters, pack.network.policy(parameters, x))
        ratio = torch.exp(new.log_prob(whole.action) - whole.log_prob)
        gain = objectives.unconstrained(ratio, whole.advantage).mean(-1)
        return gain + c.entropy_coef[:, 0] * new.entropy().mean(-1), old.kl(new).mean(-1)

    before, _ = surrogate_and_kl(pack.leaves)
    g = pack.network.gradient(pack.leaves, before.sum())
    sampled = old.map(lambda parameter: parameter[:, :: algo.fisher_every])
    product = fisher_vector_product(pack, x[:, :: algo.fisher_every], sampled, algo.cg_damping)
    direction = conjugate_gradients(product, g, algo.cg_iterations)
    length = torch.sqrt(2 * c.settings["delta"] / dot(direction, product(direction)))

    with torch.no_grad():
        start, before = pack.flat.clone(), before.detach()
        accepted = torch.zeros_like(before, dtype=torch.bool)
        for halvings in range(algo.backtracks):
            candidate = start + direction * length * 0.5**halvings
            after, kl = surrogate_and_kl(pack.network.views(candidate))
            good = ~accepted & (after >= before) & (kl <= algo.kl_accepted * c.settings["delta"][:, 0])
            pack.flat[good] = candidate[good]
            accepted |= good
            if accepted.all():
                break


def fisher_vector_product(pack: Pack, x: Tensor, old: Distribution, damping: float) -> Callable[[Tensor], Tensor]:
    """v ↦ (F + damping) v, (R, P) each; F is of the states x (R, B, D) at the present parameters, π_θold = `old`."""
    new = pack.distribution(pack.leaves, pack.network.policy(pack.leaves, x))
    gradient = pack.network.gradient(pack.leaves, old.kl(new).mean(-1).sum(), create_graph=True)

    def product(v: Tensor) -> Tensor:
        return pack.network.gradient(pack.leaves, (gradient * v).sum(), retain_graph=True) + damping * v

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
