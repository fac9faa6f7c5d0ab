"""The exact trace: it covers what there is, names the first bit that moved, and leaves nothing behind."""

import functools
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ppo.actor_critic
import ppo.cem
import ppo.normalisation
import ppo.objectives
import ppo.rollout
import ppo.surrogate
import ppo.trust_region
from experiments import trace, trace_sides
from experiments.compose import CONF
from experiments.profiles import read
from experiments.trace_sides import Lines, compare
from ppo.advantages import ESTIMATORS
from ppo.config import SWITCHES, Profile
from ppo.learners import OBJECTIVES
from ppo.surrogate import Surrogate
from tests.conftest import ROOT

PROFILE = "ppo1_2017_08"
SHEET = read(CONF / "profile" / f"{PROFILE}.yaml")
RUNS = trace.grid([SHEET])
UNSHIPPED = trace.grid([replace(SHEET, name="unshipped", profile=replace(SHEET.profile, **trace.UNSHIPPED))])
TABLE_1 = {
    n: run for n, run in RUNS.items() if run.algo.objective in ("unconstrained", "clip", "kl_fixed", "kl_adaptive")
}
IN_REPOSITORY = 2 * len(RUNS) + len(trace.lacking(RUNS | UNSHIPPED))  # the profile, what no profile sets, what is left
NAMES = ("there", "here")


@pytest.fixture(scope="module")
def traced() -> Lines:
    return trace.collect(RUNS)


