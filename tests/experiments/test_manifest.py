"""A study's grid: what it expands to, how it is frozen, and what is refused."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.compose import CONF
from experiments.grammar import Study, study_of
from experiments.identity import run_id
from experiments.manifest import Entry, composed, expand, freeze, read_manifest
from ppo.refusals import UserError

SMALL = Study(
    environments=("cartpole", "hopper"),
    variants={"plain": ("algo=unconstrained",), "clip": ("algo=clip", "algo.epsilon=0.3")},
    seeds=(0, 5),
    env_steps=4096,
    profile="paper_text",
)


@pytest.fixture
def expanded() -> Any:
    """`expand` inside Hydra, as the command has it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield expand


def asked(study: str, *overrides: str) -> tuple[Study, list[Entry]]:
    """What the command would expand."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("launch", overrides=[f"study={study}", *overrides])
        chosen = study_of(cfg)
        return chosen, expand(chosen, [f"study={study}", *overrides])


def test_the_grid_is_variants_by_environments_by_seeds(expanded: Any) -> None:
    entries = expanded(SMALL, [])
    assert [(e.variant, e.env, e.run.config.seed) for e in entries] == [
        (variant, env, seed) for variant in ("plain", "clip") for env in ("cartpole", "hopper") for seed in (0, 5)
    ]
    assert len({e.run_id for e in entries}) == 8
    for entry in entries:
        config = entry.run.config
        assert config.env_steps == 4096
        assert config.profile.standardise == "none"  # paper_text
        assert config.env.id == {"cartpole": "CartPole-v1", "hopper": "Hopper-v4"}[entry.env]
        assert config.algo.epsilon == {"plain": None, "clip": 0.3}[entry.variant]
        assert entry.run.names["variant"] == entry.variant


def test_table1_is_the_papers_grid() -> None:
    _, entries = asked("table1")
    learners = [e for e in entries if e.run.config.algo.learner.learns]
    assert len(learners) == 11 * 7 * 3
    assert len(entries) == 13 * 7 * 3
    assert {e.run.config.env_steps for e in learners} == {1_000_000}
    assert {e.run.config.seed for e in entries} == {0, 1, 2}
    settings = {(e.run.config.algo.objective, e.run.config.algo.epsilon or e.run.config.algo.kl_target
                 or e.run.config.algo.beta) for e in learners}  # fmt: skip
    assert settings == {
        ("unconstrained", None), ("clip", 0.1), ("clip", 0.2), ("clip", 0.3), ("kl_adaptive", 0.003),
        ("kl_adaptive", 0.01), ("kl_adaptive", 0.03), ("kl_fixed", 0.3), ("kl_fixed", 1), ("kl_fixed", 3),
        ("kl_fixed", 10),
    }  # fmt: skip
    assert {e.run.config.env.id.rpartition("-")[2] for e in entries} == {"v4"}


SHIPPED = {
    "atari49": (294, "atari/alien", "bb730e37bc6fab84"),
    "atari_smoke": (4, "atari/pong", "fe72cfba340c6e1e"),
    "figure3": (147, "halfcheetah", "552c6e13c32f0147"),
    "ladder": (260, "cartpole", "bc7b6d1cd5ab7074"),
    "lecture_cartpole": (10, "cartpole", "df07693705c77709"),
    "lecture_halfcheetah": (6, "halfcheetah", "7569321fc20583b9"),
    "lecture_pendulum": (10, "pendulum_2000", "46e9213c6be3fe03"),
    "pilot": (492, "halfcheetah", "482d77b164cb65a1"),
    "pong": (3, "atari/pong", "1640951ff27723d3"),
    "profiles": (99, "halfcheetah", "c93234af7f608a98"),
    "quick": (32, "cartpole", "ee2190de789ad95b"),
    "regression": (144, "cartpole", "44c6e21385e6317d"),
    "table1": (273, "halfcheetah", "f3343f81f4b6040a"),
}
"""At commit 31bc296: how many runs, the first task, and SHA-256 of the runs on it, "run id, variant, task" in order."""


def test_all_shipped_studies_are_listed() -> None:
    assert sorted(SHIPPED) == sorted(path.stem for path in (CONF / "study").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_has_the_runs_and_the_order_that_it_always_had(name: str) -> None:
    runs, first, recorded = SHIPPED[name]
    _, entries = asked(name, f"environments=[{first}]")
    lines = "".join(f"{entry.run_id} {entry.variant} {entry.env}\n" for entry in entries)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == recorded
    environments = yaml.safe_load((CONF / "study" / f"{name}.yaml").read_text())["environments"]
    assert (environments[0], len(environments) * len(entries)) == (first, runs)


def test_the_command_line_reaches_every_run_and_picks_variants_and_environments() -> None:
    _, entries = asked(
        "table1", "variants=[clip_0.2,kl_fixed_1]", "environments=[hopper]", "env_steps=2e5", "num_seeds=4",
        "env.version=v5", "profile.gamma=0.9", "algo.gae_lambda=0.8", "records=/nowhere", "cluster.workers=1",
    )  # fmt: skip
    assert [(e.variant, e.run.config.seed) for e in entries] == [
        (variant, seed) for variant in ("clip_0.2", "kl_fixed_1") for seed in range(4)
    ]
    for config in (e.run.config for e in entries):
        assert (config.env.id, config.env_steps, config.profile.gamma) == ("Hopper-v5", 200_000, 0.9)
        assert config.algo.gae_lambda == 0.8


def test_the_command_lines_profile_stands_above_the_studys() -> None:
    _, entries = asked("quick", "profile=modern", "variants=[clip_0.2]", "environments=[cartpole]", "seed=3")
    (entry,) = entries
    assert entry.run.config.profile.init == "orthogonal"
    assert entry.run.config.seed == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algo.epsilon=0.5"], "algo.epsilon is set by the study's variants clip_0.2"),
        (["algo=clip"], "unconstrained, clip_0.2, kl_adaptive_0.01, random"),
        (["env=hopper"], "environments=[…]"),
        (["profile.gamma=0.9", "profile.gamma=0.8", "variants=[]"], "variants=[] picks nothing"),
        (["environments=[]"], "environments=[] picks nothing"),
        (["variants=[clip_0.1]"], "did you mean clip_0.2"),
        (["environments=[cartpol]"], "did you mean cartpole"),
        (["++env.version=v5", "environments=[cartpole]"], "env.version=v5: this env has no such setting"),
        (["variants=[clip_0.2]", "env_steps=10"], "less than one iteration"),
    ],
)
def test_what_contradicts_the_study_is_refused(overrides: Sequence[str], words: str) -> None:
    with pytest.raises(UserError) as refusal:
        asked("quick", *overrides)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("study", "overrides", "words"),
    [
        (
            "figure3",
            ["profile.horizon=80"],
            "a2c (algo=a2c), a2c_trust_region (algo=a2c_trust_region), trpo (algo=trpo)",
        ),
        ("figure3", ["variants=[a2c]", "profile.stepsize=1e-3"], "set by the study's variants a2c (algo=a2c)"),
        ("figure3", ["variants=[a2c,clip_0.2]", "algo.gae_lambda=0.9"], "variants (a2c 1.0, clip_0.2 0.95)"),
        ("ladder", ["profile.hidden_sizes=[8]"], "set by the study's variants trpo (algo=trpo)"),
        ("ladder", ["variants=[baseline,clip_0.2]", "profile.standardise=rollout"], "variants baseline;"),
        ("pilot", ["profile.observation_filter=none"], "variants no_filter/unconstrained, no_filter/clip_0.2,"),
        ("profiles", ["profile.init=normc"], "profile.init is not the same in all of the study's variants"),
        (
            "profiles",
            ["variants=[paper_text/clip_0.2,modern/clip_0.2]", "profile.max_grad_norm=1.0"],  # paper_text is silent
            "(paper_text/clip_0.2 None, modern/clip_0.2 0.5) and would become so",
        ),
    ],
)
def test_what_an_algos_file_or_a_base_sets_belongs_to_the_variant(
    study: str, overrides: Sequence[str], words: str
) -> None:
    with pytest.raises(UserError) as refusal:
        asked(study, *overrides)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_no_algos_file_sets_still_reaches_every_run() -> None:
    _, entries = asked("figure3", "profile.gamma=0.9", "environments=[hopper]", "variants=[a2c,clip_0.2]", "seed=1")
    assert {e.run.config.profile.gamma for e in entries} == {0.9}
    _, entries = asked(
        "figure3",
        "variants=[clip_0.2,random]",
        "profile.horizon=80",
        "profile.minibatch_size=80",
        "environments=[hopper]",
    )
    assert {e.run.config.profile.horizon for e in entries} == {80}
    _, entries = asked("profiles", "profile.gamma=0.9", "environments=[hopper]", "variants=[modern/clip_0.2,random]")
    assert {e.run.config.profile.gamma for e in entries} == {0.9}


@pytest.mark.parametrize(
    ("said", "random", "others"),
    [("", 204_800, 1_000_000), ("50_000", 50_000, 50_000), ("2e5", 200_000, 200_000), ("3000000", 204_800, 3_000_000)],
)
def test_a_variants_own_budget_is_cut_by_the_command_line_and_never_grows(said: str, random: int, others: int) -> None:
    _, entries = asked(
        "table1", "environments=[hopper]", "variants=[clip_0.2,random]", *([f"env_steps={said}"] * bool(said))
    )
    budgets = {e.variant: e.run.config.env_steps for e in entries}
    assert budgets == {"clip_0.2": others, "random": random}


def test_files_of_ones_own_are_found_in_every_part_of_a_study(tmp_path: Path) -> None:
    for group, name in (("algo", "clip"), ("env", "hopper"), ("profile", "modern")):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text((CONF / group / f"{name}.yaml").read_text())
    path = f"hydra.searchpath=[file://{tmp_path}]"
    study = Study(("mine",), {"a": ("algo=mine",), "b": ("algo=trpo",)}, (0,), 4096, "mine")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        a, b = expand(study, [path], own=tmp_path)
        assert run_id(a.run.config) == run_id(asked_run("profile=modern", "env=hopper", "algo=clip"))
        assert b.run.config.algo.objective == "trust_region"
        with pytest.raises(UserError, match="there is no such algo"):
            expand(study, [path])


def asked_run(*overrides: str) -> Any:
    (run,) = composed([*overrides, "env_steps=4096"])
    return run.config


@pytest.mark.parametrize("name", ["ε = 0.2", "-x", "010", "on", "a,b", "a/b", "naïve"])
def test_a_variants_name_is_stored_as_it_was_written(name: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.create({"study": {**SMALL.__dict__, "variants": {name: ["algo=clip"]}}, "variants": None,
                                "environments": None})  # fmt: skip
        entries = expand(study_of(cfg), [])
    freeze(tmp_path / "s", entries, extend=False)
    assert {entry.variant for entry in read_manifest(tmp_path / "s")} == {name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"variants": {"a": ("algo=clip",), "b": ("algo=clip", "algo.epsilon=0.2")}},
            "variants a on cartpole and b on cartpole are one run",
        ),
        ({"variants": {"a": ("algo=clop",)}}, "did you mean clip"),
        ({"variants": {"a": ("algo=clip", "algo.epsilom=1")}}, "did you mean algo.epsilon"),
        ({"environments": ("hoper",)}, "did you mean hopper"),
        ({"profile": "ppo1_2017_8"}, "ppo1_2017_8"),
        ({"variants": {"a": ("algo=clip", "algo.epsilon=big")}}, "should be a number"),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_sentence(expanded: Any, change: Any, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        expanded(Study(**(SMALL.__dict__ | change)), [])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


class TestFrozen:
    @pytest.fixture
    def entries(self, expanded: Any) -> list[Entry]:
        return expanded(SMALL, [])

    def test_what_is_read_is_what_was_written(self, tmp_path: Path, entries: list[Entry]) -> None:
        assert freeze(tmp_path / "s", entries, extend=False) == entries
        assert read_manifest(tmp_path / "s") == entries
        lines = [json.loads(line) for line in (tmp_path / "s/manifest.jsonl").read_text().splitlines()]
        assert [line["run_id"] for line in lines] == [run_id(e.run.config) for e in entries]

    def test_the_same_again_changes_no_byte(self, tmp_path: Path, entries: list[Entry]) -> None:
        freeze(tmp_path / "s", entries, extend=False)
        before = (tmp_path / "s/manifest.jsonl").read_bytes()
        freeze(tmp_path / "s", entries, extend=True)
        assert (tmp_path / "s/manifest.jsonl").read_bytes() == before

    def test_another_expansion_is_refused_with_the_difference(self, tmp_path: Path, entries: list[Entry]) -> None:
        freeze(tmp_path / "s", entries[:6], extend=False)
        with pytest.raises(UserError, match=r"2 new .*Hopper-v4-clip_0.3.s0.*extend=true adds"):
            freeze(tmp_path / "s", entries, extend=False)
        with pytest.raises(UserError, match=r"1 missing .*CartPole-v1-unconstrained.s0"):
            freeze(tmp_path / "s", entries[1:6], extend=False)
        assert len(read_manifest(tmp_path / "s")) == 6

    def test_extending_appends_and_never_removes(self, tmp_path: Path, entries: list[Entry]) -> None:
        freeze(tmp_path / "s", entries[2:4], extend=False)
        before = (tmp_path / "s/manifest.jsonl").read_text()
        with pytest.raises(UserError, match="never removes"):
            freeze(tmp_path / "s", entries[:3], extend=True)
        grown = freeze(tmp_path / "s", entries, extend=True)
        assert (tmp_path / "s/manifest.jsonl").read_text().startswith(before)
        assert grown == read_manifest(tmp_path / "s")
        assert {e.run_id for e in grown} == {e.run_id for e in entries}

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda line: line.replace('"seed": 5', '"seed": 6'), "line 2 was changed by hand"),
            (lambda line: line.replace('"gamma": 0.99', '"gamma": 0.9'), "line 2 was changed by hand"),
            (lambda line: line.replace('"run_id"', '"runid"'), "line 2: KeyError('run_id')"),
            (lambda line: line.replace('"gamma"', '"gama"'), "gama is not a setting"),
            (lambda line: line[:-5], "not readable as one JSON object per line"),
        ],
    )
    def test_a_line_edited_by_hand_is_refused(
        self, tmp_path: Path, entries: list[Entry], edit: Callable[[str], str], words: str
    ) -> None:
        freeze(tmp_path / "s", entries, extend=False)
        path = tmp_path / "s/manifest.jsonl"
        lines = path.read_text().splitlines()
        lines[1] = edit(lines[1])
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(UserError) as refusal:
            read_manifest(tmp_path / "s")
        assert words in str(refusal.value)
