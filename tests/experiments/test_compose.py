"""What a command line means, where its values come from, and which id its runs get."""

import builtins
import itertools
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir

from experiments import identity
from experiments.choices import names_in
from experiments.compose import CONF, WORDS, check_arguments, folder_of, known_keys, resolved_backend
from ppo.config import Profile
from ppo.learners import OBJECTIVES
from ppo.refusals import UserError
from tests.conftest import ROOT
from tests.experiments.composed import refusal, run, runs

PROFILES, ALGOS, ENVS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml") if "atari" not in path.stem)
    for group in ("profile", "algo", "env")
)
GAMES = sorted(path.stem for path in (CONF / "env" / "atari").glob("*.yaml") if path.stem != "settings")


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("overrides", "seeds"),
    [
        ([], [0]),
        (["seed=7"], [7]),
        (["num_seeds=3"], [0, 1, 2]),
        (["seed=5", "num_seeds=2"], [5, 6]),
        (["seeds=[4,0,7]"], [4, 0, 7]),
        (["seeds=[1e1]"], [10]),
    ],
)
def test_seeds_come_from_seed_seeds_or_num_seeds(overrides: list[str], seeds: list[int]) -> None:
    assert [named.config.seed for named in runs(*overrides)] == seeds


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seeds=[1]", "seed=1"], "stands alone"),
        (["seeds=[1]", "num_seeds=1"], "stands alone"),
        (["seeds=3"], "should be a list"),
        (["seeds=[]"], "at least one"),
        (["seeds=[1,1]"], "each seed once"),
        (["seeds=[1,1.5]"], "seeds=1.5 should be a whole number"),
        (["seeds=[-1]"], "seed=-1 is not a seed"),
        (["seed=-1"], "seed=-1 is not a seed"),
        (["seed=1.5"], "seed=1.5 should be a whole number"),
        (["seed=true"], "seed=True should be a whole number"),
        (["num_seeds=0"], "num_seeds=0 must be at least 1"),
        (["num_seeds=two"], "num_seeds=two should be a whole number"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(overrides: list[str], words: str) -> None:
    assert words in refusal(*overrides)


@pytest.mark.parametrize("said", ["1e6", "1_000_000", "1000000", "1000000.0"])
def test_a_whole_number_may_be_written_as_one_likes(said: str) -> None:
    steps = run(f"env_steps={said}").env_steps
    assert steps == 1_000_000
    assert type(steps) is int
    assert identity.run_id(run(f"env_steps={said}")) == identity.run_id(run())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env_steps=1.5e-3", "env_steps=0.0015 should be a whole number"),
        ("env_steps=true", "env_steps=True should be a whole number"),
        ("profile.epochs=true", "profile.epochs=True should be a whole number"),
        ("profile.stepsize=false", "profile.stepsize=False should be a number"),
        ("profile.clip_actions=1", "profile.clip_actions=1 should be true or false"),
        ("profile.clip_actions=yes_please", "should be true or false"),
        ("profile.activation=3", "profile.activation=3 should be a word"),
        ("profile.hidden_sizes=64", "profile.hidden_sizes=64 should be a list"),
        ("profile.hidden_sizes=[64,1.5]", "profile.hidden_sizes=1.5 should be a whole number"),
        ("profile.gamma=null", "profile.gamma=None should be a number"),
        ("profile.gamma=nan", "profile.gamma=nan is not a finite number"),
        ("profile.entropy_coef=inf", "profile.entropy_coef=inf is not a finite number"),
        ("env_steps=inf", "env_steps=inf is not a finite number"),
        ("algo.epsilon=abc", "algo.epsilon=abc should be a number"),
        ("env_steps=???", "env_steps"),
        ("backend=envpol", "backend=envpol is unknown; choose one of envpool, gymnasium"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(override: str, words: str) -> None:
    assert words in refusal(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+algo.epsilom=0.3", "algo.epsilom is not a setting, did you mean epsilon"),
        ("+profile.stepsizes=1", "profile.stepsizes is not a setting, did you mean stepsize"),
        ("+profile.xyzzy=1", "profile.xyzzy is not a setting"),
    ],
)
def test_an_unknown_setting_is_refused_with_near_matches(override: str, words: str) -> None:
    assert words in refusal(override)


def test_a_setting_of_another_algo_is_refused_with_those_of_this_one() -> None:
    for arguments, words in (
        (["algo.delta=1"], "it has objective, epsilon, advantage, gae_lambda, n_step"),
        (["algo=trpo", "algo.epsilon=0.1"], "it has objective, delta, kl_accepted"),
    ):
        with pytest.raises(UserError, match=rf"{arguments[-1]}: this algo has no such setting; {words}"):
            check_arguments(arguments)
    check_arguments(["algo=trpo", "algo.delta=0.1"])


@pytest.mark.parametrize("before", ["", "+", "++", "~"])
def test_what_stands_before_a_key_does_not_hide_that_it_is_mistyped(before: str) -> None:
    for argument, words in (
        (f"{before}seeed=3", "seeed is not a setting, did you mean seed"),
        (f"{before}algo.epsilom=3", "algo.epsilom is not a setting, did you mean algo.epsilon"),
    ):
        with pytest.raises(UserError, match=words):
            check_arguments([argument])
    with pytest.raises(UserError, match="sed is not a setting, did you mean seed"):
        check_arguments(["study=quick", f"{before}sed=7"], "launch")
    check_arguments([f"{before}seed=3", f"{before}algo.epsilon=0.3", f"{before}hydra.verbose=true"])


@pytest.mark.parametrize("before", ["", "+", "++"])
def test_a_version_of_a_task_that_has_but_one_is_refused(before: str) -> None:
    """runs_of leaves it out, so that another task would be trained than the one asked for."""
    for env in ("cartpole", "atari/pong"):
        with pytest.raises(UserError, match=r"env\.version=v5: this env has no such setting; it has id"):
            check_arguments([f"env={env}", f"{before}env.version=v5"])
    check_arguments([f"{before}env.version=v5"])
    check_arguments(["env=swimmer", f"{before}env.version=v5"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("env=hoper", "did you mean hopper?"),
        ("algo=clp", "did you mean clip?"),
        ("profile=ppo1_2017_8", "did you mean ppo1_2017_08"),
        ("algo=zzz", "choose one of a2c, "),
    ],
)
def test_an_unknown_choice_of_a_group_is_refused_with_near_matches(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=r"there is no such") as refused:
        check_arguments(["seed=1", argument])
    assert argument in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "argument",
    ["hopper", "records=/tmp/ü日本", "records=a=b", "records=a(b", "records=it's", "records=a[b", "records=~/here"],
)
def test_what_hydra_cannot_read_is_refused_with_how_to_quote_it(argument: str) -> None:
    with pytest.raises(UserError) as refused:
        check_arguments(["seed=1", argument])
    assert str(refused.value).startswith(f"{argument} is not key=value as Hydra reads it; quote odd values twice")
    key, _, value = argument.partition("=")
    if key == "records" and "'" not in value:
        quoted = f"records='{value}'"
        check_arguments([quoted])
        assert compose("config", [quoted]).records == value


