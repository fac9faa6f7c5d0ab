"""What the tests of watching and filming share: runs trained once, and the command with what it said."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from experiments import watch
from ppo.config import Algo
from tests.conftest import small_run, train

CARTPOLE = small_run(env="CartPole-v1", iterations=3)
HOPPER = small_run(env="Hopper-v4", iterations=2)
CLIPPED = small_run(env="Reacher-v4", iterations=2, profile={"horizon": 256, "epochs": 2, "clip_actions": True})
RANDOM = replace(HOPPER, algo=Algo("random"))
RUNS = {"cartpole": CARTPOLE, "hopper": HOPPER, "clipped": CLIPPED, "random": RANDOM}
SETTINGS = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER")


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display and no choice of OpenGL, whatever the machine has; what a test sets is undone after it."""
    for name in SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each of `RUNS`, by its name there."""
    folders = {}
    for name, run in RUNS.items():
        records = tmp_path_factory.mktemp(name)
        train([run], records)
        (folders[name],) = [path.parent for path in records.rglob("config.json")]
    return folders


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def results(self) -> list[tuple[float, int]]:
        """Return and length of each episode, as printed."""
        lines = [line for line in self.out.splitlines() if line.startswith("episode ")]
        words = [line.replace(",", "").split() for line in lines]
        assert [word[1] for word in words] == [f"{number}:" for number in range(len(words))]
        return [(float(word[3]), int(word[5])) for word in words]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process: exit code and both streams."""

    def run(*arguments: object) -> Said:
        code = watch.main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


def assert_refused(said: Said, *words: str) -> None:
    """Exit code 2, and the last line on stderr is 'error: …' with all the words."""
    assert said.code == 2
    line = said.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in line
