"""How many seeds it takes to see a difference between two variants, judged by a dataset's own spread.

python -m analysis.power DATASET --variants A B [--environments …] [--difference D] [--alpha 0.05] [--power 0.8]

The test is Welch's, two-sided, per environment and for the mean over environments. Differences are shares of the span
from the random policy to the mean of A, the baseline; with --raw, returns. Both the formula (normal runs) and a
simulation (runs drawn from the dataset's, shifted) are shown: where they disagree, the runs are not normal, and the
simulation is right as far as the dataset has seen the tails.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.dataset import load
from analysis.records import RecordError
from analysis.scores import Raw, normalise, one_kind, raw_scores, references, require_complete
from analysis.statistics import FEW, Array, Scores, mean, welch_test
from experiments.commands import command

MOST = 1000  # seeds; a plan that needs more is no plan
BATCHES, BATCH = 10, 200  # simulated studies: power to within 1 %


class Plan(NamedTuple):
    """What one comparison takes. Seeds are per variant and environment; None is more than `MOST`."""

    difference: float
    runs: int  # the dataset's own, fewest of any cell
    power: float  # with these runs, by the formula
    seeds_by_formula: int | None
    seeds_by_simulation: int | None


def power_by_formula(a: Scores, b: Scores, difference: float, seeds: int, alpha: float = 0.05) -> float:
    """Probability that Welch's test of the mean over environments sees `difference` with so many normal runs per cell,
    their variances those of `a` and `b`: a noncentral t with Satterthwaite's degrees of freedom."""
    variances = np.array([runs.var(ddof=1) for runs in (*a, *b)]) / seeds
    if variances.sum() == 0:
        return float(difference != 0)
    dof = variances.sum() ** 2 / (variances**2 / (seeds - 1)).sum()
    shift = abs(difference) / (np.sqrt(variances.sum()) / len(a))
    critical = stats.t.ppf(1 - alpha / 2, dof)
    return float(stats.nct.sf(critical, dof, shift) + stats.nct.cdf(-critical, dof, shift))


def power_by_simulation(
    a: Scores, b: Scores, difference: float, seeds: int, rng: np.random.Generator, alpha: float = 0.05
) -> float:
    """The same, of runs drawn with replacement from `a` and `b`: each cell's deviations from its mean, stretched to the
    sample variance, `b` shifted by `difference`."""

    def drawn(runs: Array, centre: float) -> Array:
        stretch = np.sqrt(runs.size / (runs.size - 1))
        return centre + stretch * (runs[rng.integers(runs.size, size=(BATCH, seeds))] - runs.mean())

    seen = [
        welch_test([drawn(runs, 0) for runs in a], [drawn(runs, difference) for runs in b]).p < alpha
        for _ in range(BATCHES)
    ]
    return float(np.mean(seen))


def seeds_needed(power_at: Callable[[int], float], power: float) -> int | None:
    """The fewest seeds (from 2) at which a rising power reaches the wanted one; None beyond `MOST`."""
    low, high = 1, 2
    while power_at(high) < power:
        if high == MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return high


