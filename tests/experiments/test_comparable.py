"""What a baseline could not judge is known before it is trained."""

import subprocess
import sys

import pytest

from experiments import comparable
from experiments.comparable import odd
from ppo.refusals import UserError
from tests.conftest import ROOT


def said_by_make() -> list[str]:
    """The words with which `make regress` asks, and then trains."""
    asks, trains = (
        line.split()[4:] if "comparable" in line else line.split()[3:]
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "experiments.comparable" in line or "experiments.study study=regression" in line
    )
    assert asks == trains
    return trains


def test_what_make_regress_trains_fits_the_shipped_baseline() -> None:
    assert odd("regression", said_by_make()) == []


def test_other_settings_and_other_simulators_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = comparable.package_version
    monkeypatch.setattr(comparable, "package_version", lambda name: "4.0.0" if name == "mujoco" else real(name))
    found = odd("regression", [*said_by_make(), "profile.gamma=0.9"])
    assert "mujoco 4.0.0, not 3.6.0" in found
    assert any(line.startswith("profile.gamma=0.9, not 0.99 (") for line in found)
    assert len(found) == 2


def test_a_baseline_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="there is no baseline nonesuch"):
        odd("nonesuch", said_by_make())


def test_the_command_refuses_in_one_sentence() -> None:
    line = [sys.executable, "-m", "experiments.comparable", "regression", *said_by_make(), "env_steps=4096"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ") and "env_steps=4096, not 51200" in said and "nothing was trained" in said
