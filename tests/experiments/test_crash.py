"""A pack that crashes costs its culprit alone; a snapshot is the code that trains."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments.files import as_json, read_json
from experiments.identity import code_id
from experiments.jobs.launch import Launch, freeze_launch, snapshot
from experiments.jobs.local import Pool
from experiments.jobs.packs import PlannedPack
from experiments.jobs.standing import standings
from experiments.manifest import freeze
from experiments.records.provenance import ROOT
from tests.conftest import promised, small_run, train
from tests.experiments.test_packs import entries_of


class TestACrash:
    """One run of a pack raises: its mates finish, it is named with the line of its error, and can be tried again."""

    @pytest.fixture
    def pack(self, tmp_path: Path) -> PlannedPack:
        return PlannedPack(tuple(entries_of(*(small_run(seed=seed, env="CartPole-v1") for seed in (0, 1, 2)))), 1.0)

    def frozen(self, pack: PlannedPack, records: Path) -> Launch:
        study = records / "studies" / "broken"
        freeze(study, pack.entries, extend=False)
        head = {"tracking": {"mode": "none"}, "checkpoint_seconds": 60.0, "requeue": False, "array_size": None}
        return freeze_launch(study, [[[entry.run_id for entry in pack.entries]]], {"cluster": "local", **head})

    def pool(self, launch: Launch, pack: PlannedPack) -> None:
        Pool(launch, [pack], 1, Console(quiet=True)).run()

    def break_seed_1(self, launch: Launch) -> Path:
        """In the snapshot: what the launch's code id covers stays as it is."""
        path = Path(launch.head()["code"]) / "experiments" / "runner.py"
        path.write_text(
            path.read_text().replace(
                "    pack = Pack([record.run.config for record, _, _ in group])\n",
                "    pack = Pack([record.run.config for record, _, _ in group])\n"
                "    if any(run.seed == 1 for run in pack.runs):\n"
                "        raise ArithmeticError('seed 1 is cursed')\n",
            )
        )
        assert "cursed" in path.read_text()
        return path

    def test_only_the_culprit_fails_and_a_retry_heals_it(self, tmp_path: Path, pack: PlannedPack) -> None:
        launch = self.frozen(pack, tmp_path)
        self.break_seed_1(launch)
        self.pool(launch, pack)
        stands = standings(pack.entries, tmp_path, code_id())
        assert [stand.state for stand in stands] == ["done", "failed", "done"]
        assert stands[1].note == "ArithmeticError: seed 1 is cursed"
        log = launch.log(0).read_text()
        assert log.count("Traceback") == 3  # the pack, the pack again, the culprit alone
        failed = tmp_path / "runs" / code_id() / pack.entries[1].folder_name / "failed.json"
        assert read_json(failed)["log"] == str(launch.log(0))

        failed.unlink()  # what retry=failed does
        for path in tmp_path.glob("studies/broken/code/*/experiments/runner.py"):
            path.write_text((ROOT / "experiments" / "runner.py").read_text())
        self.pool(self.frozen(pack, tmp_path), pack)
        runs = [entry.run.config for entry in pack.entries]
        train(runs, tmp_path / "undisturbed")
        assert promised(runs, tmp_path) == promised(runs, tmp_path / "undisturbed")

    def test_a_worker_killed_for_its_memory_is_tried_again(self, tmp_path: Path, pack: PlannedPack) -> None:
        launch = self.frozen(pack, tmp_path)
        path = Path(launch.head()["code"]) / "experiments" / "jobs" / "worker.py"
        marker = tmp_path / "killed-once"
        path.write_text(
            path.read_text().replace(
                "def main() -> None:\n",
                "def main() -> None:\n    import os\n"
                f"    if not os.path.exists({str(marker)!r}):\n"
                f"        open({str(marker)!r}, 'w').close()\n        os.kill(os.getpid(), 9)\n",
            )
        )
        self.pool(launch, pack)
        assert marker.exists()
        assert {stand.state for stand in standings(pack.entries, tmp_path, code_id())} == {"done"}

    def test_a_launch_whose_packages_changed_trains_nothing(self, tmp_path: Path, pack: PlannedPack) -> None:
        launch = self.frozen(pack, tmp_path)
        (launch.folder / "launch.json").write_bytes(as_json(launch.head() | {"code_id": "0" * 12}))
        self.pool(launch, pack)
        assert "a package under it has changed" in launch.log(0).read_text()
        assert not (tmp_path / "runs").exists()


def test_a_snapshot_is_the_code_and_nothing_else(tmp_path: Path) -> None:
    copy = snapshot(tmp_path)
    assert snapshot(tmp_path) == copy
    files = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()}
    assert Path("ppo/update.py") in files
    assert Path("conf/study/table1.yaml") in files
    for path in files - {Path("origin.json")}:
        assert (copy / path).read_bytes() == (ROOT / path).read_bytes()
    asked = [sys.executable, "-c", "from experiments.identity import code_id; print(code_id())"]
    assert subprocess.run(asked, cwd=copy, capture_output=True, text=True).stdout.strip() == code_id()
