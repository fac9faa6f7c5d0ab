"""A record is what its id says, all of it; and a checkpoint is more than a digest that fits."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.agent import Agent
from experiments.files import as_json
from experiments.records import checkpoint
from experiments.records.claims import live_owners, owner
from experiments.records.record import Record, read_done, seal
from experiments.rerun import rerun
from ppo.refusals import UserError
from tests.conftest import Killed, named, promised, small_run, train
from tests.experiments.test_resume import train_until_checkpoint

SMALL = {"horizon": 64, "minibatch_size": 32}
RUN, OTHER = (small_run(seed, 4, "CartPole-v1", profile=SMALL) for seed in range(2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = tmp_path_factory.mktemp("finished")
    train([RUN, OTHER], records, 1e9)
    return records


@pytest.fixture
def records(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "records")


def changed(path: Path, **values: Any) -> None:
    path.write_bytes(as_json(json.loads(path.read_text()) | values))


def exchanged(folder: Path, other: Path, name: str) -> None:
    (folder / name).rename(folder / "away")
    (other / name).rename(folder / name)
    (folder / "away").rename(other / name)


def resealed(folder: Path, **values: Any) -> None:
    """As somebody does who knows the digest."""
    done = json.loads((folder / "done.json").read_text()) | values
    (folder / "done.json").write_bytes(as_json(done | {"sha256": seal(done)}))


def settings_changed(folder: Path, other: Path) -> None:
    head = json.loads((folder / "config.json").read_text())
    head["config"]["algo"]["epsilon"] = 0.3
    (folder / "config.json").write_bytes(as_json(head))


ALTERED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "env steps": (lambda run, _: changed(run / "done.json", env_steps=999), "own digest"),
    "score": (lambda run, _: changed(run / "done.json", score=500.0), "own digest"),
    "settings": (settings_changed, "config.json is not the one it was finished with"),
    "done.json of another": (lambda run, other: exchanged(run, other, "done.json"), "config.json is not the one"),
    "sealed env steps": (lambda run, _: resealed(run, env_steps=999), "its env_steps are 999, .* last iteration 256"),
    "sealed attempt": (lambda run, _: resealed(run, attempt="1/../.."), "whole numbers"),
    "a list": (lambda run, _: (run / "done.json").write_text("[1]"), "no table of names"),
    "nothing": (lambda run, _: (run / "done.json").write_text("{}"), "status, run_id, .* is not in it"),
}


def old(folder: Path) -> None:
    """Without what done.json has lately."""
    done = json.loads((folder / "done.json").read_text())
    for name in ("sha256", "config_sha256"):
        done.pop(name)
    (folder / "done.json").write_bytes(as_json(done))


OLD: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "done.json of another": (lambda run, other: exchanged(run, other, "done.json"), "its run_id is .*, that of config"),
    "both of another": (
        lambda run, other: [exchanged(run, other, name) for name in ("done.json", "config.json")],
        "and its folder is called",
    ),
    "seed": (lambda run, _: changed(run / "done.json", seed=5), "its seed is 5, that of config.json 0"),
    "env steps": (lambda run, _: changed(run / "done.json", env_steps=999), "its env_steps are 999"),
    "code": (lambda run, _: changed(run / "done.json", code_id="0" * 12), "its code_id is 0+, that of config.json"),
}


def folders(records: Path) -> list[Path]:
    return [Record(records, run).folder for run in named([RUN, OTHER])]


def test_a_record_is_sealed_as_agreed(records: Path) -> None:
    folder, _ = folders(records)
    done = json.loads((folder / "done.json").read_text())
    *_, last = done
    assert last == "sha256"
    own = done.pop("sha256")
    assert own == hashlib.sha256(json.dumps(done, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert done["config_sha256"] == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("reader", [read_done, Agent, rerun])
@pytest.mark.parametrize("name", ALTERED)
def test_a_record_that_was_altered_is_refused(name: str, reader: Callable[[Path], object], records: Path) -> None:
    change, words = ALTERED[name]
    change(*folders(records))
    with pytest.raises(UserError, match=rf"done\.json is not as its run left it: .*{words}"):
        reader(folders(records)[0])


@pytest.mark.parametrize("name", OLD)
def test_an_old_record_is_checked_by_what_it_has(name: str, records: Path) -> None:
    for folder in folders(records):
        old(folder)
        assert read_done(folder)
    change, words = OLD[name]
    change(*folders(records))
    with pytest.raises(UserError, match=words):
        read_done(folders(records)[0])


def test_settings_that_were_altered_are_neither_trained_nor_made_again(records: Path) -> None:
    folder, other = folders(records)
    settings_changed(folder, other)
    old(folder)
    with pytest.raises(UserError, match=r"config\.json was altered"):
        rerun(folder)
    (folder / "done.json").unlink()
    with pytest.raises(UserError, match=r"config\.json was altered"):
        train([RUN], records)


# Checkpoints


class Call:
    def __reduce__(self) -> tuple:
        return print, ("a checkpoint was executed",)


def payload(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {key: value for key, value in content.items() if key != name}


def with_state(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content | {"state": content["state"] | changes}


CONTENTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a call": lambda content: content | {"state": Call()},
    "a list": lambda content: [1, 2],
    "nothing": lambda content: None,
    "no state": without("state"),
    "no lengths": without("lengths"),
    "lengths of one file": lambda content: content | {"lengths": {"episodes.csv": 3}},
    "state without parameters": lambda content: content | {"state": without("parameters")(content["state"])},
    "state without environments": with_state(environments=[]),
    "fewer parameters": with_state(parameters=torch.zeros(7)),
    "parameters of whole numbers": with_state(parameters=torch.zeros(7, dtype=torch.int64)),
    "a filter as text": with_state(filter="none"),
    "alive as text": with_state(alive="yes"),
    "another iteration": with_state(iteration=7),
    "actions of another shape": lambda content: with_state(
        environments=[content["state"]["environments"][0] | {"actions": torch.zeros(3, 2, dtype=torch.int64)}]
    )(content),
    "a reason as text": with_state(not_finite="rewards"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_checkpoint_that_holds_something_else_is_refused_and_an_older_one_used(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train_until_checkpoint([RUN], tmp_path, 3)
    attempt = Record(tmp_path, *named([RUN])).attempt_folder(1)
    newest = checkpoint.path_of(attempt, 3)
    whole = checkpoint._tensors(checkpoint.load(newest, {}))
    payload(newest, CONTENTS[name](whole))
    said: list[str] = []
    train([RUN], tmp_path, said=said)
    (line,) = said
    assert "; an older one is used, or the beginning" in line and "executed" not in capsys.readouterr().out
    second = attempt.with_name("attempt-2")
    timing = [(folder / "timing.csv").read_text().splitlines() for folder in (attempt, second)]
    assert timing[1][:3] == timing[0][:3] and timing[1][3] != timing[0][3]  # from the second iteration on
    assert promised([RUN], tmp_path) == promised([RUN], finished)


def test_the_layout_of_a_state_is_compared_to_its_last_leaf() -> None:
    pattern = {"a": [{"b": np.zeros((2, 3))}], "open": np.zeros((0, 2)), "n": 1}
    fine = {"a": [{"b": np.ones((2, 3), np.float32)}], "open": np.ones((5, 2)), "n": 4, "more": 1}
    assert checkpoint.misfit(fine, pattern) == ""
    assert "its state.a.0.b has the shape (3, 2)" in checkpoint.misfit(fine | {"a": [{"b": np.ones((3, 2))}]}, pattern)
    assert "its state.open" in checkpoint.misfit(fine | {"open": np.ones((5, 3))}, pattern)
    assert "its state.n is 1.0" in checkpoint.misfit(fine | {"n": 1.0}, pattern)
    assert "lacks open" in checkpoint.misfit({"a": fine["a"], "n": 1}, pattern)


@pytest.mark.parametrize("left", ["{}", "[]", '"me"', '{"pid": 1, "host": "here"}', "pid as text"])
def test_an_owner_without_its_keys_is_nobody(left: str, tmp_path: Path) -> None:
    text = json.dumps(owner() | {"pid": "1"}) if left == "pid as text" else left
    (tmp_path / "owner.json").write_text(text)
    assert live_owners([tmp_path]) == [None]


def test_a_run_of_a_later_format_is_not_watched(records: Path) -> None:
    (folder, *_) = [path.parent for path in records.rglob("done.json")]
    (folder / "done.json").unlink()
    changed(folder / "config.json", format=99)
    with pytest.raises(UserError, match="it has format 99, and this code reads formats up to 1"):
        Agent(folder)
