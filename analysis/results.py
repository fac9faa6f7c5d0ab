"""Everything a report shows, computed once from a dataset. What is drawn and what is written come from here alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import replicate, scores
from analysis.curves import Curves, areas, learning_curves, score_spans
from analysis.dataset import Dataset
from analysis.paper import published
from analysis.records import RecordError, variant_of
from analysis.scores import UNTRAINED, Raw, References, Scaling
from analysis.statistics import FEW, Array, Interval

ALIKE = 0.05  # budgets that differ by no more count as one: runs of other suites end with an episode
LONG = 0.2  # share of a run beyond which the episodes of its score are marked
SETTLED = 10_000  # re-runs drawn for the prediction intervals of Table 1


@dataclass(frozen=True)
class Options:
    """What a reader may choose about a report."""

    scaling: Scaling = scores.SCALING
    seed: int = 0  # of resamples and drawn tables
    reference: str | None = None  # what every other variant is compared with


class Results:
    """A dataset's scores and curves. Variants stand in the order of Table 1, then of the study, then by name."""

    def __init__(self, dataset: Dataset, options: Options = Options()):
        self.dataset, self.options = dataset, options
        finished = dataset.runs[dataset.runs["status"] != "partial"].reset_index(drop=True)
        if "not_finite" not in finished:  # collected before there was this column
            finished["not_finite"] = ""
        faulty = finished["status"] == "faulty"
        self.runs, self.faulty = finished[~faulty].reset_index(drop=True), finished[faulty].reset_index(drop=True)
        if self.runs.empty:
            raise RecordError(
                f"{dataset.folder} has no finished run"
                + f" but {len(self.faulty)} faulty ones" * bool(len(self.faulty))
            )
        self.require_one_measure()
        self.variants = ordered(self.runs["variant"].unique(), dataset.note)
        self.environments = sorted(self.runs["env"].unique())
        self.raw: Raw = scores.raw_scores(self.runs)

    def require_one_measure(self) -> None:
        """RecordError if a variant's runs on one task have scores of several kinds of episodes."""
        for (variant, task), cell in self.runs.groupby(["variant", "env"]):
            if len(kinds := sorted(cell["measure"].unique())) > 1:
                raise RecordError(
                    f"the runs of {variant} on {task} have scores of {' and of '.join(kinds)}, which are not averaged "
                    "together; collect them into datasets of their own"
                )

    @property
    def trained(self) -> list[str]:
        """The variants that learn."""
        return [variant for variant in self.variants if variant not in UNTRAINED]

    @property
    def ours(self) -> bool:
        """Whether every run was trained by this suite, and so tells its settings."""
        return all("profile" in self.config(variant) for variant in self.variants)

    @property
    def seeds(self) -> int:
        """Runs of the cell that has fewest, of complete variants; 0 if there are none."""
        return min((self.raw[v][e].size for v in self.complete for e in self.environments), default=0)

    @cached_property
    def complete(self) -> list[str]:
        """The variants that learn and have runs on every task: only they can be averaged over tasks."""
        return [v for v in self.trained if all(self.raw.get(v, {}).get(e) is not None for e in self.environments)]

    @cached_property
    def why_raw(self) -> str:
        """Why scores cannot be normalised, in one sentence; empty if they can."""
        if not self.complete:
            return "no variant has runs on every task"
        try:
            scores.references(self.comparable, self.options.scaling)
        except RecordError as error:
            return str(error)
        return ""

    @property
    def comparable(self) -> Raw:
        """Scores of what can be averaged: complete variants and the reference policies."""
        wanted = [*self.complete, *(v for v in UNTRAINED if v in self.raw)]
        return {variant: self.raw[variant] for variant in wanted}

    @cached_property
    def references(self) -> References | None:
        """Raw scores that become 0 and 1 by task; None if scores cannot be normalised."""
        return None if self.why_raw else scores.references(self.comparable, self.options.scaling)

    @cached_property
    def normalised(self) -> dict[str, dict[str, Array]]:
        """By variant (reference policies too) and task: runs as shares of the way from random to best; empty if
        they cannot be."""
        return scores.normalise(self.comparable, self.references) if self.references else {}

    def cells(self, variant: str) -> list[Array]:
        """A complete variant's normalised scores, an array of runs per task."""
        return [self.normalised[variant][environment] for environment in self.environments]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Of every complete variant's normalised score; empty if there are fewer than two runs of any."""
        if not self.normalised or self.seeds < 2:
            return {}
        return scores.score_intervals(self.comparable, self.rng(), self.options.scaling)

    @property
    def exact(self) -> bool:
        """Whether intervals of normalised scores take the returns that score 0 and 1 for exact."""
        return self.seeds < FEW or any(interval.method == "fixed" for interval in self.intervals.values())

    @cached_property
    def curves(self) -> dict[str, Curves]:
        """Learning curves by task."""
        return learning_curves(self.dataset, self.runs)

    @cached_property
    def budgets(self) -> dict[str, dict[str, int]]:
        """The shortest budget of every variant that learns, by task."""
        learn = self.runs[self.runs["variant"].isin(self.trained)]
        found: dict[str, dict[str, int]] = {}
        for (task, variant), budget in learn.groupby(["env", "variant"])["budget"].min().items():
            found.setdefault(task, {})[variant] = int(budget)
        return found

    @cached_property
    def unequal(self) -> dict[str, tuple[int, int]]:
        """The shortest and the longest budget of those tasks on which they differ."""
        learn = self.runs[self.runs["variant"].isin(self.trained)]
        ends = learn.groupby("env")["budget"].agg(["min", "max"])
        return {str(e): (int(low), int(high)) for e, low, high in ends.itertuples() if low < (1 - ALIKE) * high}

    @cached_property
    def areas(self) -> dict[str, dict[str, Array]]:
        """Area under the learning curve, in returns, by variant and task: (runs,); of runs with different budgets, up
        to the task's shortest."""
        ends = {task: shortest for task, (shortest, _) in self.unequal.items()}
        return {
            v: {e: areas(c, v, ends.get(e, np.inf)) for e, c in self.curves.items() if v in c.runs}
            for v in self.variants
        }

    @cached_property
    def shares(self) -> pd.Series:
        """What share of its env steps the episodes of a run's score span, of runs that learn; by `run`."""
        learn = self.runs[self.runs["variant"].isin(self.trained) & (self.runs["score_episodes"] > 0)]
        return score_spans(self.dataset, learn)

    @cached_property
    def heights(self) -> dict[str, dict[str, Array]]:
        """Mean heights of the learning curves, (runs,) by variant and task, normalised as scores are; empty if these
        cannot be."""
        return scores.normalise({v: self.areas[v] for v in self.complete}, self.references) if self.references else {}

    @cached_property
    def ranked(self) -> list[str]:
        """The variants that are rows of the paper's Table 1, in its order, if it has the dataset's tasks and scores."""
        rows = [variant for variant in published.table1().index if variant in self.complete]
        mujoco = all(environment.rpartition("-")[0] in published.TASKS for environment in self.environments)
        return rows if mujoco and len(rows) > 1 and self.references and self.seeds >= replicate.SEEDS else []

    @cached_property
    def why_no_reruns(self) -> str:
        """Why re-runs of Table 1 cannot be drawn from our runs, in one sentence; empty if they can."""
        try:
            if self.ranked:
                _ = self.reruns
            return ""
        except RecordError as error:
            return str(error)

    @property
    def paper_rows(self) -> list[str]:
        """The variants that are rows of the paper's Table 1, in its order, if the dataset can be set beside it."""
        return [] if self.why_no_reruns else self.ranked

    @property
    def of_paper(self) -> Raw:
        """Raw scores of Table 1's rows and the policy that scores 0 in it."""
        return {v: self.raw[v] for v in (*self.ranked, self.options.scaling.random_from)}

    @cached_property
    def reruns(self) -> pd.DataFrame:
        """Scores of re-runs of Table 1 with the paper's 3 seeds, drawn from ours; a column per row of the table."""
        return replicate.reruns(self.of_paper, self.rng(), self.options.scaling, SETTLED)

    @cached_property
    def profiles(self) -> list[str]:
        return sorted(self.runs["profile"].unique())

    def objective(self, variant: str) -> str:
        """The variant's setting without its study's name for it: clip_0.2 of paper_text/clip_0.2."""
        algo = self.config(variant).get("algo")
        return variant_of(algo) if algo else variant

    def config(self, variant: str) -> Mapping[str, Any]:
        """All settings of one of the variant's runs."""
        first: str = self.runs.loc[self.runs["variant"] == variant, "config"].iloc[0]
        return json.loads(first)

    def rng(self) -> np.random.Generator:
        """A fresh generator for each thing drawn, so that one does not move another."""
        return np.random.default_rng(self.options.seed)


def ordered(variants: Sequence[str], note: Mapping[str, Any]) -> list[str]:
    """Table 1's order, then the study's, then by name; reference policies last."""
    known = [*published.table1().index, *note.get("study", {}).get("variants", ())]
    place = {name: position for position, name in reversed(list(enumerate(known)))}
    return sorted(variants, key=lambda v: (v in UNTRAINED, place.get(v, len(known)), v))
