"""Records reach a server in the end: by `experiments.sync`, whatever the server does and other mirrors do."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrored import (
    KEY,
    LONG,
    SHORT,
    assert_complete,
    assert_key_is_in_no_file,
    copied,
    folders_of,
    give,
    hurried,
    hurry_processes,
    mirrored,
    on_server,
    run_of,
    served,
    train,
    train_beside,
    train_some,
)
from wandb_server import HANG, ROWS, SERVE, Behaviour, Server, refusing

from experiments import sync as sync_module
from experiments.records import claims
from experiments.records.claims import Claim, Taken, claim_all
from experiments.sync import folders_of as meant
from experiments.tracking.mirror import Mirror
from experiments.tracking.reading import Source
from experiments.tracking.wandb import target_of
from ppo.refusals import UserError
from tests.conftest import ROOT, promised

HANG_ON_ROWS = Behaviour("hang", operations=frozenset({ROWS}))
QUESTIONS = ("Run", "RunHistoryKeys")  # what the public API asks once a run is finished
ENOUGH = [int] * 100  # looks at nothing new; a mirror that has all it wants needs few of them


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with served(monkeypatch, tmp_path / "home") as server:
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of three runs, two of them in a study."""
    records = tmp_path_factory.mktemp("finished")
    runs = [run_of(seed) for seed in range(3)]
    train(runs, records)
    manifest = records / "studies" / "first_two" / "manifest.jsonl"
    manifest.parent.mkdir(parents=True)
    names = [folder.name.rpartition("-")[2] for folder in folders_of(runs[:2], records)]
    manifest.write_text("".join(json.dumps({"run_id": name}) + "\n" for name in names))
    return records


def tags_of(folder: Path) -> list[str]:
    return ["first_two"] if folder.name.rpartition("-")[0].endswith(("s0", "s1")) else []


def held_once(server: Server, folders: list[Path]) -> None:
    for folder in folders:
        assert_complete(on_server(server, folder), folder, tags=tags_of(folder))


# The command

Done = subprocess.CompletedProcess[str]


