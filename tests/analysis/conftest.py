"""Runs that were trained once for many tests, and servers that hold them."""

import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collected import ITERATIONS, OVERRIDES, VARIANTS, contents
from hydra import initialize_config_dir

sys.path.append(str(Path(__file__).parent.parent / "experiments"))  # the mirror's tests, which have a server

from mirrored import mirrored, run_of, served
from returned import folders_in
from wandb_server import Run, Server

from analysis import collect
from experiments.compose import CONF
from experiments.files import as_json
from experiments.grammar import Study
from experiments.identity import code_id
from experiments.manifest import expand, freeze
from ppo.config import Algo
from tests.conftest import small_run, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of three runs and their offline W&B files: clip on CartPole, one that diverged, and an adaptive β."""
    records = tmp_path_factory.mktemp("finished")
    wild = run_of(1, env="CartPole-v1")
    train([run_of(0, env="CartPole-v1"), replace(wild, profile=replace(wild.profile, stepsize=1e37))], records)
    train([run_of(2, env="CartPole-v1", algo=Algo("kl_adaptive", beta=1.0, kl_target=0.01))], records)
    with pytest.MonkeyPatch.context() as patch, served(patch, records.parent / "home"):
        assert mirrored(records, folders_in(records), "offline")[0]
    return records


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a study named `tiny`, two variants with two seeds, and of one run more."""
    records = tmp_path_factory.mktemp("trained")
    study = Study(("cartpole",), VARIANTS, seeds=(0, 1), env_steps=256 * ITERATIONS, profile="ppo1_2017_08")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        entries = freeze(records / "studies" / "tiny", expand(study, OVERRIDES), extend=False)
    said = {"tables": ["scores"], "figures": [], "code_id": code_id(), "overrides": OVERRIDES}
    (records / "studies" / "tiny" / "study.json").write_bytes(as_json(said))
    other = small_run(2, ITERATIONS, env="CartPole-v1", algo=Algo("clip", epsilon=0.3))
    train([*(entry.run.config for entry in entries), other], records)
    return records


@pytest.fixture
def records(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(trained, tmp_path / "records", ignore=shutil.ignore_patterns("code"))
    return tmp_path / "records"


@pytest.fixture
def out(trained: Path, tmp_path: Path) -> Path:
    """A dataset that was there before."""
    collect.collect([str(trained)], trained, tmp_path / "out", [])
    return tmp_path / "out"


@pytest.fixture
def refused(out: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Collects, and gives the one sentence of a refusal, which has written nothing."""

    def sentence(*arguments: Any) -> str:
        before, beside = contents(out), sorted(out.parent.iterdir())
        assert collect.main([*map(str, arguments), "--out", str(out)]) == 2
        assert collect.main([*map(str, arguments), "--out", str(out.parent / "fresh")]) == 2
        assert contents(out) == before
        assert sorted(out.parent.iterdir()) == beside
        said = capsys.readouterr()
        first, again = said.err.splitlines()
        assert first == again and first.startswith("error: ")
        assert not said.out
        return first

    return sentence
