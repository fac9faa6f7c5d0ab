"""Spread and bias of a gradient estimate from independent blocks of episodes, freed from the bias of finite samples.

A sample's mean is longer than the expected gradient, since noise has a length too. Products of the means of *different*
blocks are free of that: ⟨E a, E b⟩ is estimated by the mean of ⟨a_i, b_j⟩ over i ≠ j. Standard errors are the
jackknife's, over blocks (Efron and Stein 1981).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BATCH = 2048  # env steps that an estimate is made of; Table 3's horizon


@dataclass
class Blocks:
    """Of B blocks, equally many episodes each: the mean gradient, its mean squared length, the mean episode length."""

    gradients: np.ndarray  # (B, P) float64
    squares: np.ndarray  # (B,)
    env_steps: np.ndarray  # (B,)


def facts(estimate: Blocks, reference: Blocks, discounted: Blocks, known: Blocks | None = None) -> dict[str, float]:
    """An estimate ĝ against the true gradient g, as `reference` expects it, each number with its standard error; blocks
    of the same number are independent of all others, and may be of the same episodes. `known` expects, in theory, the
    same as ĝ, with less noise.

    gradient_norm  ‖g‖
    relative_std   √tr Cov ĝ / ‖g‖ of a batch of 2048 env steps
    squared_bias   ‖E ĝ − g‖² / ‖g‖²
    share          ⟨E ĝ, g⟩ / ‖g‖²: how long ĝ is along g
    noise          relative_std of ĝ / share; the share is that of `known`, if there is one
    squared_turn   squared_bias of ĝ / share: what no stepsize mends, tan² of the angle between E ĝ and g
    squared_turn_discounted   the same against what `discounted` expects

    Squares can come out a little below 0 where there is no bias.
    """
    sides = [side.gradients for side in (estimate, reference, discounted, known or estimate)]
    gram = np.array([[a @ b.T for b in sides] for a in sides])

    def of(kept: np.ndarray) -> np.ndarray:
        inner = products(gram[..., kept[:, None], kept])
        (own, along, towards), true, that = inner[0, :3], inner[1, 1], inner[2, 2]
        spread = (estimate.squares[kept].mean() - inner[3, 3]) * estimate.env_steps[kept].mean() / BATCH
        with np.errstate(invalid="ignore"):  # roots of what noise alone makes negative are NaN
            relative_std = np.sqrt(spread / true)
            return np.array([
                np.sqrt(true), relative_std, (own - 2 * along + true) / true, along / true,
                relative_std * true / inner[3, 1], own * true / along**2 - 1, own * that / towards**2 - 1,
            ])  # fmt: skip

    names = (
        "gradient_norm", "relative_std", "squared_bias", "share", "noise", "squared_turn", "squared_turn_discounted",
    )  # fmt: skip
    values, errors = jackknife(of, gram.shape[-1])
    both = zip(names, values, errors, strict=True)
    return {column: float(x) for name, value, se in both for column, x in ((name, value), (f"{name}_se", se))}


def products(gram: np.ndarray) -> np.ndarray:
    """⟨E a, E b⟩ of all pairs of S sides, (S, S), from the products of their block means, (S, S, B, B)."""
    blocks = gram.shape[-1]
    same = np.trace(gram, axis1=-2, axis2=-1)
    return (gram.sum(axis=(-2, -1)) - same) / (blocks * (blocks - 1))


def jackknife(statistic: Callable[[np.ndarray], np.ndarray], blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of the blocks whose numbers it is given, and its standard error from leaving out one at a time."""
    every = np.arange(blocks)
    without = np.stack([statistic(np.delete(every, block)) for block in every])
    return statistic(every), np.sqrt((blocks - 1) * without.var(axis=0))