def sync(*arguments: str) -> Done:
    line = [sys.executable, "-m", "experiments.sync", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_sync_sends_everything_once_and_says_so(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    first = sync(str(records))
    assert (first.returncode, first.stdout) == (0, "3 of 3: 3 complete\n"), first.stderr
    held_once(server, folders)
    asked = server.requests.copy()
    second = sync("first_two", f"--records={records}")
    assert (second.returncode, second.stdout, second.stderr) == (0, "2 of 2: 2 complete before\n", "")
    assert server.requests == asked
    assert KEY not in first.stdout + first.stderr
    assert_key_is_in_no_file(tmp_path)


def test_a_misspelt_study_is_one_sentence_and_exit_code_2(finished: Path, server: Server) -> None:
    done = sync("first_tow", f"--records={finished}")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: first_tow is neither a folder nor a study")
    assert line.endswith("did you mean first_two?")
    assert not server.requests


def test_what_to_send_is_a_folder_in_or_above_records_or_a_study(finished: Path, tmp_path: Path) -> None:
    folders = sorted(path.parent for path in finished.rglob("config.json"))
    assert len(folders) == 3
    assert meant(str(finished), Path("elsewhere")) == (finished, folders)
    assert meant(str(finished / "runs"), Path("elsewhere")) == (finished, folders)
    assert meant(str(folders[1]), Path("elsewhere")) == (finished, folders[1:2])
    assert meant("first_two", finished) == (finished, folders[:2])
    with pytest.raises(UserError, match="no run under"):
        meant(str(tmp_path), finished)


def test_a_run_is_meant_also_from_inside_it(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = min(path.parent for path in finished.rglob("config.json"))
    monkeypatch.chdir(folder)
    assert meant(".", Path("records")) == (finished, [folder])


def test_records_said_are_sent_and_not_those_of_the_folder_one_is_in(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(finished, tmp_path / "records")
    said: list[Path] = []

    def mirrors(folders: list[Path], *_: object) -> None:
        said.extend(folders)
        raise SystemExit

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sync_module, "Mirrors", mirrors)
    monkeypatch.setattr(sync_module, "drop_settings_of_others", lambda: None)
    for arguments, records in (([f"--records={finished}"], finished), ([], tmp_path / "records")):
        monkeypatch.setattr(sys, "argv", ["sync", *arguments])
        with pytest.raises(SystemExit):
            sync_module.main()
        assert said == sorted(path.parent for path in records.rglob("config.json"))
        said.clear()


def test_a_server_that_hangs_ends_sync_with_exit_code_1_and_the_next_one_sends_all(
    finished: Path, server: Server, tmp_path: Path
) -> None:
    records, folders = copied(finished, tmp_path / "records")
    server.behaviour = HANG
    line = [*hurried("sync", SHORT), str(records)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "cannot start" in done.stderr and "give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    server.behaviour = SERVE
    assert mirrored(records, folders, "online") == (True, {"complete": 3})
    held_once(server, folders)


def test_two_syncs_at_once_send_every_row_once(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    line = [sys.executable, "-m", "experiments.sync", str(records)]
    both = [subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert "complete" in "".join(said)
    held_once(server, folders)
    assert server.rows_received == sum(len(server.runs[run].rows) for run in server.runs)


# Servers that hang, refuse or die


@pytest.mark.parametrize("behaviour", [HANG, refusing(500), refusing(403)], ids=["hangs", "500", "403"])
def test_a_server_that_answers_late_gets_everything(
    behaviour: Behaviour, server: Server, tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be started at first; the same mirror tries again."""
    runs = [run_of(0), run_of(1)]
    server.behaviour = behaviour
    give(monkeypatch, SHORT)
    said: list[str] = []

    def answers() -> None:
        give(monkeypatch, LONG)
        server.behaviour = SERVE

    events = (lambda: train_some(runs, tmp_path, 2), answers, lambda: train(runs, tmp_path), *ENOUGH)
    assert mirrored(tmp_path, folders_of(runs, tmp_path), "online", *events, said=said)[0], said
    assert "cannot start" in said[0]
    held_whole(server, folders_of(runs, tmp_path))
    assert promised(runs, tmp_path) == undisturbed(runs)


def held_whole(server: Server, folders: list[Path]) -> None:
    """Of runs trained in several attempts."""
    for folder in folders:
        assert_complete(on_server(server, folder), folder, whole=False)


@pytest.mark.parametrize(
    "behaviour", [refusing(500, ROWS), refusing(403, ROWS), HANG_ON_ROWS], ids=["500", "403", "hang"]
)
def test_rows_that_were_refused_are_sent_again(
    behaviour: Behaviour, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client ends without a word when its rows are refused for good, so the server is asked what it holds."""
    runs = [run_of(0), run_of(1)]
    give(monkeypatch, SHORT)

    def refuses() -> None:
        server.behaviour = behaviour
        train(runs, tmp_path)

    def takes() -> None:
        give(monkeypatch, LONG)
        server.behaviour = SERVE

    said: list[str] = []
    events = (lambda: train_some(runs, tmp_path, 2), refuses, takes, *ENOUGH)
    outcome = mirrored(tmp_path, folders_of(runs, tmp_path), "online", *events, said=said)
    assert outcome == (True, {"complete": 2}), said
    held_whole(server, folders_of(runs, tmp_path))


@pytest.mark.parametrize("code", [500, 403])
def test_a_file_that_was_refused_is_sent_again(
    code: int, finished: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, folders = copied(finished, tmp_path / "records")
    server.behaviour = refusing(code, "upload")
    give(monkeypatch, SHORT)
    assert not mirrored(records, folders, "online")[0]
    server.behaviour = SERVE
    give(monkeypatch, LONG)
    assert mirrored(records, folders, "online") == (True, {"complete": 3})
    held_once(server, folders)


@pytest.mark.parametrize(
    "behaviour", [refusing(500, *QUESTIONS), Behaviour("hang", operations=frozenset(QUESTIONS))], ids=lambda b: b.kind
)
def test_what_the_server_does_not_confirm_is_not_complete(
    behaviour: Behaviour, finished: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, folders = copied(finished, tmp_path / "records")
    server.behaviour = behaviour
    give(monkeypatch, SHORT)
    assert mirrored(records, folders, "online") == (False, {"FAILED": 3})
    rows = server.rows_received
    server.behaviour = SERVE
    give(monkeypatch, LONG)
    assert mirrored(records, folders, "online") == (True, {"complete": 3})
    assert server.rows_received == rows
    held_once(server, folders)


def test_a_server_that_dies_and_comes_back_gets_every_row_once(
    server: Server, tmp_path: Path, undisturbed: Any
) -> None:
    runs = [run_of(0), run_of(1)]
    events = (
        lambda: train_some(runs, tmp_path, 2),
        server.stop,
        lambda: train_some(runs, tmp_path, 2),
        server.start,
        lambda: train(runs, tmp_path),
    )
    said: list[str] = []
    assert mirrored(tmp_path, folders_of(runs, tmp_path), "online", *events, *ENOUGH, said=said)[0], said
    held_whole(server, folders_of(runs, tmp_path))
    assert promised(runs, tmp_path) == undisturbed(runs)


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_server_that_comes_back_after_the_end_gets_the_rest_by_sync(
    moment: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_of(0), run_of(1)]
    give(monkeypatch, SHORT)
    folders = folders_of(runs, tmp_path)
    gone: Callable[[], Any] = server.stop
    events = [lambda: train_some(runs, tmp_path, 2), gone, lambda: train(runs, tmp_path)]
    if moment == "before":
        events = [gone, events[0], events[2]]
    assert mirrored(tmp_path, folders, "online", *events) == (False, {"FAILED": 2})
    server.start()
    done = sync(str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "2 of 2: 2 complete\n"), done.stderr
    held_whole(server, folders)


# Other mirrors, other runs


def claimed(records: Path, folder: Path) -> Claim:
    """As a mirror that lives, though it is this process."""
    (claim,) = claim_all([Mirror(Source(folder), target_of(records, "online", "ppo", None)).claim_path])
    assert not isinstance(claim, Taken)
    return claim


def test_sync_leaves_a_run_to_the_mirror_that_lives(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    claim = claimed(records, folders[1])
    said: list[str] = []
    assert mirrored(records, folders, "online", said=said) == (True, {"complete": 2, "left to another mirror": 1})
    assert len(said) == 1 and "in the hands of process" in said[0]
    assert len(server.runs) == 2
    claim.release()
    assert mirrored(records, folders, "online") == (True, {"complete before": 2, "complete": 1})
    held_once(server, folders)
    assert list((records / "wandb" / "claims").iterdir()) == []


def test_the_mirror_of_a_resumed_trainer_waits_for_the_one_that_is_still_ending(server: Server, tmp_path: Path) -> None:
    """The first trainer was killed; its mirror lives until the server has answered, and will not see the rest."""
    runs = [run_of(0)]
    train_some(runs, tmp_path, 2)
    (folder,) = folders_of(runs, tmp_path)
    claim = claimed(tmp_path, folder)
    outcome = mirrored(tmp_path, [folder], "online", int, claim.release, lambda: train(runs, tmp_path), int)
    assert outcome == (True, {"complete": 1})
    held_whole(server, [folder])


def test_a_trainer_says_that_its_rows_are_with_another_mirror_still(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may have looked for the last time before the end; nobody else would say that rows are missing."""
    runs = [run_of(0)]
    train_some(runs, tmp_path, 2)
    folders = folders_of(runs, tmp_path)
    claim = claimed(tmp_path, *folders)
    hurry_processes(monkeypatch, SHORT)
    assert "python -m experiments.sync" in train_beside("online", runs, tmp_path)
    claim.release()
    assert mirrored(tmp_path, folders, "online") == (True, {"complete": 1})
    held_whole(server, folders)


def test_a_claim_that_was_released_gets_no_more_signs_of_life(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next owner may be on another machine, and dead: it would look alive as long as this pack goes on."""
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.1)
    first, second = [run_of(0)], [run_of(1)]
    train(first, tmp_path)
    train_some(second, tmp_path, 2)
    folders = folders_of([*first, *second], tmp_path)
    silent = []

    def claimed_elsewhere() -> None:
        claim = claimed(tmp_path, folders[0]).folder
        time.sleep(0.5)
        silent.append(not (claim / "heartbeat").exists())

    events = (int, claimed_elsewhere, lambda: train(second, tmp_path))
    assert mirrored(tmp_path, folders, "online", *events) == (True, {"complete": 2})
    assert silent == [True]


def test_a_record_that_cannot_be_read_leaves_the_others_alone(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    (folders[0] / "config.json").write_text("{")
    said: list[str] = []
    assert mirrored(records, folders, "online", said=said) == (False, {"complete": 2, "FAILED": 1})
    assert len(said) == 1 and said[0].startswith(folders[0].name)
    held_once(server, folders[1:])
