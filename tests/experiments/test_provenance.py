"""Where the code of a run comes from, asked of real repositories; what git does not tell is unknown, not clean."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from experiments.files import read_json
from experiments.records import provenance
from experiments.records.provenance import DIFF_LIMIT, origin
from experiments.records.record import Record
from experiments.rerun import rerun
from ppo.refusals import UserError
from tests.conftest import Killed, named, promised, small_run, train
from tests.experiments.test_resume import train_until_checkpoint


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of one commit, in which this code seems to lie."""
    for name in ("analysis/plot.py", "ppo/pack.py", "experiments/train.py", "conf/config.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("old\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message=first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    origin.cache_clear()
    yield tmp_path
    origin.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert origin() == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "dirty": False, "diff": ""}


@pytest.mark.parametrize("trouble", ["refuses", "is missing", "hangs"])
def test_where_git_tells_nothing_it_is_said_once_and_written(
    trouble: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "ppo/pack.py").write_text("new\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    match trouble:
        case "refuses":
            monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it
            reason = "dubious ownership"
        case "is missing":
            monkeypatch.setenv("PATH", str(tools))
            reason = "No such file or directory: 'git'"
        case "hangs":
            (tools / "git").write_text("#!/bin/sh\nexec sleep 60\n")
            (tools / "git").chmod(0o755)
            monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
            monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
            reason = "timed out after 0.2 seconds"
    found = origin()
    assert (found["commit"], found["dirty"], found["diff"]) == (None, None, "")
    assert reason in found["git_error"] and "\n" not in found["git_error"]
    assert origin() == found
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_diff_too_long_keeps_what_computes_and_is_marked_where_it_is_cut(checkout: Path) -> None:
    (checkout / "analysis/plot.py").write_text("x" * 2 * DIFF_LIMIT)
    for name in ("ppo/pack.py", "experiments/train.py", "conf/config.yaml"):
        (checkout / name).write_text(f"new of {name}\n")
    found = origin()
    whole = git(checkout, "diff", "HEAD")
    assert found["dirty"]
    for name in ("ppo/pack.py", "experiments/train.py", "conf/config.yaml"):
        assert f"+new of {name}" in found["diff"]
    assert "+xxx" in found["diff"]
    kept, _, mark = found["diff"].rpartition("\n[cut here: ")
    assert mark == f"{len(whole) - len(kept)} more characters]\n"


def test_a_diff_that_fits_is_whole(checkout: Path) -> None:
    (checkout / "analysis/plot.py").write_bytes(b"\xe9t\xe9\n")  # not UTF-8
    (checkout / "conf/config.yaml").unlink()
    told = subprocess.run(["git", "diff", "HEAD"], cwd=checkout, capture_output=True).stdout
    assert sorted(origin()["diff"].splitlines()) == sorted(told.decode(errors="replace").splitlines())


TASK = """
import gymnasium, numpy as np
class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(3, np.float32), {}
    def step(self, action):
        self.t += 1
        return np.zeros(3, np.float32), GAIN, self.t == 9, False, {}
gymnasium.register("Own-v0", Own)
"""


def test_the_code_of_a_task_of_ones_own_belongs_to_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    module = tmp_path / "own_task_of_a_test.py"
    module.write_text(TASK.replace("GAIN", "1.0"))
    monkeypatch.syspath_prepend(tmp_path)
    small = {"horizon": 64, "minibatch_size": 32}
    run = small_run(0, 4, "own_task_of_a_test:Own-v0", backend="gymnasium", profile=small)
    try:
        with pytest.raises(Killed):
            train_until_checkpoint([run], tmp_path, 2)
        folder = Record(tmp_path, *named([run])).folder
        kept = read_json(folder / "provenance.json")["task"]
        text = b"own_task_of_a_test.py\n" + module.read_bytes()
        assert kept == {"own_task_of_a_test": {"sha256": hashlib.sha256(text).hexdigest(), "version": None}}
        module.write_text(TASK.replace("GAIN", "2.0"))
        with pytest.raises(UserError, match="begun with other code of its task: own_task_of_a_test changed since"):
            train([run], tmp_path)
        module.write_text(TASK.replace("GAIN", "1.0"))
        train([run], tmp_path)
        assert promised([run], tmp_path) == undisturbed([run])
        module.write_text(TASK.replace("GAIN", "2.0"))
        assert train([run], tmp_path).already  # what is finished stays so
        with pytest.raises(UserError, match="begun with other code of its task"):
            rerun(folder)
    finally:
        gymnasium.registry.pop("Own-v0", None)


def test_a_package_is_its_files_and_its_version_and_gymnasiums_own_tasks_are_in_the_code_id(tmp_path: Path) -> None:
    assert provenance.task_code(small_run(env="CartPole-v1", backend="gymnasium")) == {}
    assert provenance.task_code(small_run()) == {}
    found = provenance.source("hydra", "hydra.core")
    assert found["version"] == version("hydra-core") and len(found["sha256"] or "") == 64
