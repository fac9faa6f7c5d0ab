"""What comes back from offline W&B files is what the records say, and what does not come back whole is named."""

import hashlib
import json
import math
import shutil
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from collected import sign
from mirrored import (
    copied,
    folders_of,
    mirrored,
    run_of,
    train,
    train_some,
    wandb_id,
)
from returned import all_same, altered, by_id, folders_in, piece, same_as_record, the_broken
from wandb_server import Server

from analysis.records import RecordError
from analysis.sources.records import read_run
from analysis.sources.wandb import WHOLE_NUMBERS, from_files, lacks_episodes
from experiments.records.schema import whole_numbers
from experiments.tracking.reading import Source
from ppo.config import RunConfig

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def records(finished: Path, tmp_path: Path) -> Path:
    return copied(finished, tmp_path / "records")[0]


# What the mirror writes


def numbers(cls: Any) -> Iterator[tuple[str, type]]:
    """Name and type of every setting that is a number, or a list of them."""
    for name, hint in typing.get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from numbers(hint)
        else:
            yield from ((name, kind) for kind in (hint, *typing.get_args(hint)) if kind in (int, float))


def test_whole_numbers_are_the_settings_that_are_declared_so(finished: Path) -> None:
    kinds = list(numbers(RunConfig))
    whole, others = ({name for name, kind in kinds if kind is wanted} for wanted in (int, float))
    assert set(WHOLE_NUMBERS) <= whole and not others & set(WHOLE_NUMBERS)
    for folder in folders_in(finished):
        found = set(whole_numbers(json.loads((folder / "config.json").read_text())["config"]))
        assert {"seed", "env_steps", "horizon", "minibatch_size"} <= found <= whole


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
    sign(folder)
    same_as_record(run, folder)


def test_a_variant_with_a_name_keeps_it(records: Path, stub: Server) -> None:
    shutil.rmtree(records / "wandb")
    folder = folders_in(records)[0]
    head = json.loads((folder / "config.json").read_text())
    head["names"]["variant"] = "no_clipping"
    (folder / "config.json").write_text(json.dumps(head))
    sign(folder)
    assert mirrored(records, [folder], "offline")[0]
    (run,) = by_id(from_files(records)).values()
    assert run.row["variant"] == "no_clipping"
    same_as_record(run, folder)


def rewritten(folder: Path, name: str, **changes: Any) -> None:
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))
    sign(folder)


def mirrored_again(records: Path, name: str) -> Path:
    """A run that nothing has been mirrored of."""
    shutil.rmtree(records / "wandb")
    return next(folder for folder in folders_in(records) if name in folder.name)


def test_a_label_and_a_whole_number_that_are_new_come_back(records: Path, stub: Server) -> None:
    folder = mirrored_again(records, "kl_adaptive")
    config = json.loads((folder / "config.json").read_text())["config"]
    config["algo"] |= {"rounds": 3, "tilt": 2.0}
    rewritten(folder, "config.json", config=config, label="tilted_2")
    assert mirrored(records, [folder], "offline")[0]
    (run,) = by_id(from_files(records)).values()
    assert run.row["variant"] == "tilted_2" and '"rounds": 3, "tilt": 2.0' in run.row["config"]
    same_as_record(run, folder)


def test_a_run_that_older_code_mirrored_comes_back(
    records: Path, stub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mirrored_again(records, "kl_adaptive")
    now, lately = Source.config, ("format", "label", "whole_numbers")
    monkeypatch.setattr(
        Source, "config", lambda source: {n: value for n, value in now(source).items() if n not in lately}
    )
    assert mirrored(records, [folder], "offline")[0]
    (run,) = by_id(from_files(records)).values()
    same_as_record(run, folder)


def test_a_faulty_run_has_no_score(records: Path, stub: Server) -> None:
    folder = mirrored_again(records, "kl_adaptive")
    rewritten(folder, "done.json", status="faulty", score=None, not_finite={"quantity": "rewards", "env_step": 9})
    assert mirrored(records, [folder], "offline")[0]
    for lacking in (False, True):
        (run,) = by_id(from_files(records)).values()
        assert math.isnan(run.row["score"]) and math.isnan(read_run(folder, {}).row["score"])
        assert lacks_episodes(run) == lacking
        (piece(records, folder) / "files" / "episodes.csv").unlink(missing_ok=True)


def test_another_score_than_the_episodes_give_is_named(records: Path, stub: Server) -> None:
    folder = mirrored_again(records, "kl_adaptive")
    rewritten(folder, "done.json", score=500.5)
    assert mirrored(records, [folder], "offline")[0]
    sentence = the_broken(from_files(records), sound=0)
    assert "its summary has score 500.5, and the episodes give" in sentence and wandb_id(folder) in sentence


def test_a_run_of_a_newer_format_is_named(records: Path, stub: Server) -> None:
    folder = mirrored_again(records, "kl_adaptive")
    rewritten(folder, "config.json", format=2)
    assert mirrored(records, [folder], "offline")[0]
    assert "is of newer code: it has format 2" in the_broken(from_files(records), sound=0)


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
        (lambda path: path.rename(path.with_name("run-mine.wandb")), "is not of experiments.tracking.mirror"),
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
