"""The planted bugs still fit the code, and their README says of them what was measured."""

import subprocess

import pytest

from tests.conftest import ROOT
from tests.planted.measure import GATES, HERE, SEEDS_PER_LOOK, UNCHANGED, bugs
from tests.planted.table import bugs_table, stored


@pytest.mark.parametrize("name", bugs())
def test_a_patch_applies_to_this_code_and_changes_the_algorithm_alone(name: str) -> None:
    patch = HERE / f"{name}.patch"
    done = subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    touched = {line.split()[1] for line in patch.read_text().splitlines() if line.startswith("+++ ")}
    assert all(path.startswith("b/ppo/") for path in touched)


def test_every_bug_was_measured_with_all_its_seeds() -> None:
    runs, said, _ = stored()
    assert set(said["bug"]) == set(runs["bug"]) == {UNCHANGED, *bugs()}
    seeds = runs[runs["bug"] != UNCHANGED].groupby(["bug", "env"], observed=True)["seed"].nunique()
    assert (seeds == GATES * SEEDS_PER_LOOK).all()


def test_the_readme_has_the_table_that_was_measured() -> None:
    assert bugs_table(*stored()) in (HERE / "README.md").read_text()
