"""What SLURM is told, without a SLURM: job scripts against recorded ones, and what is refused before it is sent."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.files import as_json
from experiments.jobs import slurm
from experiments.jobs.launch import Launch
from experiments.jobs.site import Slurm
from experiments.jobs.slurm import Part, array_script, follow_up_script, parts_of
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
    gres="lscratch:100",
    gpus="a100:1",
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
        "experiments.jobs.task",
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
        ("time", "\u0660\u0664:00:00"),  # Arabic-Indic digits
        ("mem", "\u0662G"),
        ("mem", "2"),  # megabytes
        ("mem", "64M"),
        ("mem", "0G"),
        ("time", "0"),  # no limit at all, as sbatch reads it
        ("time", "0-00:00:00"),
        ("signal_seconds", 14_400),  # with the time limit of 4 hours: as it starts
        ("signal_seconds", 65_536),
        ("setup", ("module load cuda\r",)),
        ("setup", ("module load \x1b[0mcuda",)),
        ("setup", ("#SBATCH --array=0-3",)),
        ("setup", ("#SBATCH --job-n=outer",)),  # sbatch takes the beginning of an option's name
        ("setup", ("#SBATCH --comment='a b' -t10",)),
        ("setup", ("#SBATCH -t 10",)),
        ("setup", ("#SBATCH --clusters=all",)),
        ("setup", ("#SBATCH --comment='open",)),
        ("setup", ("#SBATCH --reservation=mine", "module load cuda", "#SBATCH --nice")),  # not read there
        ("setup", ("#PBS -N outer",)),
    ],
)
def test_an_option_that_would_become_another_one_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"cluster\.{name}") as refusal:
        Slurm(**{name: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"gres": "gpu:1", "gpus": "1"},
        {"gres": "lscratch:10,gpu:a100:1", "gpus": "1"},
        {"time": "2", "signal_seconds": 120},
        {"time": "1:59", "signal_seconds": 120},  # minutes and seconds
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refusal:
        Slurm(**settings)
    assert all(f"cluster.{name}" in str(refusal.value) for name in settings)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "setup": (
                "#SBATCH --reservation=mine -L matlab",
                "#SBATCH --mail-type=END # tell me",
                "# a note",
                "source x",
            )
        },
        {"setup": ("#SBATCH --exclusive",)},
        {"gres": "shard:2", "gpus": "1"},
        {"mem": "0"},  # all the node has
        {"mem": None},
        {"time": "2:01"},
        {"time": "1-0"},
    ],
)
def test_settings_that_work_are_taken(settings: dict[str, Any]) -> None:
    Slurm(**settings)


@pytest.mark.parametrize("name", ["with blank", "quo'te", 'quo"te', "back\\slash", "hash#1", "new\nline", "bell\x07"])
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


def instead_of(monkeypatch: pytest.MonkeyPatch, folder: Path, **programs: str) -> None:
    """Programs that run these lines of a shell, first on the path."""
    folder.mkdir(exist_ok=True)
    for name, lines in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


@pytest.mark.parametrize("program", ["sbatch", "squeue", "scontrol", "scancel"])
def test_the_surroundings_do_not_reach_slurms_commands(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under SBATCH_TIMELIMIT=10, SQUEUE_STATES=RUNNING and the like they would do another thing than was asked for;
    what says where SLURM is stays."""
    instead_of(monkeypatch, tmp_path / "bin", **{program: f"env >{tmp_path}/environment; echo 17"})
    kept = {"SLURM_CONF": "/etc/site.conf", "SLURM_JWT": "token"}
    others = ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SBATCH_TIMELIMIT", "SBATCH_JOB_NAME", "SBATCH_ARRAY_INX",
              "SRUN_CPUS_PER_TASK", "SQUEUE_STATES", "SCANCEL_STATE", "SCONTROL_ALL", "SALLOC_ACCOUNT")  # fmt: skip
    for name, value in {**kept, **dict.fromkeys(others, "5")}.items():
        monkeypatch.setenv(name, value)
    if program == "sbatch":
        assert slurm.sbatch(tmp_path / "array-0.sh", "name", []) == "17"
    else:
        assert slurm.ask(program) == "17\n"
    found = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert {name: value for name, value in found.items() if name in (*others, *kept)} == kept


