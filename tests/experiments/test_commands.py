"""The commands as a person gives them: real processes, their exit codes and what they print."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from experiments.commands import command as answering
from experiments.commands import typed
from experiments.files import create_once
from experiments.identity import code_id
from experiments.jobs import worker
from experiments.records import checkpoint
from experiments.runner import explained
from ppo.refusals import UserError

ROOT = Path(__file__).parent.parent.parent
SMALL = ("env=cartpole", "profile.horizon=64", "profile.minibatch_size=32", "env_steps=128", "backend=gymnasium")

Done = subprocess.CompletedProcess[str]


def command(module: str, *arguments: str) -> Done:
    line = [sys.executable, "-m", module, *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=180)


def train(records: Path, *overrides: str) -> Done:
    """Two iterations of CartPole, unless the overrides say otherwise."""
    said = {override.partition("=")[0] for override in overrides}
    small = [override for override in SMALL if override.partition("=")[0] not in said]
    return command("experiments.train", *overrides, *small, f"records={records}")


def assert_refused(done: Done, *words: str) -> None:
    """Exit code 2 and one line on stderr: 'error: …' with all the words."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    line = lines[0]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file but W&B's own logs, which its core goes on writing for a moment after the mirror has ended."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


REFUSED: dict[str, tuple[str, ...]] = {
    "env=hoper": ("there is no such env", "did you mean hopper?"),
    "algo=clp": ("there is no such algo", "did you mean clip?"),
    "tracking=wandb_offlin": ("there is no such tracking",),
    "env.id=Hoper-v4": ("no task Hoper-v4", "Hopper-v4"),
    "profile.minibatch_size=60": ("profile.minibatch_size=60", "nearest that does is 64"),
    "env_steps=10": ("env_steps=10", "profile.horizon=64"),
    "profile.policy=gaussian": ("CartPole-v1 has discrete actions", "categorical"),
    "algo.epsilon=.nan": ("algo.epsilon=",),
    "algo.epsilon=abc": ("algo.epsilon=abc should be a number",),
    "seeds=3": ("seeds=3 should be a list",),
    "seed=99999999999999999999": ("seed=99999999999999999999", "2^63"),
    "algo.epsilom=0.1": ("algo.epsilom is not a setting", "did you mean algo.epsilon"),
    "env_step=100": ("env_step is not a setting", "did you mean env_steps"),
    "device=cuda": ("device=cuda", "no GPU"),
    "checkpoint_seconds=-1": ("checkpoint_seconds=-1",),
}
if torch.cuda.is_available():
    del REFUSED["device=cuda"]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Done]]]:
    """All of them at work, two at a time."""
    records = tmp_path_factory.mktemp("refused") / "records"
    with ThreadPoolExecutor(2) as pool:
        yield {override: pool.submit(train, records, override) for override in REFUSED}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("override", REFUSED)
def test_a_mistake_is_one_sentence_and_exit_code_2(refusals: dict[str, Future[Done]], override: str) -> None:
    assert_refused(refusals[override].result(), *REFUSED[override])


def test_a_refusal_leaves_no_file_behind(tmp_path: Path) -> None:
    assert_refused(train(tmp_path / "records", "env.id=Hoper-v4"))
    assert not (tmp_path / "records").exists()


def test_a_sweep_is_refused_with_what_to_say_instead(tmp_path: Path) -> None:
    done = command("experiments.train", *SMALL, f"records={tmp_path}", "-m", "seed=0,1")
    assert_refused(done, "-m", "seeds=[0,1,2]", "num_seeds=3")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("roundz=1", "did you mean rounds"),
        ("env=hoper", "did you mean hopper"),
        ("rounds=0 study_seeds=1 resets=1", "rounds=0 must be"),
        ("pack=two", "pack=two should be a whole number"),
        ("num_seeds=2", "2 seeds: the benchmark makes its packs itself"),
    ],
)
def test_the_benchmark_refuses_in_one_sentence_too(argument: str, words: str) -> None:
    assert_refused(command("experiments.benchmark", *argument.split()), words)