@pytest.mark.parametrize("argument", ["seed=1,2", "env=hopper,walker2d", "seed=range(3)", "records=a,b"])
def test_a_sweep_is_refused_with_how_a_list_is_written(argument: str) -> None:
    with pytest.raises(UserError, match=r"is several values to Hydra; a list has brackets, such as seeds=\[0,1,2\]"):
        check_arguments([argument])


def test_options_between_key_and_value_pairs_are_refused() -> None:
    for arguments in (["seed=1", "--cfg", "job", "env=hopper"], ["env=hopper", "--no-such-option"]):
        with pytest.raises(UserError, match=rf"^{arguments[-1]} is not understood; options stand before or after"):
            check_arguments(arguments)


def test_each_command_has_its_own_keys_and_groups() -> None:
    check_arguments(["rounds=1", "json=true", "env=hopper"], "benchmark")
    check_arguments(
        ["study=quick", "cluster=slurm", "cluster.time='1:00:00'", "dry_run=true", "tracking=none"], "launch"
    )
    for argument, main in (
        ("rounds=1", "config"), ("study=quick", "config"), ("cluster.time=1", "config"), ("records=x", "benchmark"),
        ("tracking=none", "benchmark"), ("tracking.mode=none", "benchmark"), ("roundz=1", "benchmark"),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is not a setting"):
            check_arguments([argument], main)
    for main in ("config", "launch", "benchmark"):
        with pytest.raises(UserError, match="did you mean hopper"):
            check_arguments(["env=hoper"], main)


def test_known_choices_pass_also_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text("objective: clip\n")
    check_arguments(["env=hopper", "algo=clip", "seed=3", "algo.epsilon=0.1", "--cfg", "job"])
    check_arguments([f"--config-dir={tmp_path}", "algo=mine"])
    check_arguments(["--config-dir", str(tmp_path), "algo=mine"])
    with pytest.raises(UserError):
        check_arguments(["algo=mine"])


def test_the_version_is_part_of_the_tasks_name_and_of_the_id() -> None:
    v4, v5 = run(), run("env.version=v5")
    assert (v4.env.id, v5.env.id) == ("Hopper-v4", "Hopper-v5")
    assert identity.run_id(v4) != identity.run_id(v5)


def test_backend_auto_is_envpool_where_it_has_the_task_and_is_frozen_in_the_run() -> None:
    pytest.importorskip("envpool")
    assert run().backend == "envpool"
    assert run("env.id=NoSuchTask-v0").backend == "gymnasium"
    assert run("backend=gymnasium").backend == "gymnasium"
    assert identity.run_id(run()) == identity.run_id(run("backend=envpool"))


@pytest.mark.parametrize("profile", names_in(CONF / "profile"))
def test_a_profile_sets_fields_in_their_order_and_says_why_of_each(profile: str) -> None:
    lines = [line for line in (CONF / "profile" / f"{profile}.yaml").read_text().splitlines() if line[:1] != "#"]
    said = [line.partition(":")[0] for line in lines]
    assert said == [f.name for f in fields(Profile) if f.name in said]
    for line in lines:
        assert line.partition(" # ")[2].strip(), f"{line!r} has no source"


def test_a_field_that_no_profile_lists_is_set_on_the_command_line() -> None:
    """Hydra alone would want a + before a key that no file has."""
    everywhere = {"segment": ("8", 8), "lost_life": ("terminal", "terminal"), "rmsprop_decay": ("0.5", 0.5)}
    for name, (said, value) in everywhere.items():
        assert f"{name}:" not in (CONF / "profile" / "ppo1_2017_08.yaml").read_text()
        assert getattr(run(f"profile.{name}={said}").profile, name) == value
    assert run("profile.lost_life=goes_on") == run()
    assert compose("benchmark", ["profile.segment=8"]).profile.segment == 8
    with pytest.raises(UserError, match=r"profile\.segmen is not a setting, did you mean profile\.segment"):
        check_arguments(["profile.segmen=8"])


def test_a_profile_of_ones_own_sets_what_it_wants(tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    for text, words in (("gamma: 0.9\n", None), ("gama: 0.9\n", "profile.gama is not a setting, did you mean gamma")):
        (tmp_path / "profile" / "mine.yaml").write_text(text)
        asked = ["profile=mine", f"hydra.searchpath=[file://{tmp_path}]"]
        if words:
            assert words in refusal(*asked)
        else:
            assert run(*asked).profile == Profile(gamma=0.9)


@pytest.mark.parametrize("algo", ALGOS)
def test_an_algo_gives_all_settings_of_its_objective_and_others_of_a_profile_with_their_source(algo: str) -> None:
    text = (CONF / "algo" / f"{algo}.yaml").read_text()
    whole = yaml.safe_load(text)
    values = whole.get("algo", whole)
    objective = values["objective"]
    of_estimator = () if objective in ("random", "initial", "cem") else ("advantage", "gae_lambda", "n_step")
    assert tuple(values) == ("objective", *(setting.name for setting in OBJECTIVES[objective].settings), *of_estimator)
    profile = whole.get("profile", {})
    assert set(profile) <= {f.name for f in fields(Profile)}
    if algo != "a2c_trust_region":  # whose opening words say that a2c.yaml has the sources
        for name in profile:
            assert re.search(rf"^  {name}: .* # .+$", text, re.MULTILINE), f"profile.{name} has no source"


def test_every_task_algo_and_profile_of_conf_compose_together() -> None:
    """Every task with every algo, and every profile with each of both; all triples would take half a minute."""
    ids = set()
    for i, j in itertools.product(range(len(ENVS)), range(len(ALGOS))):
        env, algo, profile = ENVS[i], ALGOS[j], PROFILES[(i + j) % len(PROFILES)]
        (named,) = runs(f"env={env}", f"algo={algo}", f"profile={profile}")
        assert named.names == {"algo": algo, "profile": profile, "env": env}
        whole = yaml.safe_load((CONF / "algo" / f"{algo}.yaml").read_text())
        assert named.config.algo.objective == whole.get("algo", whole)["objective"]
        assert env.partition("_")[0] in named.config.env.id.lower()
        ids.add(identity.run_id(named.config))
    assert len(ids) == len(ENVS) * len(ALGOS)


def test_the_papers_49_games_compose_under_gymnasiums_names() -> None:
    import ale_py

    games = pd.read_csv(ROOT / "analysis" / "paper" / "table6.csv")["game"]
    gymnasium.register_envs(ale_py)
    ids = set()
    for game in GAMES:
        (named,) = runs(f"env=atari/{game}", "profile=atari_paper", "algo=clip", "algo.epsilon=0.1")
        assert named.names["env"] == f"atari/{game}"
        assert (named.config.backend, named.config.env.frame_skip, named.config.profile.steps) == ("ale", 4, 1024)
        assert named.config.env.id in gymnasium.registry
        ids.add(named.config.env.id)
    assert ids == {f"{game}NoFrameskip-v4" for game in games}
    (a2c,) = runs("env=atari/pong", "profile=atari_ppo2", "algo=a2c_atari")
    assert (a2c.config.profile.actors, a2c.config.profile.convolutions, a2c.config.algo.n_step) == (16, "nature", 5)


def test_a_misspelt_game_is_refused_with_near_matches() -> None:
    with pytest.raises(UserError, match="there is no such env, did you mean atari/breakout"):
        check_arguments(["env=atari/brekout"])


def test_the_command_line_outranks_algo_which_outranks_the_base() -> None:
    assert run().env_steps == 1_000_000
    assert run("algo=random").env_steps == 102_400
    assert run("env_steps=4096", "algo=random").env_steps == 4096


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("lr=1e-3", "it is called profile.stepsize here"),
        ("total_timesteps=1e5", "it is called env_steps here"),
        ("n_envs=8", "it is called profile.actors here"),
        ("clip_range=0.1", "it is called algo.epsilon here"),
        ("ent_coef=0.01", "it is called profile.entropy_coef here"),
        ("n_steps=128", "it is called profile.horizon here"),
        ("algo=ppo", "PPO is algo=clip"),
        ("env=pong", "say env=atari/pong"),
        ("env=ALE/MsPacman-v5", "say env=atari/ms_pacman"),
        ("env=PongNoFrameskip-v4", "say env=atari/pong"),
        ("env=HalfCheetah-v4", "say env=halfcheetah"),
        ("env=HalfCheetah-v5", "say env=halfcheetah env.version=v5"),
        ("env=LunarLander-v3", "env=cartpole env.id="),
    ],
)
def test_words_of_other_libraries_get_ours(argument: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        check_arguments([argument])
    assert words in str(refused.value)


def test_other_libraries_words_are_translated_to_keys_that_exist() -> None:
    assert set(WORDS.values()) <= set(known_keys("config"))
    assert not set(WORDS) & set(known_keys("config"))


def test_a_file_with_the_name_of_one_of_ours_is_refused(tmp_path: Path) -> None:
    """Hydra would take ours in silence."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "hopper.yaml").write_text("id: Walker2d-v4\n")
    for arguments in (["env=hopper"], ["algo=clip"]):  # chosen, or hopper by default
        with pytest.raises(UserError, match=r"hopper.yaml: there is a env=hopper in .* give yours another name"):
            check_arguments([f"--config-dir={tmp_path}", *arguments])
    with pytest.raises(UserError, match="there is no such folder"):
        check_arguments([f"--config-dir={tmp_path}/lost", "env=hopper"])
    with pytest.raises(UserError, match="--config-dir adds files of your own"):
        check_arguments(["--config-name", "launch", "env=hopper"])


@pytest.mark.parametrize("said", ["~", "~/here", "", "~someone/x"])
def test_a_folder_that_a_shell_should_have_written_out_is_refused(said: str) -> None:
    with pytest.raises(UserError, match="write the whole path"):
        folder_of("records", said)
    assert folder_of("records", "a $HOME b~") == Path("a $HOME b~")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'envpool'", name="envpool"), "EnvPool is not installed here"),
        (ImportError("libx.so: failed to map segment"), r"cannot be loaded here \(ImportError: libx.so: failed to map"),
        (MemoryError(), r"EnvPool cannot be loaded here \(MemoryError\)"),
    ],
)
def test_why_envpool_is_not_there_is_said_as_it_is(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    original = builtins.__import__

    def broken(name: str, *more: Any) -> Any:
        if name == "envpool":
            raise error
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=words):
        resolved_backend("auto", "Hopper-v4")
