"""Trust region policy optimisation (arXiv:1502.05477, appendix C): one natural-gradient step per run and rollout.

The step s solves F s = g by conjugate gradients, F the Fisher matrix of the policy (the Hessian of the mean KL at
θ = θ_old), and is as long as ½ sᵀF s = δ allows; a line search halves it until the surrogate has not fallen and the
mean KL is acceptable. All runs of a pack go through it together: each has its own row, and stops by a mask.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppo import objectives
from ppo.pack import Pack
from ppo.policies import Distribution

RESIDUAL = 1e-10
"""Squared norm of the residual at which conjugate gradients stop (baselines@d9f194f, common/cg.py)."""


def natural_step(pack: Pack, x: Tensor, action: Tensor, log_prob: Tensor, advantage: Tensor, old: Distribution) -> None:
    """Move every run's policy, in place, or leave it where no step of the line search is accepted.

    x: (R, B, D), action: (R, B, …), log_prob and advantage: (R, B); `old` is π_θold(·|s), (R, B, A).
    """
    algo = pack.algo
    assert algo.cg_iterations and algo.fisher_every and algo.backtracks and algo.kl_accepted
    assert algo.cg_damping is not None

    def surrogate_and_kl(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L^CPI with the entropy bonus, and the mean KL from the old policy: (R,) each."""
        new = pack.distribution(parameters, pack.network.policy(parameters, x))
        gain = objectives.unconstrained(torch.exp(new.log_prob(action) - log_prob), advantage).mean(-1)
        return gain + pack.tensor(pack.column("entropy_coef"))[:, 0] * new.entropy().mean(-1), old.kl(new).mean(-1)

    before, _ = surrogate_and_kl(pack.leaves)
    g = pack.flat_gradient(before.sum())
    sampled = old.map(lambda parameter: parameter[:, :: algo.fisher_every])
    product = fisher_vector_product(pack, x[:, :: algo.fisher_every], sampled, algo.cg_damping)
    direction = conjugate_gradients(product, g, algo.cg_iterations)
    delta = pack.tensor(pack.column("delta"))
    length = torch.sqrt(2 * delta / dot(direction, product(direction)))

    with torch.no_grad():
        start, before = pack.flat.clone(), before.detach()
        accepted = torch.zeros_like(before, dtype=torch.bool)
        for halvings in range(algo.backtracks):
            candidate = start + direction * length * 0.5**halvings
            after, kl = surrogate_and_kl(pack.network.views(candidate))
            good = ~accepted & (after >= before) & (kl <= algo.kl_accepted * delta[:, 0])
            pack.flat[good] = candidate[good]
            accepted |= good
            if accepted.all():
                break


def fisher_vector_product(pack: Pack, x: Tensor, old: Distribution, damping: float) -> Callable[[Tensor], Tensor]:
    """v ↦ (F + damping) v, (R, P) each; F is of the states x (R, B, D) at the present parameters, π_θold = `old`."""
    new = pack.distribution(pack.leaves, pack.network.policy(pack.leaves, x))
    gradient = pack.flat_gradient(old.kl(new).mean(-1).sum(), create_graph=True)

    def product(v: Tensor) -> Tensor:
        return pack.flat_gradient((gradient * v).sum(), retain_graph=True) + damping * v

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
