"""Films of a run: what is in them, and what is said where they cannot be made."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from experiments import film, watch
from ppo.refusals import UserError
from tests.conftest import ROOT
from tests.experiments.conftest import Said, assert_refused

pytestmark = pytest.mark.usefixtures("headless")


def test_opengl_that_does_not_start_is_said_with_the_packages_to_install(
    trained: dict[str, Path], said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # needs a display
    answer = said(trained["hopper"], "--out", tmp_path / "film.mp4")
    assert_refused(answer, "Hopper-v4 cannot be filmed", "MUJOCO_GL=glfw: ", "apt-get install libegl1", "libosmesa6")
    assert list(tmp_path.iterdir()) == []


def test_osmesa_is_tried_where_egl_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "PROBE", "import os, sys; sys.exit(4 * (os.environ['MUJOCO_GL'] == 'egl'))")
    assert film.drawing("Hopper-v4")["MUJOCO_GL"] == "osmesa"


def test_where_both_fail_both_reasons_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "PROBE", "import os, sys; sys.exit(print('no', os.environ['MUJOCO_GL'][::-1]) or 4)")
    with pytest.raises(UserError, match=r"MUJOCO_GL=egl: no lge; MUJOCO_GL=osmesa: no asemso"):
        film.drawing("Hopper-v4")


def test_missing_pygame_is_said_with_what_to_install(
    trained: dict[str, Path], said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pygame.py").write_text("raise ImportError('there is no pygame')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = said(trained["cartpole"], "--out", tmp_path / "film.gif")
    assert_refused(answer, "CartPole-v1 cannot be filmed", "pygame is not installed", "pip install")
    assert "apt-get" not in answer.err


def frames_of(path: Path) -> list[bytes]:
    with Image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(picture.convert("RGB").tobytes())
    return frames


def test_a_gif_shows_every_so_many_states_and_its_name_comes_last(
    trained: dict[str, Path], said: Any, tmp_path: Path
) -> None:
    out = tmp_path / "films" / "cartpole.gif"
    answer = said(trained["cartpole"], "--episodes", 2, "--out", out)
    assert answer.code == 0
    assert list(out.parent.iterdir()) == [out]
    frames = frames_of(out)
    steps = sum(length for _, length in answer.results)
    assert len(frames) == math.ceil(steps / 4)  # 50 states a second, 12.5 frames
    assert len(set(frames)) > len(frames) / 2
    with Image.open(out) as picture:
        assert picture.size == (320, 213)
        assert picture.info["duration"] == 80  # milliseconds
        assert picture.info["loop"] == 0
    assert f"{out}: {len(frames)} frames" in answer.out
    assert answer.results == said(trained["cartpole"], "--episodes", 2).results


def test_ctrl_c_keeps_what_was_filmed(
    trained: dict[str, Path], said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, calls = watch.Agent.act, []

    def interrupted(*arguments: Any) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return act(*arguments)

    monkeypatch.setattr(watch.Agent, "act", interrupted)
    answer = said(trained["cartpole"], "--out", tmp_path / "film.gif")
    assert answer.code == 130
    assert "interrupted" in answer.err
    assert list(tmp_path.iterdir()) == [tmp_path / "film.gif"]
    assert len(frames_of(tmp_path / "film.gif")) == 3


def test_a_film_that_cannot_be_written_is_refused_and_leaves_nothing(
    trained: dict[str, Path], said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(film.ENCODING, ".gif", ["-vf", "no_such_filter"])
    (tmp_path / f".film.{os.getpid()}.gif").touch()  # as a disk that fills up later would leave it
    answer = said(trained["cartpole"], "--out", tmp_path / "film.gif")
    assert_refused(answer, str(tmp_path / "film.gif"), "cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_the_camera_goes_along_with_the_agent() -> None:
    environment = gymnasium.make("Hopper-v4")
    film.follow(environment)
    simulated: Any = environment.unwrapped
    assert simulated.model.camera(simulated.mujoco_renderer.camera_id).name == "track"
    film.follow(gymnasium.make("CartPole-v1"))
    film.follow(gymnasium.make("InvertedPendulum-v4"))  # has no such camera


def test_the_command_films_mujoco(trained: dict[str, Path], tmp_path: Path) -> None:
    try:
        film.drawing("Hopper-v4")
    except UserError as error:
        pytest.skip(str(error))
    out = tmp_path / "hopper.mp4"
    line = [sys.executable, "-m", "experiments.watch", str(trained["hopper"]), "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (steps,) = [length for _, length in Said(0, done.stdout, "").results]
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    assert frames == steps
    assert seconds == pytest.approx(steps / 125, abs=0.02)
    assert list(tmp_path.iterdir()) == [out]
