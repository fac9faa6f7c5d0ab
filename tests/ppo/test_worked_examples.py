"""The worked example of ppo/README.md, carried out in a copy: a new objective is one function and one YAML."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "ppo" / "README.md").read_text()


def block(name: str) -> str:
    """The code block of the README that stands under the line `name`."""
    _, _, rest = README.partition(f"{name}:\n\n")
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line[4:])
    assert lines, f"ppo/README.md has no block {name}"
    return "\n".join(lines).strip() + "\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the asymmetric clip added as the README says."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("ppo", "experiments", "analysis", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "baselines", "reports", "pictures")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    path = folder / "ppo" / "objectives.py"
    text = path.read_text()
    before, table, after = text.partition("SURROGATES = (\n")
    line = '    Objective("projected"'
    assert table and after.count(line) == 1
    after = after.replace(line, f"    {block('Its line in `SURROGATES`').strip()}\n{line}")
    path.write_text(before + block("Its function, in `ppo/objectives.py`") + "\n\n" + table + after)
    (folder / "conf" / "algo" / "clip_higher.yaml").write_text(block("Its file, `conf/algo/clip_higher.yaml`"))
    return folder


def run(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


TRAIN = ("experiments.train", "env=cartpole", "num_seeds=2", "env_steps=2048", "profile.horizon=512", "tracking=none")


def test_it_trains_under_its_own_name_and_is_checked_and_hashed(copy: Path) -> None:
    run(copy, *TRAIN, "algo=clip_higher")
    run(copy, *TRAIN, "algo=clip_higher", "algo.epsilon_high=0.5")
    run(copy, *TRAIN, "algo=clip")
    configs = [json.loads(path.read_text()) for path in (copy / "records").rglob("config.json")]
    assert len({config["run_id"] for config in configs}) == 6
    names = {path.parent.name.rpartition(".s")[0] for path in (copy / "records").rglob("config.json")}
    assert names == {"CartPole-v1-clip_higher_0.28", "CartPole-v1-clip_higher_0.5", "CartPole-v1-clip_0.2"}
    with pytest.raises(AssertionError, match=r"algo.epsilon_high=-1.0 must be above 0"):
        run(copy, *TRAIN, "algo=clip_higher", "algo.epsilon_high=-1")
    with pytest.raises(AssertionError, match="no such setting"):
        run(copy, *TRAIN, "algo=clip", "algo.epsilon_high=0.5")


CHECKS = """
from dataclasses import replace
import torch
from ppo.config import Algo, Env, Profile, RunConfig, pack_key
from ppo.pack import Pack
from ppo.train import train
from experiments import trace
profile = Profile(horizon=128, minibatch_size=32, epochs=2, stepsize=1e-2)
clip = RunConfig(Algo("clip", epsilon=0.2), profile, Env("CartPole-v1"), "gymnasium", env_steps=512)
low = replace(clip, algo=Algo("clip_higher", epsilon_low=0.2, epsilon_high=0.2))
high = replace(clip, algo=Algo("clip_higher", epsilon_low=0.2, epsilon_high=0.28))
assert pack_key(clip) == pack_key(high)
def trained(*runs):
    pack = Pack(list(runs))
    for _ in train(pack): pass
    return {run: pack.learner.flat[row].clone() for row, run in enumerate(pack.runs)}
together = trained(high, clip, low)
assert torch.equal(together[low], together[clip]), "with both ε equal it is the paper's clip"
assert not torch.equal(together[high], together[clip])
assert torch.equal(trained(high)[high], together[high]), "alone and in a pack: the same run"
assert any("clip_higher_0.28" in name for name in trace.grid(trace.profiles()))
"""


def test_it_shares_a_pack_with_the_clip_and_equals_it_where_both_bounds_are_equal(copy: Path) -> None:
    run(copy, "timeit", "-n1", "-r1", CHECKS)


def test_it_is_resumed_and_reported_with_no_further_edit(copy: Path) -> None:
    more = ("algo=clip_higher", "records=more", "checkpoint_seconds=0")
    run(copy, *TRAIN, *more)
    first = {p.name: p.read_bytes() for p in (copy / "more").rglob("episodes.csv")}
    for done in (copy / "more").rglob("done.json"):
        done.unlink()
    run(copy, *TRAIN, *more)  # goes on from the last checkpoint
    assert {p.name: p.read_bytes() for p in (copy / "more").rglob("attempt-2/episodes.csv")} == first
    run(copy, "analysis.report", "more", "--out", "page")
    assert "clip_higher_0.28" in (copy / "page" / "report.md").read_text()
