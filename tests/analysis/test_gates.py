"""The regression gates on runs whose truth is known: verdicts, their error rates, refusals, baselines."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write
from scipy import stats

from analysis import bless, gates, regress
from analysis.baseline import FOLDER, YOUNGER, Baseline, differences, read_baseline
from analysis.dataset import Dataset, load
from analysis.records import RecordError
from ppo.config import Algo, Env, Profile

ZERO = {"a": 0.0, "b": -10.0}


def scores(rng: np.random.Generator, seeds: int, lost: float = 0.0, spread: float = 0.1) -> dict[str, np.ndarray]:
    """Normal runs on two tasks, whose span is 100 and 20, with a share of it lost."""
    return {task: zero + span * (1 - lost + spread * rng.standard_normal(seeds))
            for (task, zero), span in zip(ZERO.items(), (100, 20), strict=True)}  # fmt: skip


class TestReturn:
    def test_by_hand(self) -> None:
        rng = np.random.default_rng(0)
        candidate, baseline = scores(rng, 24), scores(rng, 60)
        seen = gates.return_gate(candidate, baseline, ZERO)
        spans = {task: baseline[task].mean() - ZERO[task] for task in ZERO}
        parts = [(candidate[t].mean() - baseline[t].mean()) / spans[t] for t in ZERO]
        assert seen.difference == pytest.approx(np.mean(parts))
        variances = [runs[t].var(ddof=1) / runs[t].size / spans[t] ** 2 for t in ZERO for runs in (candidate, baseline)]
        sizes = [runs[t].size for t in ZERO for runs in (candidate, baseline)]
        dof = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
        reach = stats.t.ppf(1 - gates.ALPHA / 2, dof) * np.sqrt(sum(variances)) / 2
        assert (seen.low, seen.high) == pytest.approx((seen.difference - reach, seen.difference + reach))

    @pytest.mark.parametrize(
        ("lost", "spread", "verdict"),
        [(0.0, 0.05, "PASS"), (0.25, 0.05, "FAIL"), (0.10, 0.3, "INCONCLUSIVE"), (-0.5, 0.05, "PASS")],
    )
    def test_says(self, lost: float, spread: float, verdict: str) -> None:
        rng = np.random.default_rng(1)
        seen = gates.return_gate(scores(rng, 24, lost, spread), scores(rng, 60, 0.0, spread), ZERO)
        assert seen.verdict == verdict

    def test_at_the_margin_two_looks_pass_or_fail_no_oftener_than_said(self) -> None:
        """Exactly at the margin, PASS and FAIL are both errors."""
        rng = np.random.default_rng(2)
        wrong = {"PASS": 0, "FAIL": 0}
        draws = 1500
        for _ in range(draws):
            baseline, whole = scores(rng, 60), scores(rng, 48, 0.10)
            for seeds in (24, 48):
                seen = gates.return_gate({t: runs[:seeds] for t, runs in whole.items()}, baseline, ZERO)
                if seen.verdict != "INCONCLUSIVE":
                    wrong[seen.verdict] += 1
                    break
        for count in wrong.values():
            assert stats.binomtest(count, draws, gates.ALPHA, alternative="greater").pvalue > 0.001
        assert min(wrong.values()) > 0.01 * draws  # and the error is spent, not hoarded

    def test_a_baseline_that_learnt_nothing_is_refused(self) -> None:
        with pytest.raises(RecordError, match="no better than random on b"):
            gates.return_gate(scores(np.random.default_rng(0), 5), {"a": np.ones(5), "b": -11 * np.ones(5)}, ZERO)


def diagnostics(rng: np.random.Generator, seeds: int, **shift: float) -> pd.DataFrame:
    """Noise in all quantities, 50 iterations of two tasks; `shift` moves a quantity by so many deviations."""
    rows = []
    for env in ("a", "b"):
        for run in range(seeds):
            level = {q: rng.standard_normal() + shift.get(q, 0.0) for q in gates.QUANTITIES}
            noise = rng.standard_normal((50, len(level))) * 0.1
            frame = pd.DataFrame(noise + list(level.values()), columns=list(level))
            rows.append(frame.assign(env=env, run=f"{env}{run}", iteration=np.arange(1, 51)))
    return pd.concat(rows)


class TestMechanism:
    def test_stretches_are_means_over_iterations(self) -> None:
        found = diagnostics(np.random.default_rng(0), 2)
        assert gates.stretches(50) == [1, 5, 12, 25, 50]
        means = gates.by_stretch(found, 50)
        some = found[(found["env"] == "a") & (found["run"] == "a1") & found["iteration"].between(13, 25)]
        assert means.loc[("a", 25, "a1"), "kl"] == pytest.approx(some["kl"].mean())
        assert len(means) == 2 * 2 * 5

    def test_names_the_quantity_that_moved_and_no_other(self) -> None:
        rng = np.random.default_rng(1)
        baseline, candidate = diagnostics(rng, 60), diagnostics(rng, 24, update_norm=-2.0)
        tests = gates.mechanism_gate(gates.by_stretch(candidate, 50), gates.by_stretch(baseline, 50))
        assert len(tests) == 2 * 5 * len(gates.QUANTITIES)
        changed = tests[tests["changed"]]
        assert set(changed["quantity"]) == {"update_norm"}
        assert (changed["above"] < 0.3).all()

    def test_p_is_scipys(self) -> None:
        rng = np.random.default_rng(2)
        baseline, candidate = (gates.by_stretch(diagnostics(rng, n), 50) for n in (30, 12))
        row = gates.mechanism_gate(candidate, baseline).set_index(["env", "stretch", "quantity"]).loc[("b", 12, "kl")]
        x, y = (frame.loc[("b", 12), "kl"] for frame in (candidate, baseline))
        assert row["p"] == pytest.approx(stats.mannwhitneyu(x, y).pvalue, rel=1e-6)

    def test_the_same_algorithm_is_seldom_called_changed(self) -> None:
        rng = np.random.default_rng(3)
        draws = 25
        called = sum(
            gates.mechanism_gate(*(gates.by_stretch(diagnostics(rng, n), 50) for n in (16, 40)))["changed"].any()
            for _ in range(draws)
        )
        assert stats.binomtest(int(called), draws, gates.MECHANISM_ALPHA, alternative="greater").pvalue > 0.001

    def test_a_quantity_that_does_not_vary_is_not_called_changed(self) -> None:
        assert gates.mann_whitney(np.zeros(5), np.zeros(9)) == (0.5, 1.0)

    def test_a_quantity_that_is_gone_is_called_changed(self) -> None:
        rng = np.random.default_rng(4)
        baseline, candidate = diagnostics(rng, 30), diagnostics(rng, 12).assign(kl=np.nan)
        tests = gates.mechanism_gate(gates.by_stretch(candidate, 50), gates.by_stretch(baseline, 50))
        assert set(tests[tests["changed"]]["quantity"]) == {"kl"}


VERSIONS = dict.fromkeys(("mujoco", "envpool", "gymnasium", "ale-py", "torch", "numpy"), "1.0")


def stored(folder: Path, seeds: int = 60, rng_seed: int = 0, **asked: object) -> Baseline:
    write(folder, np.random.default_rng(rng_seed), variants=("clip_0.2", "random"), seeds=seeds, env_steps=100_000,
          **asked)  # type: ignore[arg-type]  # fmt: skip
    about = {"seeds_per_look": 12, "code_ids": ["c0de"], "versions": VERSIONS, "reason": "a test"}
    (folder / "baseline.json").write_text(json.dumps(about))
    return read_baseline(folder.name, folder.parent)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    return stored(tmp_path_factory.mktemp("baselines") / "mine")


def without(config: str, names: Iterable[str]) -> str:
    """A run's settings as they were before some of them existed."""
    settings = json.loads(config)
    for name in names:
        part, _, setting = name.partition(".")
        del settings[part][setting]
    return json.dumps(settings)


