"""The worked examples of ppo/README.md, carried out in a copy: an objective is two files, all else three."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from experiments.identity import run_id
from ppo.config import Algo, Env, Profile, RunConfig

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
    """The packages with the asymmetric clip, hill climbing and the bound on advantages added as the README says."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("ppo", "experiments", "analysis", "conf", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "baselines", "reports", "pictures")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    objectives, config, surrogate = (folder / "ppo" / f"{name}.py" for name in ("objectives", "config", "surrogate"))
    learners = folder / "ppo" / "learners.py"
    (folder / "ppo" / "hill_climbing.py").write_text(block("Its learner, `ppo/hill_climbing.py`"))
    line = block("Its line in `LEARNERS`, in `ppo/learners.py`, which imports it")
    insert(learners, "    Uniform: (", indent(line, " " * 4))
    insert(learners, "from ppo.learner import", "from ppo.hill_climbing import HILL_CLIMBING, HillClimbing\n")
    (folder / "conf" / "algo" / "hill_climbing.yaml").write_text(block("Its file, `conf/algo/hill_climbing.yaml`"))
    insert(objectives, "SURROGATES = (\n", block("Its function, in `ppo/objectives.py`") + "\n\n")
    insert(objectives, '    Objective("projected"', indent(block("Its line in `SURROGATES`"), " " * 4))
    (folder / "conf" / "algo" / "clip_higher.yaml").write_text(block("Its file, `conf/algo/clip_higher.yaml`"))
    declaration = block("Its declaration, in `ppo/config.py`, among the fields of `Profile`")
    insert(config, "    standardise_epsilon: float = switch(", indent(declaration, " " * 4))
    reads = block("Where it is read, in `ppo/surrogate.py`, at the end of `Surrogate.estimate`")
    insert(surrogate, "        return advantage, value_target, values\n", indent(reads, " " * 8))
    copied = (folder / "conf" / "profile" / "ppo1_2017_08.yaml").read_text()
    line = block("A profile that sets it, `conf/profile/ppo1_bounded.yaml`, `ppo1_2017_08.yaml` with one line more")
    (folder / "conf" / "profile" / "ppo1_bounded.yaml").write_text(copied + line)
    return folder


def insert(path: Path, before: str, text: str) -> None:
    whole = path.read_text()
    assert whole.count(before) == 1
    path.write_text(whole.replace(before, text + before))


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


@pytest.mark.parametrize(
    ("algo", "label"), [("clip_higher", "clip_higher_0.28"), ("hill_climbing", "hill_climbing_0.1")]
)
def test_it_is_resumed_and_reported_with_no_further_edit(copy: Path, algo: str, label: str) -> None:
    more = (f"algo={algo}", f"records={algo}", "checkpoint_seconds=0")
    run(copy, *TRAIN, *more)
    first = {p.name: p.read_bytes() for p in (copy / algo).rglob("episodes.csv")}
    for done in (copy / algo).rglob("done.json"):
        done.unlink()
    run(copy, *TRAIN, *more)  # goes on from the last checkpoint
    assert {p.name: p.read_bytes() for p in (copy / algo).rglob("attempt-2/episodes.csv")} == first
    run(copy, "analysis.report", algo, "--out", f"page of {algo}")
    assert label in (copy / f"page of {algo}" / "report.md").read_text()


def test_a_learner_is_checked_and_watched(copy: Path) -> None:
    with pytest.raises(AssertionError, match=r"algo.sigma=0.0 must be above 0"):
        run(copy, *TRAIN, "algo=hill_climbing", "algo.sigma=0")
    run(copy, *TRAIN, "algo=hill_climbing", "records=watched", "num_seeds=1")
    assert "likeliest actions" in run(copy, "experiments.watch", "watched", "--episodes", "1")


