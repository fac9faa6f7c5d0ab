"""Watching a run: the returns against a loop written out here, which checkpoint is played, films, refusals."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from experiments import checkpoint, film, watch
from experiments.find import find_run
from experiments.identity import code_id
from ppo.config import Algo, UserError
from ppo.randomness import generator
from tests.conftest import ROOT, small_run, train

CARTPOLE = small_run(env="CartPole-v1", iterations=3)
HOPPER = small_run(env="Hopper-v4", iterations=2)
CLIPPED = small_run(env="Reacher-v4", iterations=2, profile={"horizon": 256, "epochs": 2, "clip_actions": True})
RANDOM = replace(HOPPER, algo=Algo("random"))
RUNS = {"cartpole": CARTPOLE, "hopper": HOPPER, "clipped": CLIPPED, "random": RANDOM}
SETTINGS = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER")


@pytest.fixture(autouse=True)
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


def copied(folder: Path, records: Path, **changes: str) -> Path:
    """A copy of a run's folder below another `records`, with other head entries in its config.json."""
    copy = shutil.copytree(folder, records / "runs" / folder.parent.name / folder.name)
    head = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(head | changes))
    return copy


def half_done(folder: Path, records: Path) -> Path:
    """The run as it lay there an iteration before its end."""
    copy = copied(folder, records)
    (copy / "done.json").unlink()
    newest = max(copy.rglob("checkpoint-*.pt"))
    newest.unlink()
    return copy


def rewritten(folder: Path, **changes: Any) -> None:
    """Other entries in the content of a run's newest checkpoint, its digest right again."""
    attempt = folder / "attempt-1"
    head = json.loads((folder / "config.json").read_text())
    iteration = checkpoint.iterations_in(attempt)[0]
    content = checkpoint.load(checkpoint.path_of(attempt, iteration), {"run_id": head["run_id"]})
    checkpoint.save(attempt, iteration, content | changes)


def state_of(folder: Path) -> dict[str, Any]:
    newest = max(folder.rglob("checkpoint-*.pt"))
    return checkpoint.load(newest, {})["state"]


def weights(flat: np.ndarray, sizes: Sequence[int], outputs: int, gaussian: bool) -> list[np.ndarray]:
    """Weights and biases of policy and value layers, then of both heads, then log_std: each from the next 64 bytes."""
    hidden = [shape for a, b in pairwise(sizes) for shape in ((a, b), (b,))]
    head = [(sizes[-1], max(2, outputs)), (max(2, outputs),)]
    shapes = [*hidden, *hidden, *head, (sizes[-1], 2), (2,), *[(outputs,)] * gaussian]
    found, start = [], 0
    for shape in shapes:
        found.append(flat[start : start + math.prod(shape)].reshape(shape))
        start += math.ceil(math.prod(shape) / 16) * 16
    return found


def by_hand(folder: Path, env_id: str, sample: bool, clip: bool, seed: int, number: int) -> tuple[float, int]:
    """An episode of a 64-64 tanh policy under ppo1_2017_08's filter, from the checkpoint's arrays alone."""
    state = state_of(folder)
    environment = gymnasium.make(env_id)
    discrete = isinstance(environment.action_space, gymnasium.spaces.Discrete)
    outputs = int(environment.action_space.n) if discrete else environment.action_space.shape[0]
    arrays = weights(
        np.asarray(state["parameters"]), (environment.observation_space.shape[0], 64, 64), outputs, not discrete
    )
    mean, std = state["filter"]["mean"], np.sqrt(np.maximum(state["filter"]["variance"], 1e-2))
    reset_seed = int(generator(seed, "watch environment", number).integers(2**31 - 1))
    noise = generator(seed, "watch action", number)
    observation, _ = environment.reset(seed=reset_seed)
    total, length, over = 0.0, 0, False
    while not over:
        x = np.clip((observation - mean) / std, -5, 5).astype(np.float32)
        hidden = np.tanh(np.tanh(x @ arrays[0] + arrays[1]) @ arrays[2] + arrays[3])
        policy = (hidden @ arrays[8] + arrays[9])[:outputs]
        if discrete:
            action = np.argmax(policy + noise.gumbel(size=outputs).astype(np.float32) * sample)
        else:
            action = policy + sample * np.exp(arrays[12]) * noise.standard_normal(outputs, dtype=np.float32)
            action = np.clip(action, -1, 1) if clip else action
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, length, over = total + float(reward), length + 1, terminated or truncated
    return total, length


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cartpole", []),
        ("cartpole", ["--sample"]),
        ("hopper", []),
        ("hopper", ["--sample", "--seed", "7"]),
        ("clipped", ["--sample"]),
    ],
)
def test_the_returns_are_those_of_a_loop_written_by_hand(
    trained: dict[str, Path], said: Any, name: str, options: list[str]
) -> None:
    seed = 7 if "--seed" in options else 0
    wanted = [
        by_hand(trained[name], RUNS[name].env.id, "--sample" in options, name == "clipped", seed, n) for n in range(3)
    ]
    answer = said(trained[name], "--episodes", 3, *options)
    assert answer.code == 0
    assert answer.err == ""
    assert answer.results == [(pytest.approx(total, abs=0.06), length) for total, length in wanted]
    assert len({total for total, _ in wanted}) > 1
    assert f"mean return {np.mean([total for total, _ in wanted]):.1f}; " in answer.out


