"""What may import what, and what no package file does at all."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for package in ("ppo", "experiments", "analysis") for path in (ROOT / package).rglob("*.py"))
ALLOWED_LINES = 400

WALLS = {
    "ppo": {"hydra", "omegaconf", "wandb", "experiments", "analysis"},
    "analysis": {"torch", "ppo", "experiments", "wandb"},
    "experiments": {"wandb"},
}
SCHEMA = "experiments.records.schema"
SHARED = (SCHEMA, "experiments.commands")  # of the standard library alone
DOORS = {("analysis", "wandb", "wandb"), ("experiments", "wandb", "wandb"),
         ("experiments", "provenance", "a computed name"),
         *(("analysis", "", module) for module in SHARED)}  # fmt: skip
"""(package, how the module's name starts, what it may import after all, with all that is in it)."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere in the file, by its full name; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func) in ("__import__", "importlib.import_module"):
            yield node.args[0].value if isinstance(node.args[0], ast.Constant) else "a computed name"


def dotted(node: ast.AST) -> str:
    """numpy.load of `numpy.load(…)`; empty for anything but names and dots."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def breaches(package: str, stem: str, source: str) -> list[str]:
    """Imports that this module may not have."""
    found = []
    for name in imported(ast.parse(source)):
        top = name.partition(".")[0]
        allowed = any(package == p and stem.startswith(s) and f"{name}.".startswith(f"{t}.") for p, s, t in DOORS)
        if (top in {*WALLS[package], "a computed name"} and not allowed) or name == "" or name.startswith("."):
            found.append(name)
    return found


def dangers(source: str) -> list[str]:
    """Ways in which reading a file could run code."""
    tree = ast.parse(source)
    found = [name for name in imported(tree) if name.partition(".")[0] in ("pickle", "cPickle", "dill", "joblib")]
    found += ["_target_"] * ("_target_" in source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy", "yaml"):
            found += [alias.name for alias in node.names if alias.name in ("load", "unsafe_load", "full_load")]
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node).endswith("instantiate"):
            found.append(dotted(node))
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        arguments = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else None for k in node.keywords}
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
            found.append(name)
        if name == "torch.load" and arguments.get("weights_only") is not True:
            found.append(name)
        if name in ("np.load", "numpy.load") and arguments.get("allow_pickle", False) is not False:
            found.append(name)
        if name.endswith("read_pickle"):
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
class TestEveryFile:
    def test_imports_nothing_from_behind_a_wall(self, path: Path) -> None:
        assert breaches(path.relative_to(ROOT).parts[0], path.stem, path.read_text()) == []

    def test_reads_nothing_that_could_run_code(self, path: Path) -> None:
        assert dangers(path.read_text()) == []

    def test_is_short_enough_to_read(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= ALLOWED_LINES


def test_errors_are_printed_in_one_place() -> None:
    """Or where a Hydra application, a job and its worker need an exit code or a stream of their own."""
    own = {"train.py", "task.py", "worker.py"}
    assert {path.name for path in FILES if 'print(f"error: ' in path.read_text()} == {"commands.py", *own}


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(WALLS)


@pytest.mark.parametrize(
    ("package", "stem", "source"),
    [
        ("ppo", "pack", "import hydra"),
        ("ppo", "pack", "def f():\n    from omegaconf.errors import X"),
        ("ppo", "pack", "import importlib; importlib.import_module('wandb')"),
        ("ppo", "pack", "from .. import experiments"),
        ("analysis", "plot", "import torch.nn as nn"),
        ("analysis", "collect", "import torch"),
        ("analysis", "plot", "import wandb"),
        ("analysis", "plot", "import experiments"),
        ("analysis", "plot", "from experiments.records import record, schema"),
        ("analysis", "plot", "from experiments.records.schematic import COLUMNS"),
        ("ppo", "pack", f"import {SCHEMA}"),
        ("experiments", "runner", "from wandb import init"),
        ("experiments", "mirror", "import wandb"),
        ("analysis", "plot", "from experiments.commands_of_torch import command"),
    ],
)
def test_a_breach_is_seen(package: str, stem: str, source: str) -> None:
    assert breaches(package, stem, source)


@pytest.mark.parametrize(("package", "stem"), [("analysis", "wandb"), ("experiments", "wandb")])
def test_doors_are_open(package: str, stem: str) -> None:
    assert breaches(package, stem, "import wandb, numpy, os.path") == []


@pytest.mark.parametrize("module", SHARED)
def test_analysis_may_import_what_is_shared(module: str) -> None:
    assert breaches("analysis", "plot", f"from {module} import COLUMNS, score\nimport {module}") == []


@pytest.mark.parametrize("module", SHARED)
def test_what_is_shared_imports_the_standard_library_alone(module: str) -> None:
    said = f"import sys; before = {{*sys.modules}}; import {module}; print(*sorted({{*sys.modules}} - before))"
    answer = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = [name for name in answer.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names]
    assert set(loaded) <= {"experiments", "experiments.records", module}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "x = {'_target_': 'os.system'}",
        "import hydra; hydra.utils.instantiate(x)",
        "from hydra.utils import instantiate; instantiate(x)",
        "import yaml; yaml.load(f)",
        "from torch import load",
        "import torch; torch.load(f)",
        "import torch; torch.load(f, weights_only=False)",
        "import torch; torch.load(f, weights_only=flag)",
        "import numpy as np; np.load(f, allow_pickle=True)",
        "import pandas as pd; pd.read_pickle(f)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert dangers(source)


def test_safe_reading_is_let_through() -> None:
    assert dangers("import numpy as np, torch\ntorch.load(f, weights_only=True)\nnp.load(f)\nyaml.safe_load(f)") == []