def test_a_refusal_names_the_variables_that_were_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site may have told its users to set SBATCH_ACCOUNT."""
    instead_of(monkeypatch, tmp_path / "bin", sbatch="echo 'error: account needed' >&2; exit 1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    with pytest.raises(UserError, match=r"account needed.*SBATCH_ACCOUNT .*cluster\.\* says"):
        slurm.sbatch(tmp_path / "array-0.sh", "name", [])


@pytest.mark.parametrize(
    ("answer", "job"),
    [("17", "17"), ("17;cluster", "17"), ("", None), ("Submitted batch job 12", None), ("warning: old\\n12", None),
     ("\u0661\u0662", None), ("12;", None), ("12 ", None), ("0", None)],
)  # fmt: skip
def test_an_answer_of_sbatch_is_an_id_or_nothing(
    answer: str, job: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of(monkeypatch, tmp_path / "bin", sbatch=f"printf '{answer}\\n'", squeue="exit 0")
    if job is not None:
        assert slurm.sbatch(tmp_path / "array-0.sh", "name", []) == job
        return
    with pytest.raises(UserError, match="is no job id") as refusal:
        slurm.sbatch(tmp_path / "array-0.sh", "ppo-x-1-0-1a2b", [])
    assert "ppo-x-1-0-1a2b" in str(refusal.value) and "same command again" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_job_behind_an_odd_answer_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own sbatch may put a warning before the number."""
    squeue = 'case "$*" in *--name=ppo-x-1-0-1a2b*) echo 12; echo 12 ;; esac'
    instead_of(monkeypatch, tmp_path / "bin", sbatch="echo 'please use --account'; echo 12", squeue=squeue)
    assert slurm.sbatch(tmp_path / "array-0.sh", "ppo-x-1-0-1a2b", []) == "12"


def test_a_name_that_squeue_cannot_look_up_is_not_taken_for_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs would be submitted twice."""
    launch = launch_in(tmp_path)
    slurm.note(launch, [Part("ppo-x-1-0-1a2b", 0, 1)])
    instead_of(monkeypatch, tmp_path / "bin", squeue="exit 1")
    with pytest.raises(slurm.Silent, match="squeue"):
        slurm.reconcile(launch)


@pytest.mark.parametrize("line", ["slurm_load_jobs warning", "12|0|RUNNING", "x|0|RUNNING|n1|None|name"])
def test_an_answer_of_squeue_that_is_not_understood_is_said(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of(monkeypatch, tmp_path / "bin", squeue=f"echo '{line}'")
    with pytest.raises(slurm.Silent, match="squeue"):
        slurm.queue()


def test_a_site_without_arrays_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instead_of(monkeypatch, tmp_path / "bin", sbatch="", scontrol="echo 'MaxArraySize            = 0'")
    with pytest.raises(UserError, match="MaxArraySize"):
        slurm.site_array_size(Slurm(), dry_run=False)


@pytest.mark.parametrize("programs", [{}, {"sbatch": "", "squeue": "exit 1", "scontrol": "exit 1"}])
def test_a_dry_run_needs_no_queue_that_answers(
    programs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with no SLURM at all; what is not known is said."""
    instead_of(monkeypatch, tmp_path / "bin", **programs)
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if not programs else os.environ["PATH"])
    line = [sys.executable, "-m", "experiments.study", "study=quick", "cluster=slurm", f"records={tmp_path}/records",
            "variants=[random]", "environments=[cartpole]", "tracking=none", "dry_run=true"]  # fmt: skip
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#SBATCH --array=0-0" in done.stdout
    assert "squeue does not answer" in done.stdout and "scontrol" in done.stdout
    assert not (tmp_path / "records").exists()


def test_a_machine_without_slurm_says_so(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "experiments.study", "study=quick", "cluster=slurm", f"records={tmp_path}/records"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch is not here") and "cluster=local" in done.stderr
    assert not (tmp_path / "records").exists()
