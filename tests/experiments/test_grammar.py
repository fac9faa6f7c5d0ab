"""A study's file: the variants it makes, and what is refused of it."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.compose import CONF, check_arguments
from experiments.grammar import Study, study_of
from experiments.manifest import expand
from ppo.refusals import UserError

WHOLE = {"variants": "{a: [algo=clip]}", "environments": "[cartpole]", "seeds": "[0]", "env_steps": "4096"}


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("seeds", "3", "study.seeds=3 should be a list"),
        ("seeds", "[0, 0]", "study.seeds: 0 stands there twice"),
        ("seeds", "[1.5]", "study.seeds=1.5 should be a whole number"),
        ("seeds", "['1']", "study.seeds=1 should be a whole number"),
        ("seeds", "[true]", "study.seeds=True should be a whole number"),
        ("seeds", "[9007199254740993.0]", "cannot be told"),
        ("seeds", "[0x10]", "line 3: YAML reads 0x10 as another number"),
        ("seeds", "[010]", "line 3: YAML reads 010 as another number"),
        ("seeds", "[1:30]", "line 3: YAML reads 1:30 as another number"),
        ("env_steps", "4_0:96", "should be a whole number"),
        ("env_steps", "[4096]", "study.env_steps=[4096] should be a whole number"),
        ("environments", "cartpole", "study.environments=cartpole should be a list, such as environments: [cartpole]"),
        ("environments", "[cartpole, cartpole]", "study.environments: cartpole stands there twice"),
        ("environments", "[on]", "line 2: YAML reads on as true or false"),
        ("environments", "[1]", "study.environments=1 should be a word"),
        ("environments", "{cartpole: }", "should be a list"),
        ("variants", "[clip_0.2]", "study.variants should name what each variant sets"),
        ("variants", "clip_0.2", "study.variants should name what each variant sets"),
        ("variants", "{a: algo=clip}", "study.variants.a=algo=clip should be a list of settings"),
        ("variants", "{a: [algo: clip]}", "should be a list of settings"),
        ("variants", "{a: }", "study.variants.a=None should be a list of settings"),
        ("variants", "{a: [clip]}", "clip is not key=value"),
        ("variants", "{a: [algo=clip, algo=trpo]}", "study.variants.a: algo stands there twice"),
        ("variants", "{a: [env=hopper]}", "study.variants.a: env=hopper is not for one variant"),
        ("variants", "{a: [records=x]}", "study.variants.a: records=x is not for one variant"),
        ("variants", "{a: [--config-dir=x]}", "--config-dir=x is not a setting"),
        ("variants", "{1: [algo=clip]}", 'line 1: YAML does not read the name 1 as text; write "1"'),
        ("variants", "{on: [algo=clip]}", 'line 1: YAML does not read the name on as text; write "on"'),
        ("variants", "{1e3: [algo=clip]}", 'write "1e3"'),
        ("variants", "{0.10: [algo=clip]}", 'write "0.10"'),
        ("variants", "{'a ': [algo=clip]}", "'a ' is no name"),
        ("variants", '{"a\\nb": [algo=clip]}', "is no name"),
        ("variants", "{a: [algo=clip], a: [algo=trpo]}", "line 1 is not readable YAML: found duplicate key"),
        ("variants", "{a: [algo=clip", "is not readable YAML"),
        ("variants", "{a: ['algo.epsilon=${nothing}']}", "nothing"),
        ("variants", "{}", "study.variants is not set"),
        ("settings", "algo.epsilon=0.1", "study.settings=algo.epsilon=0.1 should be a list of settings"),
        ("settings", "", "study.settings=None should be a list of settings"),
        ("settings", "[numerics=fast, numerics=exact]", "study.settings: numerics stands there twice"),
        ("settings", "[algo=trpo]", "study.settings (algo=trpo) and study.variants.a (algo=clip) both set algo;"),
        ("bases", "", "study.bases should name what each base sets, such as"),
        ("bases", "{}", "study.bases should name what each base sets, such as"),
        ("bases", "[modern]", "study.bases should name what each base sets, such as"),
        ("bases", "{b: profile=modern}", "study.bases.b=profile=modern should be a list of settings"),
        ("bases", "{b: }", "study.bases.b=None should be a list of settings"),
        ("bases", "{2: []}", 'line 5: YAML does not read the name 2 as text; write "2"'),
        ("bases", "{' b': []}", "study.bases: ' b' is no name"),
        ("bases", "{'': []}", "study.bases: '' is no name"),
        ("bases", "{b: [records=x]}", "study.bases.b: records=x is not for one variant"),
        ("bases", "{b: [env=hopper]}", "study.bases.b: env=hopper is not for one variant"),
        ("bases", "{b: [algo=trpo]}", "study.bases.b (algo=trpo) and study.variants.a (algo=clip) both set algo;"),
        ("bases", "{b: [], b: [profile=modern]}", "line 5 is not readable YAML: found duplicate key"),
        ("alone", "{}", "study.alone should name what each variant sets"),
        ("alone", "{a: [algo=trpo]}", "the study's variants: a stands there twice"),
        ("alone", "{b: [algo=trop]}", "variant b: algo=trop: there is no such algo, did you mean trpo"),
        ("base", "{b: []}", "study.base is not a part of a study, did you mean bases"),
        ("profile", "3", "study.profile=3 should be a word"),
        ("profile", "[modern]", "study.profile"),
        ("tables", "scores", "study.tables=scores should be a list"),
    ],
)
def test_a_malformed_study_file_names_what_is_wrong_in_one_sentence(
    part: str, value: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "study").mkdir()
    lines = "".join(f"{key}: {text}\n" for key, text in (WHOLE | {part: value}).items())
    (tmp_path / "study" / "mine.yaml").write_text(lines)
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError) as refusal:
        check_arguments([f"--config-dir={tmp_path}", "study=mine"], "launch")
        cfg = compose("launch", ["study=mine", f"hydra.searchpath=[file://{tmp_path}]"])
        expand(study_of(cfg), ["study=mine"])
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "3\n", "- a\n", "a: [\n", "seeds: \tx: 1\n", "\x00", "a: b: c\n"])
def test_a_study_file_that_is_no_study_breaks_no_other(text: str, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "bad.yaml").write_text(text)
    check_arguments([f"--config-dir={tmp_path}", "study=quick"], "launch")
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(UserError) as refusal:
        check_arguments([f"--config-dir={tmp_path}", "study=bad"], "launch")
        study_of(compose("launch", ["study=bad", f"hydra.searchpath=[file://{tmp_path}]"]))
    assert "\n" not in str(refusal.value)


def study_in(text: str, *overrides: str) -> Study:
    """The study of these lines, as it stands in a file."""
    plain = {**yaml.safe_load(text), "environments": ["cartpole"], "seeds": [0], "env_steps": 4096}
    asked = dict(override.partition("=")[::2] for override in overrides)
    cfg = {"study": plain, "variants": yaml.safe_load(asked.get("variants", "null")), "environments": None}
    return study_of(OmegaConf.create(cfg))


GRID = """
settings: [numerics=exact]
bases:
  plain: []
  wide: [profile.stepsize=1e-3, "profile.hidden_sizes=[8]"]
