"""Where and with what a run was trained: commit, versions, machine. No environment variables but a named few."""

import hashlib
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import distributions, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.files import read_json

if TYPE_CHECKING:  # it imports torch, and whoever asks for versions alone needs none
    from ppo.config import RunConfig

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
COMPUTING = ("ppo", "experiments", "conf")  # what a run's numbers come from; its changes come first in the diff
IN_CODE_ID = {"gymnasium", "envpool", "ale_py", "mujoco"}  # their versions are part of the code id
DIFF_LIMIT = 200_000  # characters
GIT_SECONDS = 30.0


@cache
def provenance(device: str) -> dict[str, Any]:
    """What a reader needs to make the run again."""
    import torch  # a launch asks for its origin alone

    return {
        **origin(),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {d.metadata["Name"]: d.version for d in sorted(distributions(), key=lambda d: d.metadata["Name"])},
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else None,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def task_code(config: "RunConfig") -> dict[str, dict[str, str | None]]:
    """The code of a task that is none of Gymnasium's or EnvPool's: by module or package the digest of its Python files
    and the version it is installed as. Files it reads beside them are not seen.
    """
    if config.backend != "gymnasium":
        return {}
    import gymnasium  # a launch asks for its origin alone

    module, _, name = config.env.id.rpartition(":")
    if module:
        importlib.import_module(module)
    if (spec := gymnasium.registry.get(name)) is None:
        return {}
    points = [spec.entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)]
    modules = [each.partition(":")[0] if isinstance(each, str) else getattr(each, "__module__", "") for each in points]
    owners = {each.partition(".")[0]: each for each in [*modules, module] if each and each != "__main__"}
    return {top: source(top, owners[top]) for top in sorted(owners.keys() - IN_CODE_ID)}


def source(top: str, module: str) -> dict[str, str | None]:
    """Digest of all Python files of a module or package, and its version; `module` stands for a package without a
    file of its own."""
    importlib.import_module(module)
    file = getattr(sys.modules[top], "__file__", None) or getattr(sys.modules[module], "__file__", None)
    digest = hashlib.sha256()
    if file is not None:
        path = Path(file)
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        for each in files:
            digest.update(f"{each.relative_to(path.parent)}\n".encode() + each.read_bytes())
    installed = distributions_of().get(top)
    return {"sha256": digest.hexdigest() if file else None, "version": version(installed[0]) if installed else None}


@cache
def distributions_of() -> Mapping[str, list[str]]:
    """Installed distributions by the package they hold; asking takes a tenth of a second."""
    return packages_distributions()


@cache
def origin() -> dict[str, Any]:
    """Where this code comes from; `diff` is the uncommitted change of tracked files. A snapshot carries its answer.

    Where git tells nothing, `dirty` is None (unknown, not clean) and `git_error` says why. So for an installed package:
    a repository around its environment is another project's, and its version stands among the packages.
    """
    carried = ROOT / "origin.json"
    if carried.exists():
        return read_json(carried)
    if not (ROOT / "conf").is_dir():
        return {"commit": None, "dirty": None, "diff": "", "git_error": "an installed package, not a checkout"}
    try:
        commit = git("rev-parse", "HEAD").strip()
        rest = (f":!{part}" for part in COMPUTING)
        diff = git("diff", "HEAD", "--", *COMPUTING) + git("diff", "HEAD", "--", ".", *rest)
    except GitError as error:
        print(f"the commit of this code stays unknown, and whether it was changed: {error}", file=sys.stderr)
        return {"commit": None, "dirty": None, "diff": "", "git_error": str(error)}
    mark = f"\n[cut here: {len(diff) - DIFF_LIMIT} more characters]\n" if len(diff) > DIFF_LIMIT else ""
    return {"commit": commit, "dirty": bool(diff), "diff": diff[:DIFF_LIMIT] + mark}


class GitError(Exception):
    """Why git tells nothing of this checkout: one line."""


def git(*arguments: str) -> str:
    """Git's answer about this checkout. Raises GitError where git is missing, too slow, or refuses."""
    command = ["git", *arguments]
    try:
        answer = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(str(error)) from error
    if answer.returncode != 0:
        raise GitError(" ".join(answer.stderr.split()))
    return answer.stdout


def cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
