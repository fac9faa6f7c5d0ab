"""What a W&B server gives is what the records say; what it holds wrongly, or does not give, is named."""

import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mirrored import (
    KEY,
    assert_key_is_in_no_file,
    folders_of,
    mirrored,
    run_of,
    train,
    train_some,
    wandb_id,
)
from returned import all_same, altered, by_id, folders_in, same_as_record, the_broken
from wandb_server import SERVE, Behaviour, Server, refusing

from analysis.records import RecordError
from analysis.sources import wandb as source
from analysis.sources.records import read_run
from analysis.sources.wandb import from_server, lacks_episodes

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("path", ["ppo", "tester/ppo"])
def test_a_server_gives_what_the_records_give_and_is_asked_once(
    path: str, finished: Path, server: Server, tmp_path: Path
) -> None:
    runs = by_id(from_server(path, tmp_path / "cache"))
    all_same(runs, finished)
    assert {run.row["source"] for run in runs.values()} == {f"tester/ppo/{name}" for name in runs}
    assert server.requests["RunParquetHistory"] == server.requests["download"] == 3
    all_same(by_id(from_server(path, tmp_path / "cache")), finished)
    assert server.requests["RunParquetHistory"] == server.requests["download"] == 3
    assert not server.faults and not server.requests["RunSampledHistory"]
    assert_key_is_in_no_file(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from analysis.sources import wandb as source
written, fsync = [], os.fsync
def fsync_twice(file):
    written.append(fsync(file))
    if len(written) == 3: os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync_twice
for run in source.from_server("ppo", Path(sys.argv[1])): pass
"""


def test_a_killed_call_goes_on_where_it_was(finished: Path, server: Server, tmp_path: Path) -> None:
    line = [sys.executable, "-c", KILLED, str(tmp_path / "cache")]
    assert subprocess.run(line, cwd=ROOT, timeout=300).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
    assert server.requests["RunParquetHistory"] == 3  # the third was not written to its end
    all_same(by_id(from_server("ppo", tmp_path / "cache")), finished)
    assert server.requests["RunParquetHistory"] == 4


def test_a_cache_that_was_cut_is_fetched_again(finished: Path, server: Server, tmp_path: Path) -> None:
    by_id(from_server("ppo", tmp_path / "cache"))
    kept = sorted((tmp_path / "cache").iterdir())[0]
    kept.write_bytes(kept.read_bytes()[:1000])
    all_same(by_id(from_server("ppo", tmp_path / "cache")), finished)
    assert server.requests["RunParquetHistory"] == 4


def test_a_finished_run_that_changed_on_the_server_is_fetched_again(server: Server, tmp_path: Path) -> None:
    by_id(from_server("ppo", tmp_path / "cache"))
    run = next(iter(server.runs.values()))
    run.rows[0]["kl"] = 0.25
    run.summary["_timestamp"] += 1
    again = by_id(from_server("ppo", tmp_path / "cache"))
    assert again[run.id].iterations["kl"][0].as_py() == 0.25
    assert server.requests["RunParquetHistory"] == 4


def test_an_unfinished_run_is_fetched_again(stub: Server, tmp_path: Path) -> None:
    runs = [run_of(6, env="CartPole-v1")]
    records, cache = tmp_path / "records", tmp_path / "cache"
    (folder,) = folders_of(runs, records)
    train_some(runs, records, 3)
    assert mirrored(records, [folder], "online") == (True, {"so far": 1})
    (partial,) = by_id(from_server("ppo", cache)).values()
    assert (partial.row["status"], partial.row["env_steps"]) == ("partial", 768) and lacks_episodes(partial)
    assert partial.iterations.equals(read_run(folder, {}).iterations)
    assert not list(cache.iterdir())
    train(runs, records)
    assert mirrored(records, [folder], "online") == (True, {"complete": 1})
    (whole,) = by_id(from_server("ppo", cache)).values()
    same_as_record(whole, folder)
    assert len(list(cache.iterdir())) == 1


def test_every_row_and_every_run_is_fetched_however_many(server: Server, tmp_path: Path) -> None:
    """Beyond the client's pages: 50 runs, 1000 rows."""
    (run,) = [run for run in server.runs.values() if "clip" in str(run.group) and run.summary["status"] == "complete"]
    for number in range(48):
        other = deepcopy(run)
        other.id, other.rows, other.summary = f"{number:012x}-{'0' * 12}", run.rows[:1], {}
        server.runs[other.id] = other
    last = run.rows[-1]
    run.rows += [last | {"_step": n, "iteration": n, "env_steps": 256 * n} for n in range(7, 2501)]
    run.summary["env_steps"] = 256 * 2500
    found = by_id(from_server("ppo", tmp_path / "cache"))
    assert len(found) == 51
    assert found[run.id].iterations["iteration"].to_pylist() == list(range(1, 2501))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: run.rows.pop(2), "lacks 1 of 6 iterations, the first of them 3"),
        (lambda run: run.rows.pop(), "is not complete: its rows end at env step 1280 of 1536"),
        (lambda run: run.files.update({"episodes.csv": altered(run.files["episodes.csv"])}), "it was altered"),
        (lambda run: run.config.pop("provenance"), "is broken: KeyError 'provenance'"),
        (lambda run: setattr(run, "id", "mine"), "is not of experiments.tracking.mirror"),
    ],
    ids=["a row", "the last row", "episodes", "provenance", "another's"],
)
def test_what_a_server_holds_wrongly_is_named_and_not_kept(
    harm: Any, said: str, server: Server, finished: Path, tmp_path: Path
) -> None:
    run = server.runs[wandb_id(folders_in(finished)[0])]
    harm(run)
    sentence = the_broken(from_server("ppo", tmp_path / "cache"))
    assert said in sentence and sentence.startswith(f"tester/ppo/{run.id}")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_run_whose_episodes_a_server_does_not_have_is_fetched_until_it_has(
    server: Server, finished: Path, tmp_path: Path
) -> None:
    folder = folders_in(finished)[0]
    files = server.runs[wandb_id(folder)].files
    content = files["episodes.csv"]
    for there in ({}, {"episodes.csv": b""}):
        files.clear()
        files.update(there)
        same_as_record(by_id(from_server("ppo", tmp_path / "cache"))[wandb_id(folder)], folder, lacking=True)
    files["episodes.csv"] = content
    all_same(by_id(from_server("ppo", tmp_path / "cache")), finished)