variants:
  clip: [algo=clip]
  none: [algo=unconstrained]
alone:
  random: [algo=random]
"""


def test_variants_are_bases_by_variants_with_the_common_settings_and_those_that_stand_alone() -> None:
    assert list(study_in(GRID).variants.items()) == [
        ("plain/clip", ("numerics=exact", "algo=clip")),
        ("plain/none", ("numerics=exact", "algo=unconstrained")),
        ("wide/clip", ("numerics=exact", "profile.stepsize=1e-3", "profile.hidden_sizes=[8]", "algo=clip")),
        ("wide/none", ("numerics=exact", "profile.stepsize=1e-3", "profile.hidden_sizes=[8]", "algo=unconstrained")),
        ("random", ("algo=random",)),
    ]
    assert list(study_in(GRID, "variants=[random,wide/clip]").variants) == ["wide/clip", "random"]
    with pytest.raises(UserError, match="the study has no clip, did you mean wide/clip"):
        study_in(GRID, "variants=[clip]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{bases: {b: [profile.gamma=1]}, variants: {a: [algo=clip, profile.gamma=0.9]}}",
         "study.bases.b (profile.gamma=1) and study.variants.a (profile.gamma=0.9) both set profile.gamma; let one"),
        ("{settings: [profile.gamma=1], bases: {b: [profile.gamma=1]}, variants: {a: [algo=clip]}}",
         "study.settings (profile.gamma=1) and study.bases.b (profile.gamma=1) both set profile.gamma; let one"),
        ("{settings: [+numerics=fast], variants: {a: [numerics=exact]}}",
         "study.settings (+numerics=fast) and study.variants.a (numerics=exact) both set numerics; let one"),
        ("{bases: {b: [profile.horizon=80]}, variants: {c: [algo=clip], a: [algo=a2c]}}",
         "study.bases.b (profile.horizon=80) and study.variants.a (algo=a2c, whose file has it) both set"),
        ("{bases: {a: [], a/b: []}, variants: {b/c: [algo=clip], c: [algo=trpo]}}",
         "the study's variants: a/b/c stands there twice"),
        ("{bases: {a: []}, variants: {b: [algo=clip]}, alone: {a/b: [algo=trpo]}}",
         "the study's variants: a/b stands there twice"),
    ],
)  # fmt: skip
def test_what_two_places_say_of_one_variant_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as refusal:
        study_in(text)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_variant_may_change_what_the_file_of_its_bases_algo_sets() -> None:
    study = study_in("{bases: {a2c: [algo=a2c]}, variants: {few: [profile.actors=4], many: [profile.actors=64]}}")
    assert study.variants["a2c/few"] == ("algo=a2c", "profile.actors=4")


def test_a_study_of_ones_own_has_bases_with_algos_of_ones_own(tmp_path: Path) -> None:
    for group in ("study", "algo"):
        (tmp_path / group).mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text((CONF / "algo" / "a2c.yaml").read_text())
    lines = WHOLE | {"bases": "{b: [profile.horizon=80]}", "variants": "{a: [algo=mine]}"}
    (tmp_path / "study" / "mine.yaml").write_text("".join(f"{key}: {text}\n" for key, text in lines.items()))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("launch", ["study=mine", f"hydra.searchpath=[file://{tmp_path}]"])
        with pytest.raises(UserError, match=r"study.variants.a \(algo=mine, whose file has it\) both set profile.hor"):
            study_of(cfg, tmp_path)
