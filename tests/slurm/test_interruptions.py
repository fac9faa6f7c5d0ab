"""Whatever ends a task on a cluster, its runs go on and end with the bytes they would have had."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from experiments.jobs.task import AGAIN, ELSEWHERE
from slurm.submitted import Submitted, alive, dev_cluster, eventually, exit_code, has, parent_of, slurm

Make = Callable[..., Submitted]


def test_time_limit(submitted: Make) -> None:
    """SLURM's own USR1 before a real limit of one minute; the task asks for itself again."""
    study = submitted("limit", cluster__time="00:01:00", cluster__signal_seconds="5")
    study.submit()
    goes_on_in_the_next_turn(study, study.held(), signal.SIGUSR1)


def test_a_node_that_dies_while_its_tasks_live_on(submitted: Make) -> None:
    """Two runs on one node. SLURM requeues both tasks; their processes are orphans, held still and so out of reach.

    All nodes share a host name here, so that an orphan is known by its pid and left alone as long as it exists. To
    seed 1 it is done as on a cluster: its owner is somewhere else and shows no sign of life, so that the new task takes
    over; and the orphan, when it goes on, finds itself fenced off.
    """
    study = submitted("orphaned", seeds="[0,1]", cluster__constraint="n4", checkpoint_seconds="0")
    study.submit()
    orphans = [study.held(seed) for seed in (0, 1)]
    jobs = {job.id for job in study.queue()}
    owner = study.run_folder(1) / "attempt-1" / "owner.json"
    owner.write_text(json.dumps(json.loads(owner.read_text()) | {"host": "elsewhere"}))
    kill_node("n4", study)
    eventually(lambda: {job.state for job in study.queue()} == {"PENDING"}, "SLURM's notice of the dead node", every=1)
    assert {job.id for job in study.queue()} == jobs
    assert all(map(alive, orphans))
    for job in jobs:
        slurm("scontrol", "update", f"JobId={job}", "Features=n5")
    study.ended()

    assert study.done(1)["attempt"] == 2
    assert study.status()[1]["counts"] == {"done": 1, "running": 1}
    (left,) = [job for job in jobs if exit_code(job) == ELSEWHERE]
    assert "left alone" in study.log(f"0+{left.partition('_')[2]}")
    assert "1 runs left alone: at work" in " ".join(study.launch().stdout.split())

    for orphan in orphans:
        os.kill(orphan, signal.SIGCONT)
    eventually(lambda: not any(map(alive, orphans)), "the end of the orphans")
    assert study.done(1)["attempt"] == 2, "the orphan recorded nothing over it"
    study.settings["cluster.constraint"] = "n5"
    study.submit()  # there may be nothing left to do: seed 0's orphan is free to finish its work
    study.ended()
    study.assert_as_undisturbed()
    dev_cluster("up")  # the node comes back


def kill_node(name: str, study: Submitted) -> None:
    """Its daemons and those of the study's steps, as in a loss of power; but the processes they started live on."""
    configuration = os.environ["SLURM_CONF"]
    numbers = [json.loads(path.read_text())["slurm_job_id"] for path in study.records.rglob("attempt-*/owner.json")]
    daemons = [int((Path(configuration).parent.parent / "run" / f"slurmd-{name}.pid").read_text())]
    for number in numbers:
        found = subprocess.run(["pgrep", "-f", rf"^slurmstepd: \[{number}\."], capture_output=True, text=True).stdout
        # There might be another cluster on this machine, and a job of the same number.
        ours = [pid for pid in map(int, found.split()) if configuration in Path(f"/proc/{pid}/environ").read_text()]
        assert len(ours) == 2, "one for the job's script, one for its step"
        daemons += ours
    for pid in daemons:
        os.kill(pid, signal.SIGKILL)


def test_preemption(submitted: Make) -> None:
    """This cluster sends USR1 then, and no TERM until later."""
    study = submitted("preempted", cluster__constraint="n3")
    study.submit()
    pid = study.held()
    slurm("sbatch", "--partition=high", "--constraint=n3", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    goes_on_in_the_next_turn(study, pid, signal.SIGUSR1)


def test_requeue_by_somebody_else(submitted: Make) -> None:
    """TERM and no USR1, as most clusters do it in a preemption; the task leaves and asks for nothing."""
    study = submitted("requeued")
    study.submit()
    pid = study.held()
    slurm("scontrol", "requeue", study.job().id)
    goes_on_in_the_next_turn(study, pid, signal.SIGTERM)


def goes_on_in_the_next_turn(study: Submitted, pid: int, signum: signal.Signals) -> None:
    """The worker, held still, gets the signal from SLURM. Then it may go on, to its checkpoint and no further."""
    job = study.job().id
    eventually(lambda: has(pid, signum), signum.name)
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: study.job().state == "PENDING", "the job in the queue again", every=0.3)
    assert study.job().id == job
    code, status = study.status()
    assert (code, status["counts"]) == (1, {"queued": 1})
    study.ended()
    before, after = study.resumed_at(study.log())
    assert before == 0 < after, "the second turn began at the checkpoint that the signal caused"
    assert study.done()["attempt"] == 2
    study.assert_as_undisturbed()


def test_scancel_and_the_same_command_again(submitted: Make) -> None:
    study = submitted("cancelled")
    study.submit()
    pid = study.held()
    slurm("scancel", study.job().id)
    os.kill(pid, signal.SIGCONT)
    study.ended()
    study.assert_goes_on_by_the_same_command()


def test_kill_9_and_the_same_command_again(submitted: Make) -> None:
    study = submitted("killed", checkpoint_seconds="0")
    study.submit()
    pid = study.held()
    task = parent_of(pid)
    os.kill(pid, signal.SIGKILL)
    again = study.held(attempt=2)  # a worker that dies is tried once more, in the same task
    assert parent_of(again) == task
    for process in (task, again):
        os.kill(process, signal.SIGKILL)
    study.ended()
    study.assert_goes_on_by_the_same_command()
    assert study.done()["attempt"] == 3


def test_follow_up_submits_what_is_missing(submitted: Make) -> None:
    """Where tasks may not requeue themselves, the last job gives the study command again."""
    study = submitted("followed", cluster__follow_up="1", cluster__requeue="false", cluster__constraint="'n1|n2'")
    study.submit()
    pid = study.held()
    (job,) = {job.id for job in study.queue() if job.state == "RUNNING"}
    slurm("scancel", "--signal=USR1", job)
    eventually(lambda: has(pid, signal.SIGUSR1), "USR1")
    os.kill(pid, signal.SIGCONT)
    study.ended()
    assert exit_code(job) == AGAIN
    assert sorted(path.name for path in study.folder.glob("launches/*")) == ["1", "2"]
    assert "1 of 1 runs to train" in study.log("follow-up")
    (after,) = study.resumed_at(study.log(launch=2))
    assert after > 0
    study.assert_as_undisturbed()
