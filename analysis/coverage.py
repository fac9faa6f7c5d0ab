"""How often 95 % intervals hold what they promise, simulated: why `interval` changes its method at ten seeds.

python -m analysis.coverage [--draws 2000]

Seven environments, as in Table 1. `t`, `bootstrap`: share of intervals that contain the true mean over environments;
`chosen`: of those that `interval` picks; `warned`: share it calls heavy-tailed; `prediction`: share of prediction
intervals that contain the mean of a fresh table of three seeds; `width`: mean width of the chosen interval, in standard
deviations of a run.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.records import RecordError
from analysis.statistics import (
    LEVEL,
    RESAMPLES,
    Array,
    bootstrap_interval,
    interval,
    mean,
    prediction_interval,
    t_interval,
)
from experiments.commands import command

ENVIRONMENTS = 7
SEEDS = (3, 5, 10, 30)
COLLAPSE, DEPTH = 0.2, 20.0  # the first environment's runs: how many collapse, and how far
FRESH = 3

Draw = Callable[[np.random.Generator, int], list[Array]]


def normal(rng: np.random.Generator, seeds: int) -> list[Array]:
    return list(rng.standard_normal((ENVIRONMENTS, seeds)))


def heavy(rng: np.random.Generator, seeds: int) -> list[Array]:
    """Lognormal, with mean 0 and standard deviation 1."""
    runs = rng.lognormal(size=(ENVIRONMENTS, seeds))
    return list((runs - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e))


def collapsing(rng: np.random.Generator, seeds: int) -> list[Array]:
    """Normal, but some runs of the first environment fall deep; mean 0."""
    runs = rng.standard_normal((ENVIRONMENTS, seeds))
    runs[0] -= DEPTH * ((rng.random(seeds) < COLLAPSE) - COLLAPSE)
    return list(runs)


def coverage(
    draw: Draw, seeds: int, draws: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, float]:
    """A row of the table: shares of `draws` studies of `seeds` runs per environment, whose true mean is 0."""
    rows = []
    for _ in range(draws):
        scores, fresh = draw(rng, seeds), float(mean(draw(rng, FRESH)))
        t, bootstrap = t_interval(scores), bootstrap_interval(scores, mean, rng, LEVEL, resamples)
        chosen = interval(scores, rng, LEVEL, resamples)
        prediction = prediction_interval(scores, rng, FRESH, LEVEL, resamples)
        rows.append(
            {
                "t": t[0] <= 0 <= t[1],
                "bootstrap": bootstrap[0] <= 0 <= bootstrap[1],
                "chosen": chosen.low <= 0 <= chosen.high,
                "warned": chosen.heavy_tailed,
                "prediction": prediction.low <= fresh <= prediction.high,
                "width": chosen.high - chosen.low,
            }
        )
    return {name: float(value) for name, value in pd.DataFrame(rows).mean().items()}


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.coverage", description="Simulated coverage of intervals.")
    parser.add_argument("--draws", type=int, default=2000, help="simulated studies per row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.draws < 1:
        raise RecordError("at least one draw is needed")
    rng = np.random.default_rng(options.seed)
    rows = {
        (draw.__name__, seeds): coverage(draw, seeds, options.draws, rng)
        for draw in (normal, heavy, collapsing)
        for seeds in SEEDS
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["runs", "seeds"])
    print(table.to_string(float_format="{:.3f}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