def part(baseline: Baseline, folder: Path, seeds: range) -> regress.Dataset:
    """The runs of these seeds as a dataset of their own."""
    shutil.copytree(baseline.dataset.folder, folder)
    whole = load(folder)
    runs = whole.runs[whole.runs["seed"].isin(seeds)].reset_index(drop=True)
    return regress.Dataset(folder, runs, whole.note)


def ended_early(candidate: Dataset, runs: int, env_step: int) -> Dataset:
    """Its first learning runs, by task, diverged there."""
    learns = regress.learning_runs(candidate)["run"][:runs]
    ended = candidate.runs["run"].isin(learns)
    candidate.runs.loc[ended, "status"], candidate.runs.loc[ended, "env_steps"] = "diverged", env_step
    for name, column in (("episodes", "env_step"), ("iterations", "env_steps")):
        path = candidate.folder / f"{name}.parquet"
        table = pd.read_parquet(path)
        table[~table["run"].isin(learns) | (table[column] <= env_step)].to_parquet(path)
    return candidate


class TestJudgement:
    def test_the_same_algorithm_passes(self, baseline: Baseline, tmp_path: Path) -> None:
        found = regress.judge(part(baseline, tmp_path / "c", range(12)), baseline, margin=0.25)
        assert (found.decision.verdict, found.look, found.seeds) == ("PASS", 1, 12)
        text = regress.summary(found, "mine", baseline, 0.25, [], "more")
        assert text.startswith("## Regression gate: PASS\n")
        assert "| mean over tasks |" in text

    def test_more_seeds_than_a_look_takes_are_not_looked_at(self, baseline: Baseline, tmp_path: Path) -> None:
        found = regress.judge(part(baseline, tmp_path / "c", range(20)), baseline)
        assert (found.look, found.seeds) == (1, 12)
        found = regress.judge(part(baseline, tmp_path / "d", range(40)), baseline)
        assert (found.look, found.seeds) == (2, 24)

    def test_too_few_seeds_are_refused(self, baseline: Baseline, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match="has 11 seeds, and the first look takes 12"):
            regress.judge(part(baseline, tmp_path / "c", range(11)), baseline)

    def test_a_worse_candidate_fails(self, baseline: Baseline, tmp_path: Path) -> None:
        candidate = part(baseline, tmp_path / "c", range(12))
        learns = candidate.runs["variant"] == "clip_0.2"
        candidate.runs.loc[learns, "score"] -= 0.5 * candidate.runs.loc[learns, "score"].abs()
        found = regress.judge(candidate, baseline)
        assert found.decision.verdict == "FAIL"
        assert "the score is lower by" in found.decision.reasons[0]

    def test_runs_that_diverge_fail_unless_the_baselines_do_as_well(self, baseline: Baseline, tmp_path: Path) -> None:
        candidate = part(baseline, tmp_path / "c", range(12))
        candidate.runs.loc[candidate.runs["variant"] == "clip_0.2", "status"] = ["diverged"] + ["complete"] * 23
        found = regress.judge(candidate, baseline)
        assert found.decision.verdict == "FAIL"
        assert found.decision.reasons[0] == "1 of 24 runs diverged, 0 of 120 of the baseline's"
        often = pd.DataFrame({"status": ["diverged"] * 10 + ["complete"] * 110})
        assert gates.crashed(regress.learning_runs(candidate), often) == ""
        assert gates.crashed(pd.DataFrame({"status": ["diverged"] * 20}), often) != ""

    @pytest.mark.parametrize(
        ("runs", "env_step", "tasks"),
        [
            (1, 900, ["Hopper-v4", "InvertedPendulum-v4"]),
            (11, 900, ["InvertedPendulum-v4"]),
            (24, 6_144, ["Hopper-v4", "InvertedPendulum-v4"]),
        ],
        ids=["one run", "all but one on a task", "all"],
    )
    def test_runs_that_diverge_in_their_first_iterations_fail_the_candidate(
        self, baseline: Baseline, tmp_path: Path, runs: int, env_step: int, tasks: list[str]
    ) -> None:
        """Their learning curves have no height, and where all runs diverge no task has the later stretches."""
        candidate = ended_early(part(baseline, tmp_path / "c", range(12)), runs, env_step)
        found = regress.judge(candidate, baseline)
        assert found.decision.verdict == "FAIL"
        assert found.decision.reasons[0] == f"{runs} of 24 runs diverged, 0 of 120 of the baseline's"
        text = regress.summary(found, "mine", baseline, 0.1, [], "more")
        assert re.findall(r"area under the curve on (\S+)", text) == tasks

    @pytest.mark.parametrize("lost", [["Hopper-v4"], ["Hopper-v4", "InvertedPendulum-v4"]], ids=["one", "all"])
    def test_a_task_without_a_score_fails_the_candidate(
        self, baseline: Baseline, tmp_path: Path, lost: list[str]
    ) -> None:
        candidate = part(baseline, tmp_path / "c", range(12))
        unscored = candidate.runs["env"].isin(lost) & (candidate.runs["variant"] == "clip_0.2")
        candidate.runs.loc[unscored, ["status", "score"]] = ["diverged", np.nan]
        found = regress.judge(candidate, baseline)
        assert found.decision.verdict == "FAIL"
        assert found.decision.reasons == [
            f"{12 * len(lost)} of 24 runs diverged, 0 of 120 of the baseline's",
            f"no run has a finite score on {', '.join(lost)}",
        ]
        assert set(found.by_task) == {"Hopper-v4", "InvertedPendulum-v4"} - set(lost)
        assert "| mean over tasks | – | – | FAIL |" in regress.summary(found, "mine", baseline, 0.1, [], "more")

    def test_runs_of_a_faulty_environment_judge_nothing(self, baseline: Baseline, tmp_path: Path) -> None:
        """What it handed out was no number, whatever the candidate does."""
        candidate = part(baseline, tmp_path / "c", range(12))
        first = candidate.runs.index[candidate.runs["variant"] == "clip_0.2"][0]
        candidate.runs.loc[first, ["status", "score"]] = ["faulty", np.nan]
        with pytest.raises(RecordError, match=r"1 run.*faulty"):
            regress.judge(candidate, baseline)
        with pytest.raises(RecordError, match=r"1 run.*faulty"):
            bless.check(Dataset(candidate.folder, candidate.runs, {"left_out": []}))

    def test_another_mechanism_is_told_with_its_name(self, baseline: Baseline, tmp_path: Path) -> None:
        candidate = part(baseline, tmp_path / "c", range(12))
        path = candidate.folder / "iterations.parquet"
        table = pd.read_parquet(path)
        table["clip_fraction"] *= 3
        table.to_parquet(path)
        found = regress.judge(candidate, baseline)
        assert found.decision.verdict == "CHANGED"
        assert found.decision.reasons == ["it does not do the same: clip_fraction"]
        assert "| clip_fraction |" in regress.summary(found, "mine", baseline, 0.1, [], "more")

    def test_an_undecided_first_look_prints_the_command_that_adds_seeds(
        self, baseline: Baseline, tmp_path: Path
    ) -> None:
        candidate = part(baseline, tmp_path / "c", range(12))
        found = regress.judge(candidate, baseline, margin=0.001)
        assert found.decision.verdict == "INCONCLUSIVE"
        candidate.note["study"] = {"overrides": ["study=regression", "name=mine", "variants=clip_0.2", "num_seeds=12",
                                                     "environments=[hopper]"]}  # fmt: skip
        more = regress.more_seeds("mine", candidate, Path("else where"), 12)
        assert more == (
            "python -m experiments.study study=regression variants=clip_0.2 'environments=[hopper]' name=mine "
            "num_seeds=24 extend=true && python -m analysis.regress --candidate mine --records 'else where'"
        )
        assert f"More seeds decide: `{more}`" in regress.summary(found, "mine", baseline, 0.001, [], more)
        last = regress.judge(part(baseline, tmp_path / "d", range(24)), baseline, margin=0.001)
        assert last.decision.verdict == "INCONCLUSIVE"
        assert "this look was the last one" in regress.summary(last, "mine", baseline, 0.001, [], "more")


