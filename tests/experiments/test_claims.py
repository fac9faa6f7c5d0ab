"""A claim is one process's alone, ends with it, and is judged from afar by signs of life."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.files import read_json
from experiments.records import claims
from experiments.records.claims import Claim, Heartbeat, Taken, claim_all, live_owners, numbered
from tests.conftest import ROOT

BEAT = 0.4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", BEAT)


def take(path: Path) -> "Claim | Taken":
    (claim,) = claim_all([path])
    return claim


def held_by(path: Path, number: int = 1, **owner: Any) -> Path:
    """A claim of somebody else's: of this process unless told otherwise."""
    folder = numbered(path, number)
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(json.dumps(claims.owner() | owner))
    return folder


def gone() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def names(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.parent.iterdir())


def test_what_is_free_is_claimed_and_released_without_a_trace(tmp_path: Path) -> None:
    claim = take(tmp_path / "claims" / "run")
    assert isinstance(claim, Claim)
    assert json.loads((claim.folder / "owner.json").read_text())["pid"] == os.getpid()
    claim.release()
    assert list((tmp_path / "claims").iterdir()) == []


def test_the_living_keep_their_claim(tmp_path: Path) -> None:
    path = tmp_path / "run"
    claim = take(path)
    second = take(path)
    assert isinstance(second, Taken)
    assert str(second) == f"run is in the hands of process {os.getpid()} on {os.uname().nodename}"
    assert isinstance(claim, Claim) and names(path) == [claim.folder.name]
    claim.release()
    assert isinstance(take(path), Claim)


@pytest.mark.parametrize("change", ["no such process", "another process with its number", "an earlier boot"])
def test_a_claim_of_the_dead_is_followed_and_cleared_away(change: str, tmp_path: Path, quick: None) -> None:
    path = tmp_path / "run"
    match change:
        case "no such process":
            held_by(path, 7, pid=gone())
        case "another process with its number":
            held_by(path, 7, process_start="1")
        case "an earlier boot":
            held_by(path, 7, boot_id="before")
    claim = take(path)
    assert isinstance(claim, Claim)
    assert names(path) == ["run-8"]


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    """As a mirror whose trainer has not yet asked how it ended."""
    process = subprocess.Popen(["sleep", "60"])
    started = claims.process_start(process.pid)
    held_by(tmp_path / "run", pid=process.pid, process_start=started)
    assert isinstance(take(tmp_path / "run"), Taken)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert isinstance(take(tmp_path / "run"), Claim)
    process.wait()


def test_a_claim_without_an_owner_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process was killed between the folder and the name in it."""
    numbered(tmp_path / "run", 1).mkdir()
    monkeypatch.setattr(claims.wait_for_owner, "__defaults__", (0.2,))
    assert isinstance(take(tmp_path / "run"), Claim)


def test_similar_names_are_different_claims(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("run", "run-1", "run-1-online", "run-online")]
    assert all(isinstance(claim, Claim) for claim in claim_all(paths))
    assert all(isinstance(take(path), Taken) for path in paths)


@pytest.fixture
def afar(tmp_path: Path) -> Iterator[Path]:
    """A claim of a process on another machine that lives until the test's end."""
    folder = held_by(tmp_path / "alive", host="node7", pid=12)
    with Heartbeat([folder]):
        yield folder


def test_another_machine_is_judged_by_its_heartbeat(tmp_path: Path, quick: None, afar: Path) -> None:
    """Neither process table nor clocks are shared. A heartbeat that stands still is an old one."""
    silent = held_by(tmp_path / "silent", host="node7", pid=12)
    (silent / "heartbeat").write_text("41\n")
    assert live_owners([afar, silent]) == ["process 12 on node7", None]
    first, second = claim_all([tmp_path / "alive", tmp_path / "silent"])
    assert isinstance(first, Taken) and "process 12 on node7" in str(first)
    assert isinstance(second, Claim)


class Clock:
    """Stands for the module `time`: only sleeping takes any."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(claims, "time", Clock())
    return claims.time  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["elsewhere", "nameless", "vanished"])
def test_many_are_waited_for_at_once(kind: str, tmp_path: Path, clock: Clock) -> None:
    """Those on other machines, those killed before they wrote a name, those that ended between two looks."""
    folders = [numbered(tmp_path / f"run{number}", 1) for number in range(5)]
    for folder in folders:
        if kind == "elsewhere":
            held_by(tmp_path / folder.name.removesuffix("-1"), host="node7")
        elif kind == "nameless":
            folder.mkdir()
    assert live_owners(folders) == [None] * 5
    assert clock.now < 2.5 * claims.HEARTBEAT_SECONDS + 1, "as long as for one"


def test_the_dead_of_this_machine_are_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    folders = [held_by(tmp_path / f"run{number}", pid=gone()) for number in range(20)]
    assert live_owners(folders) == [None] * 20
    assert clock.now == 0


# Races


def test_of_many_threads_one_wins(tmp_path: Path) -> None:
    """Round after round, over what the dead have left."""
    for number in range(30):
        path = tmp_path / f"run{number}"
        if number % 2:
            held_by(path, 3, pid=-1)
        start = threading.Barrier(8)
        told: list[Claim | Taken] = []

        def race(path: Path = path, start: threading.Barrier = start, told: list[Claim | Taken] = told) -> None:
            start.wait()
            told.append(take(path))

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 8
        (won,) = [claim for claim in told if isinstance(claim, Claim)]
        assert names(path).count(won.folder.name) == 1


def test_a_claim_taken_away_while_it_is_read_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_by(tmp_path / "run", 1, pid=-1)
    (folder,) = tmp_path.iterdir()

    def too_late(path: Path) -> dict[str, object]:
        shutil.rmtree(folder)
        return read_json(path)

    monkeypatch.setattr(claims, "read_json", too_late)
    assert claims.live_owners([folder]) == [None]


RACER = """
import sys, time
from pathlib import Path
from experiments.records.claims import Claim, claim_all
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
claims = claim_all([Path(sys.argv[1]) / f"run{number}" for number in range(16)])
print(*[number for number, claim in enumerate(claims) if isinstance(claim, Claim)], flush=True)
sys.stdin.read()  # alive until everybody has tried
"""


def test_of_many_processes_one_wins_each_claim(tmp_path: Path) -> None:
    for number in range(0, 16, 2):
        held_by(tmp_path / f"run{number}", 1, pid=-1)
    line = [sys.executable, "-c", RACER, str(tmp_path), str(time.time() + 1.5)]
    racers = [
        subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    won: Counter[str] = Counter()
    for racer in racers:
        assert racer.stdout is not None
        won.update(racer.stdout.readline().split())
    for racer in racers:
        racer.communicate()
    assert won == Counter({str(number): 1 for number in range(16)})


@pytest.mark.parametrize("held", [[], [1]])
def test_who_looked_long_ago_does_not_take_what_others_took_meanwhile(held: list[int], tmp_path: Path) -> None:
    """Between the look and the claim lies the wait for signs of life, in which claims may come and go."""
    path = tmp_path / "run"
    for number in held:
        held_by(path, number, pid=gone())
    numbers = claims.claims_on(path)  # the slow one looks
    held_by(path, max(held, default=0) + 1, pid=gone())  # somebody claims, and dies
    winner = take(path)
    assert isinstance(winner, Claim)
    with pytest.raises(Taken):
        Claim(path, numbers)
    assert names(path) == [winner.folder.name]