# What is refused


def refused(tmp_path: Path, path: str = "ppo") -> str:
    with pytest.raises(RecordError) as error:
        list(from_server(path, tmp_path / "cache"))
    assert "\n" not in str(error.value) and KEY not in str(error.value)
    return str(error.value)


def test_no_such_project_is_one_sentence(server: Server, tmp_path: Path) -> None:
    assert refused(tmp_path, "tester/pop") == "W&B has no project tester/pop, or none that this key may read"


def test_no_key_is_one_sentence(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert refused(tmp_path).startswith("no W&B API key: ")
    assert not server.requests


@pytest.mark.parametrize("key", [f" {KEY}", KEY[:20]])
def test_a_key_that_cannot_be_one_is_not_shown(
    key: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert KEY[:20] not in refused(tmp_path)


@pytest.mark.parametrize("name", ["WANDB_ENTITY", "WANDB_DEBUG"])
def test_settings_of_others_are_refused(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "other")
    assert refused(tmp_path).startswith(f"unset {name}: ")
    assert not server.requests


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"REQUEST_SECONDS": 1.0, "PATIENCE_SECONDS": 1, "RETRIES": 1}.items():
        monkeypatch.setattr(source, name, value)


@pytest.mark.parametrize("behaviour", ["gone", "silent", "401"])
def test_a_server_that_cannot_be_read_is_one_sentence(
    behaviour: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    if behaviour == "gone":
        server.stop()
    else:
        server.behaviour = Behaviour("hang") if behaviour == "silent" else refusing(401)
    assert refused(tmp_path).startswith("W&B does not give ppo: ")


@pytest.mark.parametrize("operation", ["Runs", "HistoryPage", "download"])
def test_a_server_that_falls_silent_is_one_sentence_and_the_same_call_goes_on(
    operation: str, server: Server, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    server.behaviour = Behaviour("hang", operations=frozenset({operation}))
    assert refused(tmp_path).startswith("W&B does not give ppo: ")
    server.behaviour = SERVE
    all_same(by_id(from_server("ppo", tmp_path / "cache")), finished)