def test_the_benchmark_on_frames_refuses_to_measure_nothing() -> None:
    assert_refused(command("experiments.benchmark_atari", "--rounds", "0"), "--rounds=0 must be")


def test_a_bare_command_trains_nothing_and_asks() -> None:
    assert_refused(command("experiments.train"), "say what to train", "1,000,000 env steps", "--help")


def test_help_tells_what_a_command_does_and_version_is_ours() -> None:
    for module in ("experiments.train", "experiments.study", "experiments.benchmark"):
        done = command(module, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"python -m {module}") == 2, "two examples"
        assert "powered by Hydra" not in done.stdout
    done = command("experiments.study", "--version")
    assert done.stdout == f"ppo-replication {version('ppo-replication')}, code {code_id()}\n"


def test_records_that_are_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    assert_refused(train(tmp_path / "file"), str(tmp_path / "file"), "in the way", "records=")
    assert (tmp_path / "file").read_text() == "precious"


def test_cfg_prints_the_config_and_trains_nothing(tmp_path: Path) -> None:
    done = train(tmp_path / "records", "--cfg", "job", "algo.epsilon=0.123")
    assert done.returncode == 0, done.stderr
    assert "epsilon: 0.123" in done.stdout
    assert "horizon: 64" in done.stdout
    assert not (tmp_path / "records").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Records of one run, and what its command printed."""
    records = tmp_path_factory.mktemp("trained") / "records"
    return records, train(records, "backend=auto")


def run_folder(records: Path) -> Path:
    (config,) = (records / "runs").rglob("config.json")
    return config.parent


def test_training_prints_its_score_and_where_the_records_are(trained: tuple[Path, Done]) -> None:
    records, done = trained
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    score = json.loads((run_folder(records) / "done.json").read_text())["score"]
    assert f"score {score:.1f}" in done.stdout
    assert f"python -m analysis.plot {records}" in done.stdout


def test_training_on_envpool_says_nothing_on_stderr(trained: tuple[Path, Done]) -> None:
    pytest.importorskip("envpool")
    assert trained[1].stderr == ""


def test_the_same_command_again_finds_the_run_finished_and_changes_no_file(trained: tuple[Path, Done]) -> None:
    records, _ = trained
    before = snapshot(records)
    done = train(records, "backend=auto")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs were finished before" in done.stdout
    assert snapshot(records) == before


def test_a_folder_that_holds_another_run_is_left_alone(trained: tuple[Path, Done], tmp_path: Path) -> None:
    records = shutil.copytree(trained[0], tmp_path / "records")
    config = run_folder(records) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"run_id": "0123456789ab"}))
    before = snapshot(records)
    assert_refused(train(records, "backend=auto"), str(config.parent), "holds another run", "0123456789ab")
    assert snapshot(records) == before


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own on `folder`; skips where one may not be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root and a machine that lets it mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_records_on_a_read_only_disk_are_refused(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro,size=64k") as disk:
        assert_refused(train(disk), str(disk), "cannot be written", "records=")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_records_in_a_forbidden_folder_are_refused(tmp_path: Path) -> None:
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o555)
    assert_refused(train(forbidden), str(forbidden), "cannot be written", "records=")


def test_a_full_disk_is_said_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A checkpoint is 0.4 MB here: one or two of them fit, the next does not."""
    overrides = ("profile.hidden_sizes=[128,128]", "env_steps=512", "checkpoint_seconds=0")
    with mounted(tmp_path / "disk", "size=1200k") as disk:
        done = train(disk / "records", *overrides)
        assert done.returncode == 2
        refused, *of_mirror = done.stderr.splitlines()
        assert refused.startswith("error: the disk is full") and "the last checkpoint is intact" in refused
        assert all(line.startswith("W&B mirror: ") for line in of_mirror), "no other word, and none of a failed run"
        folder = run_folder(disk / "records")
        head = json.loads((folder / "config.json").read_text())
        newest = checkpoint.iterations_in(folder / "attempt-1")[0]
        identity = {name: head[name] for name in ("run_id", "code_id")}
        content = checkpoint.load(checkpoint.path_of(folder / "attempt-1", newest), identity)
        assert content["state"]["iteration"] == newest
        assert 0 < newest < 8

        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        done = train(disk / "records", *overrides)
        assert done.returncode == 0, done.stderr
        assert f"from env step {newest * 64}" in done.stdout
        assert json.loads((folder / "done.json").read_text())["env_steps"] == 512


