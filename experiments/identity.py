"""Who a run is, and who computed it: the ids that address every record."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports torch, which takes a second, and the doctor asks for versions alone
    from ppo.config import RunConfig

NUMERIC_PACKAGES = ("torch", "numpy", "mujoco", "envpool", "gymnasium", "ale-py")
PPO = Path(__file__).parent.parent / "ppo"


def canonical(config: "RunConfig") -> dict[str, Any]:
    """The run as plain values, fields at their default left out: a field added later leaves old ids alone."""

    def differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                value = differing(value, defaults[name])
                if value:
                    out[name] = value
            elif value != defaults[name]:
                out[name] = value
        return out

    return differing(asdict(config), asdict(type(config)()))


def run_id(config: "RunConfig") -> str:
    """12 hexadecimal digits of the canonical config."""
    text = json.dumps(canonical(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def slug(config: "RunConfig") -> str:
    """A readable name made of the config alone: Hopper-v4-clip_0.2.s3."""
    env = "".join(c if c.isalnum() or c in "-_" else "_" for c in config.env.id)
    chosen = config.env.max_episode_steps is not None and config.env.frame_skip is None  # all games of Atari have one
    limit = f"-{config.env.max_episode_steps}" if chosen else ""
    return f"{env}{limit}-{config.algo.label}.s{config.seed}"


@cache
def code_id() -> str:
    """12 hexadecimal digits of the algorithm's code (docstrings, comments and layout left out) and its packages."""
    digest = hashlib.sha256()
    for path in sorted(PPO.rglob("*.py")):
        digest.update(f"{path.relative_to(PPO).as_posix()}\n{meaning(path.read_text())}\n".encode())
    for package in NUMERIC_PACKAGES:
        digest.update(f"{package}=={package_version(package)}\n".encode())
    return digest.hexdigest()[:12]


def meaning(source: str) -> str:
    """Python source reduced to what it does: no comments, no layout, no bare strings."""

    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [line for line in node.body if not is_bare_string(line)] or [ast.Pass()]
    return ast.unparse(tree)


def is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed() -> str:
    """The suite's version, and the id of the code that computes numbers: what --version prints."""
    return f"ppo-replication {package_version('ppo-replication')}, code {code_id()}"