def plan(
    a: Scores,
    b: Scores,
    rng: np.random.Generator,
    difference: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Plan:
    """What it takes to see `difference` (default: the observed one) between the means over environments of a and b."""
    wanted = float(mean(b) - mean(a)) if difference is None else difference
    if wanted == 0 or not np.isfinite(wanted):
        raise RecordError(f"a difference of {wanted:g} cannot be seen with any number of seeds")
    runs = min(cell.size for cell in (*a, *b))
    return Plan(
        wanted,
        runs,
        power_by_formula(a, b, wanted, runs, alpha),
        seeds_needed(lambda seeds: power_by_formula(a, b, wanted, seeds, alpha), power),
        seeds_needed(lambda seeds: power_by_simulation(a, b, wanted, seeds, rng, alpha), power),
    )


def plans(
    a: Mapping[str, Array], b: Mapping[str, Array], rng: np.random.Generator, average: bool = True, **wanted: Any
) -> pd.DataFrame:
    """A `plan` for every environment of two variants' scores, and with `average` one for the mean over environments;
    std_a and std_b are over runs, averaged over environments as variances."""
    strata = {environment: ([a[environment]], [b[environment]]) for environment in a}
    if average and len(a) > 1:
        strata["mean over environments"] = (list(a.values()), [b[environment] for environment in a])
    rows = {}
    for name, (x, y) in strata.items():
        spread = [float(np.sqrt(np.mean([runs.var(ddof=1) for runs in cells]))) for cells in (x, y)]
        rows[name] = [*spread, *plan(x, y, rng, **wanted)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["std_a", "std_b", *Plan._fields])


def selected(raw: Raw, variants: Sequence[str], chosen: Sequence[str] | None, in_returns: bool) -> Raw:
    """The variants' scores on the chosen environments, as shares of the first one's span unless `in_returns`."""
    wanted = set(variants) | (set() if in_returns else {"random"})
    if unknown := sorted(wanted - set(raw)):
        raise RecordError(f"no run of {', '.join(unknown)}; there are {', '.join(raw)}")
    if unknown := sorted(set(chosen or ()) - set(raw[variants[0]])):
        raise RecordError(f"no run on {', '.join(unknown)}; there are {', '.join(raw[variants[0]])}")
    cells = {v: {e: runs for e, runs in raw[v].items() if not chosen or e in chosen} for v in sorted(wanted)}
    require_complete(cells, variants, 2)
    if in_returns:
        return cells
    return normalise(cells, references({v: cells[v] for v in (variants[0], "random")}))


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.power", description="Seeds needed to see a difference.")
    parser.add_argument("dataset", type=Path, help="folder of a dataset")
    parser.add_argument(
        "--variants", nargs=2, required=True, metavar=("A", "B"), help="A is the baseline; may be equal"
    )
    parser.add_argument("--environments", nargs="+", help="ids such as Hopper-v4 (default: all)")
    parser.add_argument("--difference", type=float, help="to be seen (default: the observed one)")
    parser.add_argument("--raw", action="store_true", help="differences are returns, not shares of the baseline's span")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of the test")
    parser.add_argument("--power", type=float, default=0.8, help="wanted probability of seeing it")
    parser.add_argument("--profile", help="if the dataset has several")
    parser.add_argument("--code-id", help="if the dataset has several")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    options = parser.parse_args(arguments)
    wanted = {"difference": options.difference, "alpha": options.alpha, "power": options.power}
    if not 0 < options.alpha < 1 or not options.alpha < options.power < 1:
        raise RecordError("alpha and power are probabilities, and power is above alpha")
    runs = one_kind(load(options.dataset).runs, profile=options.profile, code_id=options.code_id)
    scores = selected(raw_scores(runs), options.variants, options.environments, options.raw)
    a, b = (scores[variant] for variant in options.variants)
    table = plans(a, b, np.random.default_rng(options.seed), average=not options.raw, **wanted)
    unit = "returns" if options.raw else f"shares of {options.variants[0]}'s span above random"
    print(f"A = {options.variants[0]}, B = {options.variants[1]}; std and difference in {unit}")
    print(f"Welch's test, alpha {options.alpha:g}; seeds per variant and environment for power {options.power:g}\n")
    seeds = table[["seeds_by_formula", "seeds_by_simulation"]].map(lambda n: f"> {MOST}" if pd.isna(n) else f"{n:.0f}")
    print(table.assign(**seeds).to_string(float_format="{:.3g}".format))
    if options.difference is None:
        print("\nThe differences are the observed ones: uncertain themselves, and the larger they look, the luckier.")
    if table["runs"].min() < FEW:
        print(f"\nSpread is known from {table['runs'].min()} runs only: the numbers of seeds are rough.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
