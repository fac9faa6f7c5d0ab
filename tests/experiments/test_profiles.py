"""The profiles side by side: the text as a whole, and the two facts it is read for."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from experiments import profiles
from experiments.compose import CONF
from ppo.config import Profile
from ppo.refusals import UserError
from tests.conftest import profile_of

PAPER = """\
# Only what is printed.
gamma: 0.99 # Table 3
stepsize: 3e-4 # Table 3
value_clip: null # unprinted; section 5 prints none
hidden_sizes: [64, 64] # section 6.1
"""
OTHER = """\
# Somebody's code.
# Files: A = a.py.
gamma: 0.9 # A, as tuned
stepsize: 3e-4
reward_clip: 10.0 # A cliprew
"""
LAYOUT = {"Protocol": ["gamma", "stepsize"], "Clips": ["reward_clip", "value_clip"], "Networks": ["hidden_sizes"]}

TEXT = """\
– the paper prints nothing   ! contradicts what it prints   * the profiles differ

                paper    paper_text  other
Protocol
* gamma         0.99     0.99        0.9!
  stepsize      0.0003   0.0003      0.0003
Clips
* reward_clip   –        null        10
  value_clip    –        null        null
Networks
  hidden_sizes  [64,64]  [64,64]     [64,64]

Sources
  paper_text: Only what is printed.
  other: Somebody's code. Files: A = a.py.

  gamma         paper_text  0.99     Table 3
                other       0.9      A, as tuned
  stepsize      paper_text  0.0003   Table 3
                other       0.0003   no source given
  reward_clip   other       10       A cliprew
  value_clip    paper_text  null     unprinted; section 5 prints none
  hidden_sizes  paper_text  [64,64]  section 6.1

What differs from the paper
  paper_text
    not the neutral choice in 0 of 2 unprinted fields: none
    contradicts 0 of 3 printed fields: none
  other
    not the neutral choice in 1 of 2 unprinted fields: reward_clip=10
    contradicts 1 of 3 printed fields: gamma=0.9 (printed: 0.99; Table 3)"""


def sheet(folder: Path, name: str, text: str) -> profiles.Sheet:
    (folder / f"{name}.yaml").write_text(text)
    return profiles.read(folder / f"{name}.yaml")


def test_the_whole_text_for_two_profiles(tmp_path: Path) -> None:
    paper, other = sheet(tmp_path, "paper_text", PAPER), sheet(tmp_path, "other", OTHER)
    assert profiles.report([paper, other], paper, LAYOUT) == TEXT


def test_one_profile_alone_differs_from_nobody(tmp_path: Path) -> None:
    paper, other = sheet(tmp_path, "paper_text", PAPER), sheet(tmp_path, "other", OTHER)
    text = profiles.report([other], paper, LAYOUT)
    assert "\n* " not in text
    assert "0.9!" in text


def test_the_headings_are_those_of_the_declarations_and_hold_every_field_in_order() -> None:
    found = profiles.rooms()
    assert [name for group in found.values() for name in group] == [f.name for f in fields(Profile)]
    assert next(iter(found)) == "The protocol of Table 3"
    assert found["Optimisation"][0] == "max_grad_norm"
    assert len(found) == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-8, "1e-8"),
        (3e-4, "0.0003"),
        (2**0.5, "1.4142"),
        (64, "64"),
        ((8, 4), "[8,4]"),
    ],
)
def test_a_value_is_shown_as_one_would_type_it(value: object, text: str) -> None:
    assert profiles.shown(value) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gamma: 0.99 # Table 3\ngama: 1 # ?", "mine: profile.gama is not a setting, did you mean gamma"),
        ("gamma: true # ?", "mine: profile.gamma=True should be a number"),
        ("gamma: 1.5 # ?", "profile.gamma=1.5 must lie between 0 and 1"),
        ("gamma: [1 # ?", "is not readable YAML"),
        ("- gamma # ?", "should hold lines such as"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        sheet(tmp_path, "mine", text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_shows_all_profiles_plainly_and_within_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles.main([]) == 0
    text = capsys.readouterr().out
    (head,) = re.findall(r"^ +paper +(paper_text .*)$", text, re.MULTILINE)
    known = (path.stem for path in (CONF / "profile").glob("*.yaml"))
    assert sorted(head.split()) == sorted(name for name in known if not name.startswith("atari"))
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    assert "no source given" not in text


def test_the_command_compares_two_in_the_order_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles.main(["modern", "ppo1_2017_08"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +paper +modern +ppo1_2017_08$", text, re.MULTILINE)
    assert re.search(r"^\* time_limit +– +bootstrap +terminal$", text, re.MULTILINE)
    assert re.search(r"^  stepsize_schedule +\S+ +linear!? +linear!?$", text, re.MULTILINE)
    assert "ppo2_2018\n" not in text


def test_a_misspelt_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles.main(["modern", "modren"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: modren: there is no such profile, did you mean modern?\n"
    assert profiles.main(["zzz"]) == 2
    assert "choose one of atari_paper, atari_ppo2, modern, paper_match, paper_text" in capsys.readouterr().err
    assert profiles.main(["atari_paper", "modern"]) == 2
    assert "atari_paper is for Atari and others are not" in capsys.readouterr().err


def test_those_for_atari_are_compared_with_table_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles.main(["atari_ppo2"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +paper +atari_ppo2$", text, re.MULTILINE)
    assert re.search(r"^\*? +epochs +3 +4!$", text, re.MULTILINE)
    assert re.search(r"^\*? +entropy_coef +0\.01 +0\.01$", text, re.MULTILINE)
    assert re.search(r"^\*? +max_grad_norm +– +0\.5$", text, re.MULTILINE)


def test_on_a_terminal_differing_rows_are_bold_and_contradictions_red() -> None:
    styled = profiles.coloured(TEXT)
    assert styled.plain == TEXT
    seen = {(str(span.style), TEXT[span.start : span.end].split()[0]) for span in styled.spans}
    assert seen == {("bold", "*"), ("red", "0.9!")}
    assert sum(str(span.style) == "bold" for span in styled.spans) == 2


def differences(one: str, other: str) -> dict[str, tuple[object, object]]:
    a, b = profile_of(one), profile_of(other)
    names = [f.name for f in fields(Profile)]
    return {name: (getattr(a, name), getattr(b, name)) for name in names if getattr(a, name) != getattr(b, name)}


def test_pposgd_of_july_is_ppo1_of_august_but_for_what_that_commit_changed() -> None:
    """baselines@d9f194f dropped value clipping, doubled the weight, raised Adam's ε and began to anneal."""
    assert differences("ppo1_2017_07", "ppo1_2017_08") == {
        "value_coef": (0.5, 1.0),
        "value_clip": (0.2, None),
        "adam_epsilon": (1e-8, 1e-5),
        "stepsize_schedule": ("constant", "linear"),
        "epsilon_schedule": ("constant", "linear"),
    }


def test_what_matches_the_paper_is_ppo1_without_filter_and_standardising() -> None:
    assert differences("paper_match", "ppo1_2017_08") == {
        "observation_filter": ("none", "per_rollout"),
        "standardise": ("none", "rollout"),
    }


def test_modern_is_ppo2_but_for_three_switches() -> None:
    assert differences("modern", "ppo2_2018") == {
        "clip_actions": (True, False),
        "time_limit": ("bootstrap", "terminal"),
        "value_clip": (None, 0.2),
    }