def test_clipping_matters_here(trained: dict[str, Path]) -> None:
    """Otherwise the comparison above would not see it."""
    clipped, free = (by_hand(trained["clipped"], "Reacher-v4", True, clip, 0, 0) for clip in (True, False))
    assert abs(clipped[0] - free[0]) > 0.5


def test_the_random_objective_plays_uniform_actions(trained: dict[str, Path], said: Any) -> None:
    environment = gymnasium.make("Hopper-v4")
    environment.reset(seed=int(generator(0, "watch environment", 0).integers(2**31 - 1)))
    rng, total, length, over = generator(0, "watch action", 0), 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = environment.step(rng.uniform(-1, 1, 3))
        total, length, over = total + float(reward), length + 1, terminated or truncated
    assert said(trained["random"]).results == [(pytest.approx(total, abs=0.06), length)]


def test_the_untrained_policy_can_be_watched(tmp_path: Path, said: Any) -> None:
    train([replace(CARTPOLE, algo=Algo("initial"), env_steps=256)], tmp_path)
    answer = said(tmp_path)
    assert answer.code == 0
    assert "CartPole-v1-initial.s0" in answer.out


def test_the_same_command_prints_the_same_and_episodes_do_not_depend_on_their_number(
    trained: dict[str, Path], said: Any
) -> None:
    once = said(trained["hopper"], "--episodes", 3, "--sample")
    assert said(trained["hopper"], "--episodes", 3, "--sample").out == once.out
    assert said(trained["hopper"], "--sample").results == once.results[:1]
    assert said(trained["hopper"], "--episodes", 3).results != once.results
    assert said(trained["hopper"], "--episodes", 3, "--sample", "--seed", 1).results != once.results


def test_a_finished_run_says_its_own_score(trained: dict[str, Path], said: Any) -> None:
    score = json.loads((trained["cartpole"] / "done.json").read_text())["score"]
    answer = said(trained["cartpole"])
    assert f"the run's own score: {score:.1f} (complete; " in answer.out
    assert "at env step 768," in answer.out


def test_a_half_done_run_says_how_far_it_is(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = half_done(trained["cartpole"], tmp_path)
    (folder / "attempt-2").mkdir()  # claimed, and nothing saved in it so far
    answer = said(folder)
    assert answer.code == 0
    assert "still in training, env step 512" in answer.out
    assert answer.results == [by_hand(folder, "CartPole-v1", False, False, 0, 0)]


def test_a_finished_run_is_played_from_the_attempt_that_won(
    trained: dict[str, Path], said: Any, tmp_path: Path
) -> None:
    folder = copied(trained["cartpole"], tmp_path)
    (folder / "attempt-2").mkdir()
    checkpoint.path_of(folder / "attempt-2", 99).write_bytes(b"no checkpoint")
    answer = said(folder)
    assert answer.err == ""
    assert answer.out == said(trained["cartpole"]).out


def test_a_torn_checkpoint_is_said_and_the_older_one_played(
    trained: dict[str, Path], said: Any, tmp_path: Path
) -> None:
    folder = copied(trained["cartpole"], tmp_path)
    newest, older = sorted(folder.rglob("checkpoint-*.pt"), reverse=True)
    newest.write_bytes(newest.read_bytes()[:-1])
    answer = said(folder)
    assert answer.code == 0
    assert f"{newest} is torn" in answer.err
    assert "at env step 512," in answer.out
    older.write_bytes(b"")
    assert_refused(said(folder), str(folder), "no readable checkpoint yet")


def test_a_run_that_has_no_checkpoint_yet_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = half_done(trained["cartpole"], tmp_path)
    for path in folder.rglob("checkpoint-*.pt"):
        path.unlink()
    assert_refused(said(folder), str(folder), "no readable checkpoint yet", "Ctrl-C")


def test_a_run_of_other_code_is_played_and_said_to_be_one(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path, code_id="0123456789ab")
    rewritten(folder, code_id="0123456789ab")
    answer = said(folder)
    assert answer.code == 0
    (line,) = answer.err.splitlines()
    assert "0123456789ab" in line
    assert code_id() in line
    assert answer.results == said(trained["hopper"]).results


def test_a_checkpoint_of_another_run_is_not_played(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path, run_id="0123456789ab")
    answer = said(folder)
    assert_refused(answer, "no readable checkpoint")
    assert "belongs to another run id" in answer.err


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("profile.hidden_sizes", [32, 32], ("does not fit the networks of this code",)),
        ("profile.horizin", 7, ("config.json", "profile.horizin is not a setting", "did you mean horizon")),
        ("env.id", "HopperHop-v1", ("Gymnasium", "no task HopperHop-v1")),
        ("env.id", "Hoper-v4", ("no task Hoper-v4", "Hopper-v4")),
        ("env.id", "Ant-v4", ("does not fit the networks of this code",)),
        ("env.id", "CartPole-v1", ("does not fit the networks of this code",)),
    ],
)
def test_what_does_not_fit_is_refused(
    trained: dict[str, Path], said: Any, tmp_path: Path, where: str, value: object, words: Sequence[str]
) -> None:
    folder = copied(trained["hopper"], tmp_path)
    head = json.loads((folder / "config.json").read_text())
    group, _, name = where.partition(".")
    head["config"][group][name] = value
    (folder / "config.json").write_text(json.dumps(head))
    assert_refused(said(folder), *words)


