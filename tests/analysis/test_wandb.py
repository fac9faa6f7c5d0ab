"""What comes back from W&B is what the records say, and what does not come back whole is named."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "experiments"))  # the mirror's tests, which have a server

import wandb
from mirrored import (
    KEY,
    assert_key_is_in_no_file,
    copied,
    folders_of,
    mirrored,
    run_of,
    served,
    train,
    train_some,
    wandb_id,
)
from wandb_server import SERVE, Behaviour, Run, Server, refusing

from analysis.dataset import RUN_COLUMNS
from analysis.records import RecordError
from analysis.sources import wandb as source
from analysis.sources.records import Broken, Collected, read_run
from analysis.sources.wandb import ITERATION_COLUMNS, WHOLE_NUMBERS, from_files, from_server, lacks_episodes
from experiments.record import ITERATION_COLUMNS as WRITTEN
from ppo.config import Algo, RunConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of three runs and their offline W&B files: clip on CartPole, one that diverged, and an adaptive β."""
    records = tmp_path_factory.mktemp("finished")
    wild = run_of(1, env="CartPole-v1")
    train([run_of(0, env="CartPole-v1"), replace(wild, profile=replace(wild.profile, stepsize=1e37))], records)
    train([run_of(2, env="CartPole-v1", algo=Algo("kl_adaptive", beta=1.0, kl_target=0.01))], records)
    with pytest.MonkeyPatch.context() as patch, served(patch, records.parent / "home"):
        assert mirrored(records, folders_in(records), "offline")[0]
    return records


