"""A study's agents in one film: its frames, its words against those of `watch`, and refusals."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from analysis import equal_codes
from analysis.equal_codes import Proof
from experiments import film, side_by_side, watch
from ppo.refusals import UserError
from tests.conftest import ROOT
from tests.experiments.conftest import Said, assert_refused

pytestmark = pytest.mark.usefixtures("headless")

VARIANTS = ("baseline", "gae_0", "gae_0.95")  # one pack


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rungs of the ladder, hardly trained, on both tasks."""
    folder = tmp_path_factory.mktemp("records")
    command = [
        sys.executable, "-m", "experiments.study", "study=ladder", "name=tiny", f"variants=[{','.join(VARIANTS)}]",
        "seeds=[0]", "env_steps=1024", "profile.horizon=512", "tracking=none", f"records={folder}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def filmed(records: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command on that study, or with other records or another task."""

    def run(out: Path, *more: object, env: str = "cartpole", study: str = "tiny", at: Path = records) -> Said:
        words = [study, "--env", env, "--records", at, "--out", out, *more]
        return Said(side_by_side.main([str(word) for word in words]), *capsys.readouterr())

    return run


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is written into pictures, in order."""
    seen: list[str] = []
    write = ImageDraw.ImageDraw.text

    def text(pen: ImageDraw.ImageDraw, place: tuple[float, float], what: str, *how: Any) -> None:
        seen.append(what)
        write(pen, place, what, *how)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return seen


def run_of(records: Path, task: str, variant: str) -> Path:
    folders = [path.parent for path in records.glob(f"runs/*/{task}-*/config.json")]
    return next(f for f in folders if json.loads((f / "config.json").read_text())["names"]["variant"] == variant)


def lengths(records: Path, task: str, *options: str) -> dict[str, int]:
    """Of the first episode of each variant, as `watch` plays it."""
    found = {}
    for variant in VARIANTS:
        agent = watch.Agent(run_of(records, task, variant))
        env = watch.open_environment(agent.run.env, film=False, window=False)
        agent.enter(env, sample="--sample" in options)
        found[variant] = watch.play(agent, env, 0, 0, None)[1]
    return found


def test_agents_of_an_equal_code_play_too(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = 12 * "f"
    copy = tmp_path / "records"
    shutil.copytree(records, copy)
    run = run_of(copy, "CartPole-v1", "gae_0")
    proof = Proof((older, run.parent.name), (40 * "1", 40 * "2"), 342, 64 * "f", {"cpu": "Zen 5"}, "2026-12-01")
    monkeypatch.setattr(equal_codes, "FILE", tmp_path / "equal_codes.jsonl")
    equal_codes.FILE.write_text(proof.line())
    (copy / "runs" / older).mkdir()
    there = run.rename(copy / "runs" / older / run.name)
    agents = side_by_side.agents_of("tiny", copy, "cartpole", 0)
    assert {variant: agent.folder.parent.name for variant, agent in agents.items()} == {
        "baseline": run.parent.name, "gae_0": older, "gae_0.95": run.parent.name,
    }  # fmt: skip
    assert agents["gae_0"].folder == there


def pictures(path: Path) -> Iterator[np.ndarray]:
    with Image.open(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            yield np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("options", [(), ("--sample",)])
def test_the_film_shows_every_variant_to_its_end(
    records: Path, filmed: Any, words: list[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "films" / "tiny.gif"
    answer = filmed(out, *options, "--seconds", 60)
    assert answer.code == 0
    assert answer.err == ""
    assert list(out.parent.iterdir()) == [out]
    wanted = lengths(records, "CartPole-v1", *options)
    assert len(set(wanted.values())) > 1
    shown = math.ceil(max(wanted.values()) / 4) + 1  # of 50 env steps a second 12.5, the first, and the last
    frames = list(pictures(out))
    assert len(frames) == shown + 19  # a second and a half
    assert frames[0].shape[1] == 3 * (198 + 8) + 8
    assert 100 < frames[0].shape[0] < 18 * 2 + 16 + 132 + 36 + 8  # CartPole's sky and ground are not shown
    for variant, length in wanted.items():
        assert f"{variant}: over at step {length}: return {length}\n" in answer.out
    per_frame = [words[start : start + 8] for start in range(0, len(words), 8)]
    assert len(per_frame) == shown
    for number, (title, clock, *panels) in enumerate(per_frame):
        assert title == "CartPole-v1 after 1,024 env steps of training, seed 0"
        step = min(number * 4, max(wanted.values()))
        manner = "sampled" if options else "likeliest"
        assert clock == f"One episode from the same start, {manner} actions: env step {step}"
        assert panels[::2] == list(VARIANTS)
        assert panels[1::2] == [
            f"return {step}" if step < length else f"over at step {length}: return {length}"
            for length in wanted.values()
        ]


def test_an_agent_whose_episode_is_over_fades(records: Path, filmed: Any, tmp_path: Path) -> None:
    wanted = lengths(records, "CartPole-v1")
    filmed(tmp_path / "tiny.gif", "--seconds", 60)
    for number, frame in enumerate(pictures(tmp_path / "tiny.gif")):
        for place, length in enumerate(wanted.values()):
            panel = frame[75:-40, 8 + place * 206 : 206 + place * 206]
            assert (panel.min() > 150) == (number * 4 >= length), (number, place)


def test_it_ends_after_so_many_seconds(filmed: Any, words: list[str], tmp_path: Path) -> None:
    assert filmed(tmp_path / "tiny.gif", "--seconds", 0.16).code == 0
    clocks = [word for word in words if word.startswith("One episode")]
    assert [clock.rpartition(" ")[2] for clock in clocks] == ["0", "4", "8"]


def test_env_steps_are_said_as_they_are_where_iterations_differ() -> None:
    here, actor = SimpleNamespace(env=SimpleNamespace(id="Hopper-v4")), SimpleNamespace(manner="likeliest")
    agents = {
        name: SimpleNamespace(env_steps=steps, run=here, actor=actor)
        for name, steps in {"clip": 40_960, "a2c": 40_000}.items()
    }
    title, _ = side_by_side.heading(agents, seed=3)
    assert title == "Hopper-v4 after 40,000 to 40,960 env steps of training, seed 3"


def test_a_long_name_stays_in_its_panel() -> None:
    assert side_by_side.fitting("clip_0.2") == "clip_0.2"
    assert re.fullmatch("m{10,30}", side_by_side.fitting("m" * 100))


def test_mujoco_draws_for_every_agent(records: Path, filmed: Any, tmp_path: Path) -> None:
    try:
        film.drawing("InvertedPendulum-v4")
    except UserError as error:
        pytest.skip(str(error))
    assert filmed(tmp_path / "tiny.gif", "--seconds", 0.4, env="invertedpendulum").code == 0
    first = next(pictures(tmp_path / "tiny.gif"))
    panels = [first[80:150, 8 + place * 206 : 206 + place * 206] for place in range(3)]
    assert len(np.unique(panels[0].reshape(-1, 3), axis=0)) > 10  # something is there
    for panel in panels[1:]:
        np.testing.assert_array_equal(panel, panels[0])  # all start alike


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"study": "tinny"}, ("there is no study tinny", "did you mean tiny?")),
        ({"env": "hopper"}, ("--env: the study has no hopper", "cartpole, invertedpendulum")),
        ({"more": ("--seed", 7)}, ("--seed: the study has no 7", "it has 0")),
        ({"more": ("--seconds", 0)}, ("--seconds=0", "above 0")),
        ({"out": "film.avi"}, ("film.avi", ".mp4", ".gif")),
    ],
)
def test_a_mistake_is_one_sentence(filmed: Any, tmp_path: Path, how: dict[str, Any], said: tuple[str, ...]) -> None:
    how = dict(how)
    answer = filmed(tmp_path / how.pop("out", "tiny.gif"), *how.pop("more", ()), **how)
    assert_refused(answer, *said)
    assert len(answer.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_runs_that_are_not_finished_are_refused(records: Path, filmed: Any, tmp_path: Path) -> None:
    copy = shutil.copytree(records, tmp_path / "records")
    (run_of(copy, "CartPole-v1", "gae_0") / "done.json").unlink()
    answer = filmed(tmp_path / "tiny.gif", at=copy)
    assert_refused(answer, "tiny has unfinished runs on cartpole, seed 0: 2 done, 1 stopped")
    assert not (tmp_path / "tiny.gif").exists()


def test_runs_that_only_parts_hold_are_refused(records: Path, filmed: Any, tmp_path: Path) -> None:
    """They are done, and their networks are gone."""
    copy = shutil.copytree(records, tmp_path / "records")
    folder = run_of(copy, "CartPole-v1", "gae_0")
    cell = tmp_path / "parts" / "CartPole-v1" / "gae_0.s0-0"
    cell.mkdir(parents=True)
    (cell / "dataset.json").write_text("{}")
    held = pd.DataFrame({"run_id": [folder.name.rpartition("-")[2]], "code_id": [folder.parent.name]})
    held.to_parquet(cell / "runs.parquet")
    study = copy / "studies/tiny/study.json"
    study.write_text(json.dumps(json.loads(study.read_text()) | {"parts": str(tmp_path / "parts")}))
    shutil.rmtree(folder)
    answer = filmed(tmp_path / "tiny.gif", at=copy)
    assert_refused(answer, f"only parts hold {folder.name}, and parts hold no networks; train them without parts=")
    assert not (tmp_path / "tiny.gif").exists()


def test_opengl_that_does_not_start_is_said(filmed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # needs a display
    answer = filmed(tmp_path / "tiny.gif", env="invertedpendulum")
    assert_refused(answer, "InvertedPendulum-v4 cannot be filmed", "apt-get install")
    assert list(tmp_path.iterdir()) == []