CLIMB = """
from dataclasses import replace
import numpy as np
import torch
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.pack import Pack
from ppo.train import train
from experiments import trace
from experiments.identity import run_id
profile = Profile(horizon=128, minibatch_size=32)
climber = RunConfig(Algo("hill_climbing", sigma=0.3), profile, Env("CartPole-v1"), "gymnasium", env_steps=128 * 8)
others = [replace(climber, seed=seed, algo=Algo("hill_climbing", sigma=sigma)) for seed, sigma in ((1, 0.3), (0, 0.1))]
assert len({run_id(run) for run in (climber, *others)}) == 3
def climbed(*runs):
    pack, played = Pack(list(runs)), []
    row, parameters = pack.runs.index(climber), pack.learner.flat.clone()
    for iteration in train(pack):
        returns = [each.episode_return for each in iteration.episodes[row]]
        played.append((np.mean(returns), parameters[row]))
        parameters = pack.learner.flat.clone()
    return pack.learner, row, played
learner, row, played = climbed(climber)
score, best = max(reversed(played), key=lambda each: each[0])
assert learner.score[row] == score > played[0][0], "it climbed"
assert torch.equal(learner.best[row], best), "and remembers where it stood"
together, row, _ = climbed(*others, climber)
assert torch.equal(together.flat[row], learner.flat[0]), "alone and in a pack: the same run"
assert any("hill_climbing_0.1" in name for name in trace.everything())
"""


def test_a_learner_climbs_and_is_the_same_alone_and_in_a_pack(copy: Path) -> None:
    run(copy, "timeit", "-n1", "-r1", CLIMB)


def test_a_switch_is_trained_with_and_refused_out_of_its_range(copy: Path) -> None:
    run(copy, *TRAIN, "algo=clip", "profile=ppo1_bounded", "records=bounded", "num_seeds=1")
    (path,) = (copy / "bounded").rglob("config.json")
    assert json.loads(path.read_text())["config"]["profile"]["advantage_clip"] == 2.0
    with pytest.raises(AssertionError, match=r"profile.advantage_clip=-1.0 must be above 0"):
        run(copy, *TRAIN, "algo=clip", "profile.advantage_clip=-1")  # of a profile whose file does not list it


SWITCH = """
from dataclasses import replace
import numpy as np
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.pack import Pack
from ppo.surrogate import Surrogate
from ppo.train import train
from experiments import trace
from experiments.identity import run_id
profile = Profile(horizon=128, minibatch_size=32, epochs=2, stepsize=1e-2)
free = RunConfig(Algo("clip", epsilon=0.2), profile, Env("CartPole-v1"), "gymnasium", env_steps=256)
assert run_id(free) == "OLD", "at its default it moves no id"
tight, loose = (replace(free, profile=replace(profile, advantage_clip=bound)) for bound in (0.5, 1e6))
assert len({run_id(run) for run in (free, tight, loose)}) == 3
original, seen = Surrogate.estimate, []
def heard(*arguments):
    seen.append(original(*arguments))
    return seen[-1]
Surrogate.estimate = heard
def trained(run):
    seen.clear()
    pack = Pack([run])
    for _ in train(pack): pass
    return seen[0][0], pack.learner.flat.numpy()
(advantage, parameters), (bounded, moved), (unbounded, same) = map(trained, (free, tight, loose))
deviation = np.sqrt(((advantage - advantage.mean()) ** 2).mean())
assert not 0.8 < deviation < 1.2
np.testing.assert_allclose(bounded, advantage.clip(-0.5 * deviation, 0.5 * deviation), rtol=1e-12)
assert not np.array_equal(moved, parameters)
np.testing.assert_array_equal(same, parameters)
runs = trace.everything()
assert {run.profile.advantage_clip for run in runs.values()} == {None, 2.0}
without = {name: run for name, run in runs.items() if not name.startswith("ppo1_bounded")}
assert any("advantage_clip=0.5" in name for name in trace.lacking(without)), "traced where no profile sets it"
"""


def test_a_switch_bounds_what_it_says_moves_no_old_id_and_is_traced(copy: Path) -> None:
    profile = Profile(horizon=128, minibatch_size=32, epochs=2, stepsize=1e-2)
    free = RunConfig(Algo("clip", epsilon=0.2), profile, Env("CartPole-v1"), "gymnasium", env_steps=256)
    run(copy, "timeit", "-n1", "-r1", SWITCH.replace("OLD", run_id(free)))


def test_the_tests_of_switches_cover_it(copy: Path) -> None:
    files = ("tests/ppo/test_config.py", "tests/ppo/test_switches.py")
    names = "every_setting or (advantage_clip and (nan or pack or ppo1_bounded))"
    said = run(copy, "pytest", "-n0", "-p", "no:cacheprovider", *files, "-k", names)
    assert "6 passed" in said
