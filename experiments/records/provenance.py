"""Where and with what a run was trained: commit, versions, machine. No environment variables but a named few."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from experiments.files import read_json

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
DIFF_LIMIT = 200_000  # characters


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


@cache
def origin() -> dict[str, Any]:
    """Where this code comes from; `diff` is the uncommitted change of tracked files. A snapshot carries its answer."""
    carried = ROOT / "origin.json"
    if carried.exists():
        return read_json(carried)
    diff = git("diff", "HEAD")
    return {"commit": git("rev-parse", "HEAD").strip() or None, "dirty": bool(diff), "diff": diff[:DIFF_LIMIT]}


def git(*arguments: str) -> str:
    """Git's answer about this checkout; empty outside one."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
