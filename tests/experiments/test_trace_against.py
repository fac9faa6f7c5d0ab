"""`experiments.trace --against REV`: two checkouts side by side, what moved is named, and nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import equal_codes
from experiments import trace, trace_sides
from experiments.identity import code_id
from experiments.trace_sides import Side
from tests.conftest import ROOT
from tests.experiments.test_trace import IN_REPOSITORY, PROFILE, said


def git(folder: Path, *arguments: str) -> str:
    person = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *person, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of this checkout with one profile, and nothing of git."""
    folder = tmp_path_factory.mktemp("packages")
    other = shutil.ignore_patterns("__pycache__", "baselines", "pictures", "reports")
    for name in ("ppo", "experiments", "conf", "analysis"):
        shutil.copytree(ROOT / name, folder / name, ignore=other)
    for path in (folder / "conf" / "profile").glob("*.yaml"):
        if path.stem != PROFILE:
            path.unlink()
    return folder


@pytest.fixture
def repository(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two commits, the first without trace.py; this process takes it for its own. No worktree may remain."""
    folder, temporary = tmp_path / "repository", tmp_path / "temporary"
    shutil.copytree(packages, folder)
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(trace_sides, "ROOT", folder)
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "add", "--all", "--", ":!experiments/trace.py")
    git(folder, "commit", "--quiet", "--message=old")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=new")
    yield folder
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    assert list(temporary.glob("trace-*")) == []


def plant(repository: Path, path: str, old: str, new: str) -> None:
    text = (repository / path).read_text()
    assert text.count(old) == 1
    (repository / path).write_text(text.replace(old, new))


class TestAgainst:
    def test_a_planted_change_is_named(self, repository: Path) -> None:
        """The real command, as a person gives it, about the present commit; PYTHONPATH leads elsewhere."""
        plant(repository, "ppo/objectives.py", "advantage - beta * kl", "advantage - 1.0001 * beta * kl")
        git(repository, "commit", "--quiet", "--all", "--message=planted")
        done = subprocess.run(
            [sys.executable, "-m", "experiments.trace", "--against", "HEAD~1"],
            cwd=repository, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (1, "")
        head, first, _ = done.stdout.splitlines()
        old, new = git(repository, "log", "-2", "--format=%h", "--abbrev=7").split()[::-1]
        assert head == f"HEAD~1 ({old}) and the present commit {new}, {IN_REPOSITORY} runs of 3 iterations each:"
        assert first.startswith(f"{PROFILE} kl_adaptive_0.01 CartPole-v1 seed 0, iteration 1: policy_loss ")
        assert f"; 18 of {IN_REPOSITORY} runs differ" in first

    def test_an_uncommitted_comment_is_the_same(self, repository: Path, capsys: Any) -> None:
        plant(
            repository, "ppo/objectives.py", "    return ratio * advantage\n", "    return ratio * advantage  # eq. 6\n"
        )
        code, words = said(capsys, "--against", "HEAD")
        assert code == 0
        assert f"and the working tree with uncommitted changes, {IN_REPOSITORY} runs" in words
        assert words.endswith("the same, byte for byte\nevery run is the same alone and beside other seeds\n")
        assert "# eq. 6" in (repository / "ppo" / "objectives.py").read_text()

    def test_what_is_the_same_is_recorded(self, repository: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two real commits and their code ids, and a trace by hand."""

        @contextmanager
        def tracing(side: Side, options: Any) -> Iterator[Any]:
            side.trace.write_text(trace.text_of({("a", 0): {"kl": "0.5"}}, {"cpu": "Zen 5"}))
            yield SimpleNamespace(communicate=lambda: ("", ""), returncode=0)

        monkeypatch.setattr(trace_sides, "tracing", tracing)
        monkeypatch.setattr(equal_codes, "FILE", repository / "analysis" / "equal_codes.jsonl")
        plant(
            repository, "ppo/objectives.py", "    return ratio * advantage\n",
            "    surrogate = ratio * advantage\n    return surrogate\n",
        )  # fmt: skip
        code, words = said(capsys, "--against", "HEAD", "--record")
        assert (code, words) == (
            2, "error: --record is for commits, and ppo/objectives.py has uncommitted changes; commit first",
        )  # fmt: skip
        git(repository, "commit", "--quiet", "--all", "--message=two lines")
        code, words = said(capsys, "--against", "HEAD~1", "--record")
        assert code == 0, words
        (proof,) = equal_codes.read()
        assert list(proof.commits) == git(repository, "log", "-2", "--format=%H").split()[::-1]
        assert proof.code_ids[0] == code_id() != proof.code_ids[1]
        said(capsys, "--against", "HEAD~1", "--record")
        assert equal_codes.read() == [proof]

    def test_code_that_cannot_be_traced(self, repository: Path, capsys: Any) -> None:
        plant(repository, "conf/profile/ppo1_2017_08.yaml", "gamma: 0.99", "gamma: 99")
        code, words = said(capsys, "--against", "HEAD")
        assert code == 2
        assert "the working tree with uncommitted changes cannot be traced: profile.gamma=99" in words

    def test_revisions_that_are_none_or_too_old(self, repository: Path, capsys: Any) -> None:
        for revision in ("nix", "--all", "HEAD:ppo"):
            code, words = said(capsys, f"--against={revision}")
            assert (code, words) == (
                2,
                f"error: {revision}: this repository has no such commit, branch or tag\n".strip(),
            )
        code, words = said(capsys, "--against", "HEAD~1")
        assert code == 2
        assert "is older than experiments/trace.py" in words

    def test_outside_a_repository(self, packages: Path, repository: Path, capsys: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(trace_sides, "ROOT", packages)
        assert "is not in a git repository" in said(capsys, "--against", "HEAD")[1]
        monkeypatch.setattr(trace_sides, "ROOT", repository / "ppo")
        assert "is not the top of a git repository" in said(capsys, "--against", "HEAD")[1]

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_leaves_nothing(self, signum: signal.Signals, repository: Path) -> None:
        """Ctrl-C reaches the children too, a scheduler's TERM does not; the fixture looks for what is left."""
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.trace", "--against", "HEAD"],
            cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        began = time.monotonic()
        while len(git(repository, "worktree", "list").splitlines()) == 1:
            assert process.poll() is None and time.monotonic() < began + 300
            time.sleep(0.02)
        if signum == signal.SIGINT:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
        assert (process.communicate(timeout=300)[0], process.returncode) == ("", 128 + signum)

    def test_a_checkout_is_never_traced_with_the_code_of_another(self, repository: Path, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "experiments.trace", "--out", str(tmp_path / "trace")],
            cwd=repository, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 2
        assert f"{repository} should be traced, but Python imports {ROOT / 'experiments'}" in done.stderr
        assert not (tmp_path / "trace").exists()
