"""A run that cannot be trained fails alone, says why, and is taken up again when it is asked for."""

import json
from collections.abc import Callable

from experiments.jobs.task import FAILED
from slurm.submitted import Submitted, exit_code

CURSE = """\
        if self.record.run.config.seed == 1 and iteration.number == 3:
            raise ValueError("seed 1 is cursed")
"""


def test_only_the_culprit_of_a_pack_fails(submitted: Callable[..., Submitted]) -> None:
    study = submitted("cursed", seeds="[0,1]", cluster__runs_per_pack="2", checkpoint_seconds="0")
    study.hold_back()
    study.submit()
    (snapshot,) = study.folder.glob("code/*/experiments/records/record.py")
    healthy = snapshot.read_text()
    head, mark, tail = healthy.partition('        """The rows of one iteration."""\n')
    assert mark
    snapshot.write_text(head + mark + CURSE + tail)
    job = study.job().id
    study.release()
    study.ended()

    log = study.log()
    assert exit_code(job) == FAILED
    assert log.count("a pack of 2 from") == 2, "the pack is tried twice"
    assert log.count("a pack of 1 from") == 2, "then its runs go singly"
    code, status = study.status()
    assert (code, status["counts"]) == (1, {"done": 1, "failed": 1})
    (failed,) = [run for run in status["runs"] if run["state"] == "failed"]
    assert (failed["seed"], failed["note"]) == (1, "ValueError: seed 1 is cursed")
    reason = json.loads((study.run_folder(1) / "failed.json").read_text())
    assert reason["log"] == str(study.folder / "launches" / "1" / "logs" / "0+0.log")

    snapshot.write_text(healthy)
    done = study.launch()
    assert done.returncode == 1 and "failed before; retry=failed tries them again" in " ".join(done.stdout.split())
    assert not study.queue()
    study.as_ever("sbatch")
    study.submit("retry=failed")
    study.ended()
    study.assert_as_undisturbed()
