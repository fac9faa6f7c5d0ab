"""What SLURM is told, without a SLURM: job scripts against recorded ones, and what is refused before it is sent."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.cluster import slurm
from experiments.cluster.launch import Launch
from experiments.cluster.slurm import Part, Slurm, array_script, follow_up_script, parts_of
from experiments.files import as_json
from ppo.refusals import UserError
from tests.conftest import ROOT

GOLDEN = Path(__file__).parent / "golden"
CODE = "/shared/records/studies/table1/code/0123456789ab"
PYTHON = "/home/me/ppo/.venv/bin/python"

EVERY_OPTION = Slurm(
    partition="gpu,long",
    account="proj-1",
    qos="normal",
    constraint="a100|h100",
    time="1-00:00:00",
    cpus_per_task=4,
    mem="16G",
    gres="gpu:a100:1",
    gpus="1",
    signal_seconds=300,
    throttle=20,
    requeue=False,
    follow_up=3,
    setup=("module load cuda/12.4", 'export NOTE="it\'s \\"here\\""'),
)


def launch_in(tmp_path: Path) -> Launch:
    launch = Launch(tmp_path / "records/studies/table1/launches/3")
    launch.folder.mkdir(parents=True)
    overrides = ["study=table1", "cluster=mysite", "cluster.follow_up=3", "records=elsewhere", "algo.epsilon='0.2'"]
    (launch.folder / "launch.json").write_bytes(as_json({"overrides": overrides, "config_dir": [], "parts": None}))
    return launch


@pytest.mark.parametrize("name", ["array_plain", "array_full", "follow_up"])
def test_the_scripts_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    """A change of a script is seen here first; each of its words is there because of something a real SLURM did."""
    launch = launch_in(tmp_path)
    match name:
        case "array_plain":
            text = array_script(launch, Part("ppo-table1-3-0-1a2b3c4d", 0, 273), Slurm(), CODE, PYTHON)
        case "array_full":
            text = array_script(launch, Part("ppo-table1-3-1001-1a2b3c4d", 1001, 7), EVERY_OPTION, CODE, PYTHON)
        case "follow_up":
            text = follow_up_script(launch, ["41", "42"], EVERY_OPTION, CODE, PYTHON)
    assert text.replace(str(tmp_path), "/shared") == (GOLDEN / f"{name}.sh").read_text()


def test_bash_and_sbatch_read_odd_paths_as_they_are(tmp_path: Path) -> None:
    """A stand-in for srun writes down what reaches it, and where."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text('#!/bin/bash\npwd\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    code = tmp_path / "50%a$HOME"
    code.mkdir()
    launch = Launch(code / "launches" / "1")
    text = array_script(launch, Part("name", 1001, 2), Slurm(), str(code), "/my python's/bin/python")
    assert f"#SBATCH --output={code}/launches/1/logs/1001+%a.log\n".replace("50%a", "50%%a") in text
    assert f"#SBATCH --chdir={code}\n" in text, "no pattern, so nothing is doubled"
    environment = {"PATH": f"{tmp_path}/bin:/bin:/usr/bin", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "3"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=True)
    arguments = [
        "--cpus-per-task=3",
        "/my python's/bin/python",
        "-m",
        "experiments.cluster.task",
        str(launch.folder),
        "1002",
    ]
    assert done.stdout.splitlines() == [str(code), *arguments]


def test_without_its_code_a_task_does_not_start(tmp_path: Path) -> None:
    """slurmd goes on in /tmp where it cannot enter the folder asked for, and there other code might be found."""
    text = array_script(Launch(tmp_path), Part("name", 0, 1), Slurm(), str(tmp_path / "gone"), "python")
    environment = {"PATH": "/bin:/usr/bin", "SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": "1"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "srun" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account", "me\n#SBATCH --uid=0"),
        ("account", "me #SBATCH"),
        ("partition", "low\n"),
        ("partition", "low;high"),
        ("qos", "'high'"),
        ("constraint", "$(id)"),
        ("constraint", "a100 --exclusive"),
        ("time", "4 hours"),
        ("time", "00:05:00\n"),
        ("mem", "2GB"),
        ("gres", "gpu:1`id`"),
        ("gpus", '1"'),
        ("setup", ("module load cuda\nrm -rf /",)),
        ("cpus_per_task", 0),
        ("throttle", 0),
        ("max_array_size", 0),
        ("follow_up", -1),
    ],
)
def test_an_option_that_would_become_another_one_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"cluster\.{name}") as refusal:
        Slurm(**{name: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["with blank", "quo'te", 'quo"te', "back\\slash", "hash#1", "new\nline"])
def test_a_path_that_sbatch_cannot_be_told_is_refused(name: str, tmp_path: Path) -> None:
    launch = Launch(tmp_path / name / "launches" / "1")
    with pytest.raises(UserError, match="sbatch cannot be told"):
        array_script(launch, Part("name", 0, 1), Slurm(), "/code", "python")


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (1001, [1001]), (1002, [1001, 1]), (2500, [1001, 1001, 498])])
def test_arrays_are_no_larger_than_the_site_allows(count: int, sizes: list[int]) -> None:
    parts = parts_of("table1", "3", count, 1001)
    assert [part.count for part in parts] == sizes
    assert [part.offset for part in parts] == [1001 * number for number in range(len(sizes))]
    names = {part.name for part in [*parts, *parts_of("table1", "3", count, 1001)]}
    assert len(names) == 2 * len(sizes), "no name is ever used again"


def test_a_surrounding_job_does_not_leak_into_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under SLURM_CPUS_PER_TASK=9 and the like, sbatch would make another job than the script says."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"#!/bin/sh\nenv >{tmp_path}/environment\necho '17;cluster'\n")
    sbatch.chmod(0o755)
    for name, value in (("PATH", f"{tmp_path}:/bin:/usr/bin"), ("SLURM_JOB_ID", "5"), ("SLURM_CONF", "/etc/site.conf")):
        monkeypatch.setenv(name, value)
    assert slurm.sbatch(tmp_path / "array-0.sh", []) == "17"
    found = re.findall("^SLURM_.*", (tmp_path / "environment").read_text(), re.MULTILINE)
    assert found == ["SLURM_CONF=/etc/site.conf"]


def test_a_machine_without_slurm_says_so(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "experiments.study", "study=quick", "cluster=slurm", f"records={tmp_path}/records"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch is not here") and "cluster=local" in done.stderr
    assert not (tmp_path / "records").exists()
