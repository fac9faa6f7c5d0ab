"""From the command line into the queue: whole arrays, a launcher that dies, code that is edited, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from slurm.submitted import HELD, Job, Submitted, eventually, slurm
from tests.conftest import ROOT

Make = Callable[..., Submitted]

SITE = """\
defaults: [slurm, _self_]
mem: 400M
setup: ["#SBATCH --comment=sites", "export NOTE=\\"it's here\\""]
"""


def test_an_array_from_submission_to_records(submitted: Make) -> None:
    """Five tasks, where the site takes four in an array; two at once of each array, a GPU each."""
    study = submitted(
        "array",
        seeds="[0,1,2,3,4]",
        cluster__constraint="'n1|n2'",
        cluster__gres="gpu:1",
        cluster__throttle="2",
    )
    words = study.submit()
    parts = {int(count): job for job, count in re.findall(r"submitted (\d+): (\d+) tasks", words)}
    assert set(parts) == {4, 1}
    code, status = study.status()
    assert code == 1 and "queued" in status["counts"], status

    seen: list[list[Job]] = []
    eventually(lambda: seen.append(study.queue()) or not seen[-1], "the end of the array", 240, every=0.3)
    running = [[job for job in jobs if job.state == "RUNNING"] for jobs in seen]
    of_the_larger = [sum(job.id.startswith(f"{parts[4]}_") for job in jobs) for jobs in running]
    assert max(of_the_larger) == 2

    devices = {}
    for folder in study.records.glob("runs/*/*"):
        environment = json.loads((folder / "provenance.json").read_text())["environment"]
        name = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
        devices[name] = environment["CUDA_VISIBLE_DEVICES"]
    assert set(devices) == {*(f"{parts[4]}_{index}" for index in range(4)), f"{parts[1]}_0"}
    assert set(devices.values()) <= {"0", "1"}
    neighbours = [(a, b) for jobs in running for a in jobs for b in jobs if a.node == b.node and a.id < b.id]
    assert neighbours, "no two tasks were ever on one node at once, so nothing was shown"
    assert all(devices[a.id] != devices[b.id] for a, b in neighbours)

    logs = {path.name for path in (study.folder / "launches" / "1" / "logs").iterdir()}
    assert logs == {"0+0.log", "0+1.log", "0+2.log", "0+3.log", "4+0.log"}
    assert "complete" in study.log("4+0")
    code, status = study.status()
    assert (code, status["counts"]) == (0, {"done": 5})
    study.assert_as_undisturbed()


def test_a_launcher_killed_between_sbatch_and_its_note(submitted: Make) -> None:
    study = submitted("noteless")
    study.instead_of("sbatch", f"{HELD}; kill -9 $PPID")
    assert study.launch().returncode == -9
    jobs = study.queue()
    (noted,) = json.loads((study.folder / "launches" / "1" / "jobs.json").read_text())["parts"]
    assert len(jobs) == 1 and noted["job"] is None
    study.as_ever("sbatch")
    assert "1 runs left alone: at work or queued already" in " ".join(study.launch().stdout.split())
    assert study.queue() == jobs
    assert study.status()[1]["runs"][0]["note"] == f"job {jobs[0].id} (JobHeldUser)"
    study.release()
    study.ended()
    study.assert_as_undisturbed()


def test_a_launcher_killed_before_sbatch(submitted: Make) -> None:
    study = submitted("unsent")
    study.instead_of("sbatch", "kill -9 $PPID")
    assert study.launch().returncode == -9
    assert not study.queue()
    study.hold_back()
    study.submit()
    assert len(study.queue()) == 1


def test_edits_after_submission_change_no_pending_job(submitted: Make, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for package in ("ppo", "experiments", "analysis", "conf"):
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    site = project / "conf" / "cluster" / "mysite.yaml"
    site.write_text(SITE)
    study = submitted("frozen", root=project, cluster="mysite")
    del study.settings["cluster.mem"]
    study.hold_back()
    study.submit()
    assert "Comment=sites" in slurm("scontrol", "show", "job", study.job().id)
    for path in [*project.glob("ppo/*.py"), *project.glob("experiments/*.py")]:
        path.write_text("raise SystemExit('this is tomorrow’s code')\n")
    for path in project.glob("conf/**/*.yaml"):
        path.write_text("nothing: here\n")
    study.release()
    study.ended()
    study.assert_as_undisturbed()
    launch = json.loads((study.folder / "launches" / "1" / "launch.json").read_text())
    assert study.done()["code_id"] == launch["code_id"]


def test_what_sbatch_refuses_is_told_in_its_words(submitted: Make) -> None:
    study = submitted("refused", cluster__partition="nope")
    done = study.launch()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: sbatch refused ") and "invalid partition specified: nope" in line
    assert "Give the same command again" in line
    study.settings["cluster.partition"] = "low"
    study.hold_back()
    study.submit()
    assert len(study.queue()) == 1


def test_a_second_array_that_is_refused(submitted: Make) -> None:
    """The first one is in the queue by then: it is named, and the same command again submits only the rest."""
    study = submitted("halfway", seeds="[0,1,2,3,4]")
    study.instead_of("sbatch", f'case "$*" in *array-0.sh) exec {HELD} ;; esac; echo no >&2; exit 1')
    done = study.launch()
    first = {job.id.partition("_")[0] for job in study.queue()}
    assert done.returncode == 2 and len(first) == 1
    assert f"submitted before it: {first.pop()}" in done.stderr
    study.hold_back()
    words = study.submit()
    assert "4 runs left alone: at work or queued already" in words and "1 of 5 runs to train" in words
    assert len(study.queue()) == 5


def test_a_queue_that_does_not_answer_stops_everything(submitted: Make) -> None:
    """Whether a run is queued already is then unknown."""
    study = submitted("deaf")
    study.instead_of("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    done = study.launch()
    assert done.returncode == 2 and "squeue does not answer" in done.stderr
    assert not study.queue()


def test_a_study_that_is_cancelled_stays_so(submitted: Make) -> None:
    study = submitted("given_up", cluster__follow_up="1")
    study.instead_of("sbatch", f'case "$*" in *array*) exec {HELD} ;; *) exec {shutil.which("sbatch")} "$@" ;; esac')
    study.submit()
    done = study.python("experiments.cancel", study.name, "--records", str(study.records))
    assert done.returncode == 0 and "cancelled" in done.stdout
    eventually(lambda: not study.queue(), "an empty queue", 15, every=0.5)