def test_a_state_laid_out_otherwise_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path)
    rewritten(folder, state=state_of(folder) | {"filter": {}})
    assert_refused(said(folder), str(folder), "does not fit the networks of this code")


def test_a_diverged_policy_is_refused(trained: dict[str, Path], said: Any, tmp_path: Path) -> None:
    folder = copied(trained["hopper"], tmp_path)
    state = state_of(folder)
    rewritten(folder, state=state | {"parameters": np.full_like(state["parameters"], np.nan)})
    assert_refused(said(folder), str(folder), "diverged")


class TestNames:
    """Runs s1, s10 and s0 of one setting; nothing is played."""

    @pytest.fixture
    def records(self, tmp_path: Path) -> Path:
        for code in ("aaaaaaaaaaaa/Hopper-v4-clip_0.2.s{}-{}", "bbbbbbbbbbbb/Swimmer-v4-clip_0.2.s{}-{}"):
            for seed, run in (("0", "0a0000000000"), ("1", "1b0000000000"), ("10", "1c0000000000")):
                attempt = tmp_path / "runs" / code.format(seed, run) / "attempt-1"
                attempt.mkdir(parents=True)
                (attempt / "episodes.csv").touch()
                (attempt.parent / "config.json").touch()
        return tmp_path

    def folder(self, records: Path) -> Path:
        return records / "runs/aaaaaaaaaaaa/Hopper-v4-clip_0.2.s1-1b0000000000"

    @pytest.mark.parametrize(
        "name", ["Hopper-v4-clip_0.2.s1", "Hopper-v4-clip_0.2.s1-1b", "Hopper-v4-clip_0.2.s1-1b0000000000"]
    )
    def test_the_beginning_of_a_name_finds_its_run(self, records: Path, name: str) -> None:
        assert find_run(name, records) == self.folder(records)

    def test_the_beginning_of_an_id_finds_its_run(self, records: Path) -> None:
        shutil.rmtree(records / "runs/bbbbbbbbbbbb")
        assert find_run("1b", records) == self.folder(records)

    @pytest.mark.parametrize("inside", ["", "attempt-1", "attempt-1/episodes.csv", "config.json"])
    def test_a_path_to_or_into_a_run_finds_it(self, records: Path, inside: str) -> None:
        assert find_run(str(self.folder(records) / inside), Path("elsewhere")) == self.folder(records)

    def test_a_folder_that_holds_one_run_finds_it(self, records: Path) -> None:
        for name in ("Hopper-v4-clip_0.2.s0-0a0000000000", "Hopper-v4-clip_0.2.s10-1c0000000000"):
            shutil.rmtree(records / "runs/aaaaaaaaaaaa" / name)
        assert find_run(str(records / "runs/aaaaaaaaaaaa"), Path("elsewhere")) == self.folder(records)

    def test_an_ambiguous_name_lists_its_candidates(self, records: Path, said: Any) -> None:
        answer = said("Hopper", "--records", records)
        assert_refused(answer, "Hopper could be", "s0-0a", "s1-1b", "s10-1c")
        assert "Swimmer" not in answer.err

    def test_a_folder_of_several_runs_lists_them(self, records: Path, said: Any) -> None:
        assert_refused(said(records / "runs"), "could be", "s0-0a0000000000", "s10-1c0000000000")

    def test_a_misspelt_name_gets_near_ones(self, records: Path, said: Any) -> None:
        answer = said("Hoper-v4-clip_0.2.s1", "--records", records)
        assert_refused(answer, "Hoper-v4-clip_0.2.s1", "did you mean Hopper-v4-clip_0.2.s1")

    def test_no_records_are_said_to_be_none(self, said: Any, tmp_path: Path) -> None:
        assert_refused(said("Hopper", "--records", tmp_path), "none of the 0 in", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "film.avi"], ("film.avi", ".mp4", ".gif")),
        (["--out", "film"], ("film", ".mp4", ".gif")),
        (["--window"], ("--window", "no display", "--out")),
        (["--episodes", "0"], ("--episodes=0",)),
        (["--seed", "-1"], ("--seed -1",)),
        (["--seed", str(2**63)], ("2^63",)),
    ],
)
def test_a_mistake_is_one_sentence(said: Any, arguments: list[str], words: Sequence[str]) -> None:
    answer = said("any", *arguments)
    assert_refused(answer, *words)
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1


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