@pytest.fixture(scope="module")
def uploaded(finished: Path) -> dict[str, Run]:
    """What a server holds of the same records."""
    with pytest.MonkeyPatch.context() as patch, served(patch, finished.parent / "home") as server:
        assert mirrored(finished, folders_in(finished), "online")[0]
        return server.runs


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that nobody has written to."""
    with served(monkeypatch, tmp_path / "home") as server:
        yield server


@pytest.fixture
def server(uploaded: dict[str, Run], stub: Server) -> Server:
    """A server that holds the records, and may do with them what it likes."""
    stub.runs = deepcopy(uploaded)
    return stub


@pytest.fixture
def records(finished: Path, tmp_path: Path) -> Path:
    return copied(finished, tmp_path / "records")[0]


def folders_in(records: Path) -> list[Path]:
    return sorted(path.parent for path in records.glob("runs/*/*/config.json"))


def by_id(found: Iterator[Collected | Broken]) -> dict[str, Collected]:
    """None of them broken, none twice."""
    runs = list(found)
    assert not [run for run in runs if isinstance(run, Broken)]
    named = {run.row["run"]: run for run in runs if isinstance(run, Collected)}
    assert len(named) == len(runs)
    return named


def the_broken(found: Iterator[Collected | Broken], sound: int = 2) -> str:
    """The sentence about the one run that is broken; the others are there."""
    runs = list(found)
    assert len(runs) == sound + 1
    (broken,) = [run for run in runs if isinstance(run, Broken)]
    return str(broken)


def same_as_record(run: Collected, folder: Path, lacking: bool = False) -> None:
    """Every column of the row but `source`, and both tables; the score is of the same episodes."""
    want = read_run(folder, {})
    assert list(run.row) == list(want.row) == list(RUN_COLUMNS)
    own, wanted = ({n: x for n, x in row.items() if n not in ("source", "score")} for row in (run.row, want.row))
    assert own == wanted
    assert run.row["score"] == (pytest.approx(want.row["score"], rel=1e-12) if lacking else want.row["score"])
    assert run.iterations.equals(want.iterations)
    assert run.episodes.equals(want.episodes.slice(0, 0) if lacking else want.episodes)
    assert lacks_episodes(run) == lacking


def all_same(runs: dict[str, Collected], records: Path) -> None:
    assert runs.keys() == {wandb_id(folder) for folder in folders_in(records)}
    for folder in folders_in(records):
        same_as_record(runs[wandb_id(folder)], folder)


def piece(records: Path, folder: Path) -> Path:
    """The only offline folder of a run."""
    (found,) = records.glob(f"wandb/offline-run-*-{wandb_id(folder)}")
    return found


def altered(text: bytes) -> bytes:
    return text.replace(b"9", b"8")


# What the mirror writes


def numbers(cls: Any) -> Iterator[tuple[str, type]]:
    """Name and type of every setting that is a number, or a list of them."""
    for name, hint in typing.get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from numbers(hint)
        else:
            yield from ((name, kind) for kind in (hint, *typing.get_args(hint)) if kind in (int, float))


def test_names_of_columns_and_whole_numbers_are_those_that_the_suite_writes() -> None:
    assert ITERATION_COLUMNS == WRITTEN
    kinds = list(numbers(RunConfig))
    assert {name for name, kind in kinds if kind is int} == set(WHOLE_NUMBERS)
    assert not {name for name, kind in kinds if kind is float} & set(WHOLE_NUMBERS)


# Offline files


@pytest.mark.parametrize("place", [".", "wandb"])
def test_offline_files_give_what_the_records_give(place: str, finished: Path) -> None:
    runs = by_id(from_files(finished / place))
    all_same(runs, finished)
    assert sorted(run.row["status"] for run in runs.values()) == ["complete", "complete", "diverged"]
    assert list(runs) == sorted(runs)
    assert all(Path(run.row["source"]).is_dir() for run in runs.values())


def test_values_that_are_not_finite_come_back_empty(records: Path, stub: Server) -> None:
    shutil.rmtree(records / "wandb")
    folder = next(folder for folder in folders_in(records) if "kl_adaptive" in folder.name)
    (table,) = folder.glob("attempt-1/iterations.csv")
    head, first, *others = (line.split(",") for line in table.read_text().splitlines())
    first[head.index("kl")], first[head.index("entropy")], others[0][head.index("std")] = "inf", "nan", ""
    table.write_text("".join(",".join(line) + "\n" for line in (head, first, *others)))
    assert mirrored(records, [folder], "offline")[0]
    (run,) = by_id(from_files(records)).values()
    first[head.index("kl")] = first[head.index("entropy")] = ""
    table.write_text("".join(",".join(line) + "\n" for line in (head, first, *others)))
    done = json.loads((folder / "done.json").read_text())
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    (folder / "done.json").write_text(json.dumps(done | {"iterations_sha256": digest}))
    same_as_record(run, folder)


def test_a_variant_with_a_name_keeps_it(records: Path, stub: Server) -> None:
    shutil.rmtree(records / "wandb")
    folder = folders_in(records)[0]
    head = json.loads((folder / "config.json").read_text())
    head["names"]["variant"] = "no_clipping"
    (folder / "config.json").write_text(json.dumps(head))
    assert mirrored(records, [folder], "offline")[0]
    (run,) = by_id(from_files(records)).values()
    assert run.row["variant"] == "no_clipping"
    same_as_record(run, folder)


def test_a_resumed_run_is_merged_from_its_files(stub: Server, tmp_path: Path) -> None:
    runs = [run_of(5, env="CartPole-v1")]
    (folder,) = folders_of(runs, tmp_path)
    train_some(runs, tmp_path, 3)
    assert mirrored(tmp_path, [folder], "offline") == (True, {"so far": 1})
    (partial,) = by_id(from_files(tmp_path)).values()
    want = read_run(folder, {})
    assert partial.row["status"] == "partial" and lacks_episodes(partial)
    assert partial.iterations.equals(want.iterations) and len(partial.iterations) == 3
    assert {**partial.row, "source": "", "score": 0} == {**want.row, "source": "", "score": 0}
    assert partial.row["score"] == pytest.approx(want.row["score"], rel=1e-12)

    train(runs, tmp_path)
    assert mirrored(tmp_path, [folder], "offline") == (True, {"complete": 1})
    first, second = sorted(tmp_path.glob("wandb/offline-run-*"))
    (whole,) = by_id(from_files(tmp_path)).values()
    same_as_record(whole, folder)

    shutil.copytree(first, tmp_path / "wandb" / "copy" / first.name)  # each row is there twice
    (whole,) = by_id(from_files(tmp_path)).values()
    same_as_record(whole, folder)

    shutil.rmtree(tmp_path / "wandb" / "copy")
    shutil.rmtree(first)
    sentence = the_broken(from_files(tmp_path), sound=0)
    assert sentence == f"{second} lacks 3 of 6 iterations, the first of them 1"


def test_a_row_that_is_not_there_is_named(records: Path, stub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(records / "wandb")
    folder = folders_in(records)[0]
    log = wandb.Run.log
    monkeypatch.setattr(wandb.Run, "log", lambda run, row, step, **more: step == 3 or log(run, row, step=step, **more))
    assert mirrored(records, [folder], "offline")[0]
    sentence = the_broken(from_files(records), sound=0)
    assert sentence.endswith("lacks 1 of 6 iterations, the first of them 3") and wandb_id(folder) in sentence


def test_episodes_that_were_altered_are_named_and_missing_ones_counted(records: Path) -> None:
    folder = folders_in(records)[0]
    attached = piece(records, folder) / "files" / "episodes.csv"
    content = attached.read_bytes()
    attached.unlink()  # it may be the record's own, by another name
    same_as_record(by_id(from_files(records))[wandb_id(folder)], folder, lacking=True)
    attached.write_bytes(altered(content))
    sentence = the_broken(from_files(records))
    assert sentence == f"{attached.parent.parent}: episodes.csv is not what the summary's digest says; it was altered"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_text("rubbish"), "cannot be read: "),
        (lambda path: path.write_bytes(b""), "is broken: KeyError 'names'"),
        (damage, "has a damaged file"),
        (lambda path: path.rename(path.with_name("run-mine.wandb")), "is not of experiments.mirror"),
    ],
    ids=["rubbish", "empty", "a flipped bit", "another's"],
)
def test_a_file_that_is_not_whole_or_not_ours_is_named_and_the_others_are_read(
    harm: Any, said: str, records: Path
) -> None:
    folder = folders_in(records)[0]
    (file,) = piece(records, folder).glob("*.wandb")
    harm(file)
    sentence = the_broken(from_files(records))
    assert said in sentence and wandb_id(folder) in sentence


def test_a_folder_without_offline_files_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no offline W&B run under"):
        list(from_files(tmp_path))


# A server


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
    assert subprocess.run(line, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
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
        (lambda run: setattr(run, "id", "mine"), "is not of experiments.mirror"),
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
def test_a_server_that_cannot_be_read_is_one_sentence_soon(
    behaviour: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    if behaviour == "gone":
        server.stop()
    else:
        server.behaviour = Behaviour("hang") if behaviour == "silent" else refusing(401)
    began = time.monotonic()
    assert refused(tmp_path).startswith("W&B does not give ppo: ")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("operation", ["Runs", "HistoryPage", "download"])
def test_a_server_that_falls_silent_is_one_sentence_and_the_same_call_goes_on(
    operation: str, server: Server, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    server.behaviour = Behaviour("hang", operations=frozenset({operation}))
    began = time.monotonic()
    assert refused(tmp_path).startswith("W&B does not give ppo: ")
    assert time.monotonic() - began < 5
    server.behaviour = SERVE
    all_same(by_id(from_server("ppo", tmp_path / "cache")), finished)