def test_nothing_half_written_stays_on_a_disk_that_was_full(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16k") as disk:
        with pytest.raises(OSError, match="No space left"):
            create_once(disk / "done.json", bytes(64_000))
        assert list(disk.iterdir()) == []


def test_a_new_name_that_no_longer_fits_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not one without hard links, to which the content would be written a second time."""

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="quota"):
        create_once(tmp_path / "done.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "experiments.train", *SMALL, f"records={tmp_path}"]
    limit = ["sh", "-c", 'ulimit -f 40 && exec "$@"', "sh"]  # 20 kB: less than a checkpoint
    done = subprocess.run([*limit, *line], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert_refused(done, "the limit on a file's size is reached", "the last checkpoint is intact")


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENOENT])
@pytest.mark.parametrize("name", ["/disk/file", None])
def test_whatever_a_disk_refuses_is_one_sentence(number: int, name: str | None) -> None:
    where = "/disk/file" if name else "/records"
    with pytest.raises(UserError, match=f"{where}.*checkpoint.* the same command again"), explained(Path("/records")):
        raise OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 1), (errno.ESTALE, 1), (errno.ENOSPC, 2), (errno.EACCES, 2)])
def test_a_study_tries_again_what_may_have_passed(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """Exit code 2 is a mistake, which another try would repeat; any other than 0 and 75 is a crash."""

    def work(*_: object) -> int:
        with explained(Path("/records")):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(worker, "follow_parent", lambda: None)
    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setattr(sys, "argv", ["worker", "/launch"])
    with pytest.raises(SystemExit) as left:
        worker.main()
    assert left.value.code == code


def test_an_error_that_is_not_the_systems_is_not_explained_away() -> None:
    with pytest.raises(OSError, match="no such plugin"), explained(Path("/records")):
        raise OSError("no such plugin")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such run"), 2, "error: no such run\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), 2, "error: the disk is full (a.csv)\n"),
        (OSError(errno.EACCES, "Permission denied"), 2, "error: Permission denied (standard output)\n"),
    ],
)
def test_a_command_answers_an_error_with_a_code_and_a_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @answering(UserError)
    def main() -> int:
        raise error

    assert main() == code
    assert capsys.readouterr().err == said


def test_an_error_that_a_command_names_is_its_own_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @answering(ValueError, OSError)
    def main(words: list[str]) -> int:
        raise OSError(errno.ENOSPC, words[0])

    assert main(["row 3 was not written"]) == 2
    assert capsys.readouterr().err == f"error: [Errno {errno.ENOSPC}] row 3 was not written\n"


def test_a_line_to_type_survives_a_shell() -> None:
    line = typed("experiments.study", "study=table1", Path("my $records"), "envs=[hopper,swimmer]", 8)
    printed = subprocess.run(
        ["sh", "-c", f"python() {{ printf '%s\\n' \"$@\"; }}; {line}"], capture_output=True, text=True
    )
    assert printed.stdout.splitlines() == [
        "-m", "experiments.study", "study=table1", "my $records", "envs=[hopper,swimmer]", "8"
    ]  # fmt: skip


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("a library's own")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    @answering(UserError)
    def main() -> int:
        raise error

    with pytest.raises(type(error), match=str(error)):
        main()


def test_plot_draws_a_picture_of_the_records(trained: tuple[Path, Done], tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    done = command("analysis.plot", str(trained[0]), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)
    assert out.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert out.stat().st_size > 5000


def test_plot_of_an_empty_folder_says_so_in_one_sentence(tmp_path: Path) -> None:
    assert_refused(command("analysis.plot", str(tmp_path)), "no run under", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