@pytest.fixture
def one_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command traces one profile's CartPole."""
    monkeypatch.setattr(trace, "everything", lambda: {n: r for n, r in RUNS.items() if r.env.id == "CartPole-v1"})


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what was printed by the command in this process; a mistake is one line on stderr."""
    code = trace.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    if code == 2:
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return code, line
    assert err == ""
    return code, out


class TestWhatIsTraced:
    def test_every_objective_estimator_profile_and_kind_of_task(self) -> None:
        runs = trace.grid(trace.profiles())
        assert {run.algo.objective for run in runs.values()} == set(OBJECTIVES)
        assert {run.algo.advantage for run in runs.values()} == set(ESTIMATORS)
        shipped = {path.stem for path in CONF.glob("profile/*.yaml")}
        assert {name.split()[0] for name in runs} == shipped | {"unshipped"}
        assert {run.backend for run in runs.values()} == {"envpool", "gymnasium", "ale"}
        on_frames = [name for name, run in runs.items() if run.backend == "ale"]
        assert {name.split()[0] for name in on_frames} == {name for name in shipped if name.startswith("atari")}
        of_numbers = len(trace.profiles()) - 2
        assert len(set(runs.values())) == len(runs) == 2 * 3 + of_numbers * len(trace.ALGOS) * len(trace.TASKS)

    def test_every_choice_of_a_switch_and_two_values_of_every_other(self) -> None:
        runs = trace.everything()
        assert runs.items() >= trace.grid(trace.profiles()).items()
        assert len(set(runs.values())) == len(runs)
        for f in fields(Profile):
            known = {getattr(run.profile, f.name) for run in runs.values()}
            assert len(known) > 1 or f.name == "policy", f"{f.name} is {known} in all that is traced"
            if SWITCHES[f.name].choices and f.name not in trace.OF_THE_TASK:
                assert known == set(SWITCHES[f.name].choices)

    def test_what_is_tried_one_by_one_moves_the_parameters(self) -> None:
        more = trace.lacking(trace.grid(trace.profiles()))
        assert "unshipped clip_0.2 gamma=0.9 InvertedPendulum-v4 seed 0" in more
        lines = trace.collect(more)
        assert len({lines[name, trace.ITERATIONS]["parameters"] for name in more}) == len(more)

    def test_a_lost_life_shows_in_a_games_lines(self) -> None:
        runs = trace.grid([read(CONF / "profile" / "atari_ppo2.yaml")])
        run = runs["atari_ppo2 clip_0.2 BreakoutNoFrameskip-v4 seed 0"]
        blind = replace(run, profile=replace(run.profile, lost_life="goes_on"))
        there, here = (trace.collect({"a game": one}) for one in (run, blind))
        assert compare(there, there, NAMES) == []
        (sentence,) = compare(there, here, NAMES)
        assert sentence.startswith("a game, iteration 2: explained_variance")

    def test_the_same_code_twice_gives_the_same_text(self, traced: Lines) -> None:
        again = trace.collect(dict(reversed(RUNS.items())))
        assert trace.text_of(again, trace.machine()) == trace.text_of(traced, trace.machine())

    def test_a_run_alone_has_the_lines_it_has_in_its_pack(self, traced: Lines) -> None:
        alone = [name for name in RUNS if "kl_adaptive_0.01" in name]
        assert len(alone) == len(trace.TASKS)
        for name in alone:
            lines = trace.collect({name: RUNS[name]})
            assert lines == {line: traced[line] for line in traced if line[0] == name}

    def test_every_iteration_is_there_and_everything_in_it_has_its_place(self, traced: Lines) -> None:
        assert set(traced) == {(name, n) for name in RUNS for n in range(trace.ITERATIONS + 1)}
        named = {quantity for quantities in traced.values() for quantity in quantities}
        assert named == {*trace_sides.CAUSAL, "iteration"}

    def test_what_is_traced_bites(self, traced: Lines) -> None:
        """Ratios are clipped, β moves both ways, and episodes end, by themselves and at a time limit."""

        def values(objective: str, quantity: str) -> list[str]:
            return [q[quantity] for (run, n), q in traced.items() if n and RUNS[run].algo.objective == objective]

        assert any(float(value) > 0 for value in values("clip", "clip_fraction"))
        beta = [float(value) for value in values("kl_adaptive", "next_beta")]
        assert min(beta) < 1 < max(beta)
        lengths = [length for value in values("clip", "episode_lengths") for length in value.split()]
        assert "50" in lengths, "Reacher's time limit"
        assert min(map(int, lengths)) < 50


def scaled_in_iteration_2(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(learner: Any, rollout: Any) -> Any:
        advantage, *rest = original(learner, rollout)
        first_iteration = 8  # steps of the optimiser
        return (advantage * (1 + 1e-7 * (learner.optimisers[0].steps == first_iteration)), *rest)

    return changed


def squared_epsilon_schedule(original: Callable[..., Any]) -> Callable[..., Any]:
    def changed(learner: Any, number: int) -> Any:
        found = original(learner, number)
        return found | {"epsilon": found["epsilon"] * (1 - number / learner.runs[0].iterations)}

    return changed


def stronger_penalty(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ratio, advantage, kl, beta: original(ratio, advantage, kl, beta * (1 + 1e-4))


def bolder_beta(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda beta, kl, kl_target: original(beta, kl, kl_target) * (1 + 1e-15)


def louder_noise(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: original(*arguments) * (1 + 1e-6)


def other_weights(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: original(*arguments) * np.float32(1 + 1e-6)


def one_observation_more(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, mean, variance, count: original(self, mean, variance, count + 1)


def plant(monkeypatch: Any, owner: Any, name: str, change: Any) -> None:
    """Put the changed function in the place of the original, in the table of objectives too."""
    original = getattr(owner, name)
    changed = functools.wraps(original)(change(original))
    monkeypatch.setattr(owner, name, changed)
    for each in OBJECTIVES.values():
        if each.function is original:
            monkeypatch.setitem(OBJECTIVES, each.name, replace(each, function=changed))


class TestPlantedChanges:
    @pytest.mark.parametrize(
        ("owner", "name", "change", "first", "differ"),
        [
            (Surrogate, "estimate", scaled_in_iteration_2, "iteration 2: policy_loss", 24),
            (Surrogate, "scheduled", squared_epsilon_schedule, "iteration 2: epsilon 0.1333 became 0.08889", 12),
            (ppo.objectives, "kl_penalty", stronger_penalty, "iteration 1: policy_loss", 9),
            (ppo.objectives, "adapt_beta", bolder_beta, "iteration 1: next_beta", 6),
            (ppo.rollout, "named_draws", louder_noise, "iteration 1: first_action", 16),
            (ppo.actor_critic, "initialise", other_weights, "iteration 0: parameters", 24),
            (ppo.normalisation.RunningMoments, "merge", one_observation_more, "iteration 1: filter", 24),
        ],
    )
    def test_the_first_thing_that_moved_is_named(
        self, owner: Any, name: str, change: Any, first: str, differ: int, traced: Lines, monkeypatch: Any
    ) -> None:
        before = {line: quantities for line, quantities in traced.items() if line[0] in TABLE_1}
        plant(monkeypatch, owner, name, change)
        (sentence,) = compare(before, trace.collect(TABLE_1), NAMES)
        assert sentence.startswith(PROFILE)
        assert f" seed 0, {first}" in sentence
        assert f"; {differ} of {len(TABLE_1)} runs differ" in sentence

    @pytest.mark.parametrize(
        ("owner", "name", "change", "objective"),
        [
            (
                ppo.objectives,
                "policy_gradient",
                lambda f: lambda log_prob, advantage: f(log_prob, advantage) * (1 + 1e-6),
                {"policy_gradient", "projected"},
            ),
            (ppo.objectives, "trajectory_ratio", lambda f: lambda **a: f(**a) + 1e-3, {"trajectory_ratio"}),
            (ppo.objectives, "project", lambda f: lambda g, k, delta: f(g, k, 2 * delta), {"projected"}),
            (ppo.trust_region, "fisher_vector_product", lambda f: lambda *a: f(*a[:4], damping=0.2), {"trust_region"}),
            (ppo.cem.Search, "score", lambda f: lambda self, run, score: f(self, run, -score), {"cem"}),
        ],
    )
    def test_a_change_of_one_algorithm_shows_in_its_runs_alone(
        self, owner: Any, name: str, change: Any, objective: set[str], traced: Lines, monkeypatch: Any
    ) -> None:
        plant(monkeypatch, owner, name, change)
        after = trace.collect(RUNS)
        assert {RUNS[run].algo.objective for run, n in traced if traced[run, n] != after[run, n]} == objective


class TestCompare:
    def test_earliest_iteration_then_cause_then_name(self) -> None:
        one: Lines = {("a", 1): {"kl": "1.0", "rewards": "sha256:1"}, ("b", 1): {"kl": "1.0"}, ("b", 2): {"ends": "x"}}
        other: Lines = {
            ("a", 1): {"kl": "2.0", "rewards": "sha256:1"},
            ("b", 1): {"kl": "3.0"},
            ("b", 2): {"ends": "y"},
        }
        assert compare(one, one, NAMES) == []
        assert compare(one, other, NAMES) == [
            "a, iteration 1: kl 1 became 2; 2 of 2 runs differ, this one first",
        ]
        other["b", 1]["value_loss"] = one["b", 1]["value_loss"] = "0"
        other["a", 1]["rewards"] = "sha256:2"
        assert compare(one, other, NAMES)[0].startswith("a, iteration 1: rewards sha256:1 became sha256:2; 2 of 2")

    def test_what_one_side_has_alone_is_named(self) -> None:
        one: Lines = {("a", 1): {"kl": "1", "old": "1"}, ("a", 2): {"kl": "1"}, ("b", 1): {"kl": "1"}}
        other: Lines = {("a", 1): {"kl": "1", "new": "1"}, ("c", 1): {"kl": "1"}}
        assert compare(one, other, NAMES) == [
            "only in there: b",
            "only in there: a, iteration 2",
            "only in there: the quantity old",
            "only in here: c",
            "only in here: the quantity new",
        ]

    def test_runs_that_came_with_the_new_code_are_no_difference_and_are_named(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one: Lines = {("a", 1): {"kl": "1"}}
        two: Lines = {**one, ("b", 1): {"kl": "1"}}
        assert trace.verdict(one, two, NAMES, []) == 0
        assert capsys.readouterr().out.splitlines() == [
            "there and here, 1 runs of 3 iterations each:",
            "the same, byte for byte",
            "1 runs are traced in here alone and were not compared: b, …",
            "every run is the same alone and beside other seeds",
        ]
        assert trace.verdict(two, one, NAMES, []) == 1, "what is traced no more may hide a change"
        assert trace.verdict(one, {("b", 1): {"kl": "1"}}, NAMES, []) == 1, "nothing was compared"

    @pytest.mark.parametrize(
        ("old", "new", "shown"),
        [
            ("0.41871234", "0.41901234", ("0.4187", "0.419")),
            ("0.4187", "0.41870000000000007", ("0.4187", "0.4187000000000001")),
            ("nan", "1.0", ("nan", "1")),
            ("0.0", "-0.0", ("0", "-0")),
            ("", "12 9", ("nothing", "12 9")),
            ("True", "False", ("True", "False")),
        ],
    )
    def test_values_are_as_short_as_can_be_told_apart(self, old: str, new: str, shown: tuple[str, str]) -> None:
        assert trace_sides.shown(old, new) == shown


@pytest.mark.usefixtures("one_profile")
class TestStored:
    def test_written_and_compared(self, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
        file = tmp_path / "trace"
        assert said(capsys, "--out", file) == (0, f"{file}: {len(trace.ALGOS)} runs of 3 iterations each\n")
        code, words = said(capsys, "--with", file)
        assert code == 0
        assert words.endswith(
            f"{len(trace.ALGOS)} runs of 3 iterations each:\nthe same, byte for byte\n"
            "every run is the same alone and beside other seeds\n"
        )
        monkeypatch.setattr(Surrogate, "scheduled", squared_epsilon_schedule(Surrogate.scheduled))
        code, words = said(capsys, "--with", file)
        assert code == 1
        assert "CartPole-v1 seed 0, iteration 2: epsilon 0.1333 became 0.08889; 4 of 16 runs differ" in words

    def test_one_line_an_iteration_and_no_word_of_place_or_time(self, tmp_path: Path, capsys: Any) -> None:
        said(capsys, "--out", tmp_path / "trace")
        head, *lines = (tmp_path / "trace").read_text().splitlines()
        assert set(json.loads(head)) == {"key", "sha256"}
        rows = [json.loads(line) for line in lines]
        assert [(row["run"], row["iteration"]) for row in rows] == sorted(
            (row["run"], row["iteration"]) for row in rows
        )
        assert all(list(row["quantities"]) == sorted(row["quantities"]) for row in rows)
        assert str(ROOT) not in (tmp_path / "trace").read_text()

    def test_another_machine_is_refused(self, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
        here = trace.machine()
        (tmp_path / "trace").write_text(trace.text_of({}, {**here, "cpu_capability": "AVX1", "numpy": "0.1"}))
        monkeypatch.setattr(trace, "collect", lambda runs: pytest.fail("nothing should be trained"))
        code, words = said(capsys, "--with", tmp_path / "trace")
        assert code == 2
        assert (
            f"cpu_capability AVX1 there, {here['cpu_capability']} here; numpy 0.1 there, {here['numpy']} here" in words
        )
        assert "torch" not in words

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text[:-40],
            lambda text: "".join(text.splitlines(keepends=True)[:-1]),
            lambda text: text.replace('"kl": "0.', '"kl": "1.', 1),
            lambda text: text.replace('"numpy": "', '"numpy": "9', 1),
            lambda text: "",
            lambda text: "[]\n",
            lambda text: '{"key": {}}\n',
            lambda text: "\xff\x00",
            lambda text: "[" * 100_000,
        ],
        ids=["torn", "a line lost", "altered", "key altered", "empty", "a list", "no seal", "binary", "deep"],
    )
    def test_what_is_not_whole_is_refused(self, spoil: Any, tmp_path: Path, capsys: Any, traced: Lines) -> None:
        text = spoil(trace.text_of(traced, trace.machine()))
        (tmp_path / "trace").write_bytes(text.encode("latin-1"))
        code, words = said(capsys, "--with", tmp_path / "trace")
        assert code == 2
        assert "no whole trace" in words

    def test_a_file_that_is_not_there_or_cannot_be(self, tmp_path: Path, capsys: Any) -> None:
        assert said(capsys, "--with", tmp_path / "none")[0] == 2
        assert said(capsys, "--out", tmp_path / "none" / "trace")[0] == 2