class TestBaseline:
    def test_of_something_else_is_refused_with_the_differences(self, baseline: Baseline, tmp_path: Path) -> None:
        runs = baseline.runs
        assert differences(runs, VERSIONS, baseline) == []
        assert differences(runs, VERSIONS | {"torch": "2.0"}, baseline) == []
        assert differences(runs, VERSIONS | {"mujoco": "4.0.0"}, baseline) == ["mujoco 4.0.0, not 1.0"]
        other = stored(tmp_path / "other", seeds=3)
        changed = other.runs.assign(
            env=other.runs["env"].str.replace("v4", "v5"),
            config=other.runs["config"].str.replace('"gamma": 0.99', '"gamma": 0.9'),
        )
        said = differences(changed, VERSIONS, baseline)
        assert 'env.id="Hopper-v5", not "Hopper-v4" (Hopper)' in said
        assert "profile.gamma=0.9, not 0.99 (Hopper, InvertedPendulum)" in said
        less = runs[~((runs["env"] == "Hopper-v4") & (runs["variant"] == "clip_0.2"))]
        assert differences(less, VERSIONS, baseline) == ["only the baseline has clip_0.2 on Hopper"]

    def test_a_setting_younger_than_the_baseline_counts_as_its_default(self, baseline: Baseline) -> None:
        parts = {"algo": Algo, "profile": Profile, "env": Env}
        added = {f"{part}.{f.name}": json.dumps(f.default) for part, cls in parts.items() for f in fields(cls)}
        assert {name: added[name] for name in YOUNGER} == YOUNGER
        older = baseline.runs.assign(config=[without(config, YOUNGER) for config in baseline.runs["config"]])
        stale = Baseline("older", Dataset(baseline.dataset.folder, older, baseline.dataset.note), baseline.about)
        assert differences(baseline.runs, VERSIONS, stale) == []
        three = baseline.runs.assign(config=baseline.runs["config"].str.replace('"actors": 1', '"actors": 3'))
        assert differences(three, VERSIONS, stale) == ["profile.actors=3, not 1 (Hopper, InvertedPendulum)"]

    def test_a_setting_that_is_off_is_as_if_it_were_not_there(self, baseline: Baseline) -> None:
        """So that a new one in ppo/config.py, off unless said, leaves the stored baselines as good as they were."""
        runs = baseline.runs
        off, on = (
            runs.assign(config=runs["config"].str.replace('"algo": {', f'"algo": {{"newest": {value}, '))
            for value in ("null", "3")
        )
        assert differences(off, VERSIONS, baseline) == []
        assert differences(on, VERSIONS, baseline) == ["algo.newest=3, not null (Hopper, InvertedPendulum)"]
        later = Baseline("later", Dataset(baseline.dataset.folder, off, baseline.dataset.note), baseline.about)
        assert differences(runs, VERSIONS, later) == []

    @pytest.mark.parametrize("name", sorted(path.parent.name for path in FOLDER.glob("*/baseline.json")))
    def test_every_setting_of_today_is_in_a_shipped_one_or_known_to_be_younger(self, name: str) -> None:
        stored = json.loads(read_baseline(name).runs["config"].iloc[0])
        parts = {"algo": Algo, "profile": Profile, "env": Env}
        lacking = {f"{part}.{f.name}" for part, cls in parts.items() for f in fields(cls)
                   if f.name not in stored[part] and f.default is not None}  # fmt: skip
        assert lacking <= YOUNGER.keys(), "say in analysis.baseline.YOUNGER what was so before they were"

    def test_an_unknown_one_is_named_with_those_that_there_are(self, baseline: Baseline) -> None:
        with pytest.raises(RecordError, match=r"no baseline yours in .* \(mine\)"):
            read_baseline("yours", baseline.dataset.folder.parent)

    def test_diagnostics_are_stored_in_less_space_and_episodes_exactly(
        self, baseline: Baseline, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(baseline.dataset.folder, tmp_path / "b")
        before = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("episodes", "iterations")}
        bless.compact(folder)
        pd.testing.assert_frame_equal(pd.read_parquet(folder / "episodes.parquet"), before["episodes"])
        after = pd.read_parquet(folder / "iterations.parquet")
        assert after["kl"].dtype == np.float32
        np.testing.assert_allclose(after["kl"], before["iterations"]["kl"], rtol=1e-6)
