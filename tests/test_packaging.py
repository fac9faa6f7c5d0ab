"""The package as others install it: its commands, its wheel, what it declares, and the files around it."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import overview
from experiments.doctor import checks
from experiments.identity import installed

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, str] = PROJECT["scripts"]
COMMANDS = {name: each for family in overview.FAMILIES.values() for name, each in family.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_console_command_answers_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    start = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        code = start()
    except SystemExit as left:
        code = left.code
    assert code in (0, None)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) >= 4 and "Hydra" not in printed.out


def test_the_overview_names_every_console_command_and_what_it_runs() -> None:
    modules = {name: entry.partition(":")[0].removesuffix(".__main__") for name, entry in SCRIPTS.items()}
    assert modules == {"ppo": overview.__name__, **{name: each.module for name, each in COMMANDS.items()}}
    text = overview.overview()
    for name, each in COMMANDS.items():
        assert [line.split(maxsplit=2) for line in text.splitlines() if line.startswith(f"  {name} ")] == [
            [name, each.module, each.purpose]
        ]
    assert list(overview.FAMILIES) == [line for line in text.splitlines()[1:-1] if line and not line.startswith(" ")]
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "env=hopper"], "error: ppo train is one word: ppo-train env=hopper\n"),
        (["trian"], "error: ppo trian: there is no such command; ppo alone prints them all\n"),
    ],
)
def test_a_word_after_ppo_is_refused_with_what_to_type(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overview.main(words) == 2
    assert capsys.readouterr().err == said


Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("env_steps=128", "profile.horizon=64", "profile.minibatch_size=32", "profile.epochs=2")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, offline: setuptools leaves its own folders where it builds."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("ppo", "experiments", "conf", "analysis"):
        large = shutil.ignore_patterns("__pycache__", "reports", "pictures", *EXCLUDED)
        shutil.copytree(ROOT / name, source / name, ignore=large)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = pip("wheel", *offline, "--wheel-dir", str(dist), str(source))
    if re.search("No module named '?(pip|setuptools)|BackendUnavailable", done.stderr):
        pytest.skip(f"no wheel can be built here without a network: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return next(dist.iterdir())


EXCLUDED = [path.name for path in (ROOT / "analysis" / "baselines").iterdir() if path.name != "regression"]
"""Datasets that are too large for a wheel."""


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Commands of the wheel in an empty folder. Its environment has our packages but not our checkout, and lies in
    the repository of another project."""
    project = tmp_path_factory.mktemp("project")
    venv, empty = project / "venv", tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    done = pip("--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index", "--quiet", str(wheel))
    assert done.returncode == 0, done.stderr
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init"], [*author, "commit", "--allow-empty", "--message=theirs"]):
        subprocess.run(["git", *words, "--quiet"], cwd=project, check=True)
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def start(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [str(venv / "bin" / command), *arguments]
        return subprocess.run(line, cwd=empty, env=surroundings, capture_output=True, text=True, timeout=180)

    return start


def test_the_wheel_holds_every_file_that_the_code_reads(wheel: Path) -> None:
    kinds = (".py", ".yaml", ".csv", ".jsonl", ".typed")
    files = [path for name in ("ppo", "experiments", "analysis", "conf") for path in (ROOT / name).rglob("*")]
    files = [path for path in files if path.suffix in kinds and "reports" not in path.parts]
    files += (ROOT / "analysis" / "baselines" / "regression").iterdir()
    names = {str(path.relative_to(ROOT)): path for path in files}
    wanted = {re.sub("^conf/", "experiments/conf/", name): path for name, path in names.items()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert held == wanted.keys()
        assert all(archive.read(name) == path.read_bytes() for name, path in wanted.items())
    assert wheel.stat().st_size < 3_000_000


def test_outside_a_checkout_the_same_numbers_come_out(run: Run, tmp_path: Path) -> None:
    assert run("ppo", "--version").stdout == f"{installed()}\n"
    words = ["env=cartpole", *SMALL, "tracking=none"]
    done = run("ppo-train", *words, f"records={tmp_path}/theirs")
    assert (done.returncode, done.stderr) == (0, "")
    here = [sys.executable, "-m", "experiments.train", *words, f"records={tmp_path}/ours"]
    subprocess.run(here, cwd=ROOT, check=True, capture_output=True)
    (theirs,), (ours,) = (tmp_path.glob(f"{whose}/runs/*/*") for whose in ("theirs", "ours"))
    assert ours.name == theirs.name, "the run id"
    for name in ("episodes.csv", "iterations.csv"):
        assert (theirs / "attempt-1" / name).read_bytes() == (ours / "attempt-1" / name).read_bytes()
    found = json.loads((theirs / "provenance.json").read_text())
    assert found["commit"] is None, "not the commit of the project around the environment"


def test_outside_a_checkout_a_study_is_trained_and_reported(run: Run) -> None:
    few = ("environments=[cartpole]", "variants=[clip_0.2]", "seeds=[0,1]")
    done = run("ppo-study", "study=quick", *few, *SMALL, "tracking=none")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "quick: 2 done"
    done = run("ppo-report", "quick")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "records/reports/quick/index.html"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppo-trace", "--against", "HEAD"], "is not the top of a git repository, so there is no HEAD of it"),
        (["ppo-bless", "quick", "--name=x", "--reason=y"], "the following arguments are required: --baselines"),
    ],
)
def test_what_needs_a_checkout_says_so(run: Run, words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_the_doctor_does_without_constraints_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    assert checks.packages().status == "note" and "constraints.txt of the repository" in checks.packages().found
    assert checks.mujoco().status == "ok"


DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml", "markdown_it": "markdown-it-py"}
"""Imported names whose distribution is called otherwise."""


def imports(*folders: str) -> set[str]:
    """Distributions that the Python files of these folders import, tests' own modules left out."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names: set[str] = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    own = {"ppo", "experiments", "analysis", "tests", "slurm", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    return {normal(DISTRIBUTIONS.get(name, name)) for name in names - own - set(sys.stdlib_module_names)}


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=;! ]", each)[0]) for each in requirements}


def test_every_import_is_declared_and_every_requirement_imported() -> None:
    needed = declared(PROJECT["dependencies"])
    optional = declared(PROJECT["optional-dependencies"]["dev"])
    assert imports("ppo", "experiments", "analysis") - {"stable-baselines3"} == needed  # the benchmark's rival
    assert imports("tests") - needed <= optional


def test_every_requirement_has_a_bound_and_a_version_in_the_constraints() -> None:
    pins = {normal(name) for name in checks.pinned()}
    for each in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        assert re.search("[>=]=", each), each
        assert declared([each]) <= pins, each
    assert f"mujoco=={checks.BUNDLED_MUJOCO}" in PROJECT["dependencies"]
    assert checks.pinned()["mujoco"] == checks.BUNDLED_MUJOCO


def test_the_files_around_the_package_agree_with_it() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    steps = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]["steps"]
    (target,) = [step["run"].removeprefix("make ") for step in steps if "run" in step]
    assert f"\n{target}: install" in (ROOT / "Makefile").read_text()
    (python,) = [step["with"]["python-version"] for step in steps if "with" in step]
    assert PROJECT["requires-python"] == f">={python}"
