"""Checkpoints: one file per run and boundary, whole or refused.

A file is the SHA-256 of its payload, then the payload (`torch.save`, read back with `weights_only=True`, so a file that
somebody tampered with can run nothing). It is written under a temporary name, synced and renamed; the two newest stay.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch

from experiments.files import numbered_in, sync_folder

KEPT = 2
ADDED = ("earlier_actions", "handed_out_sha256", "not_finite")
"""Parts of a state that checkpoints of older code, or of runs in good health, do not have."""


class Checkpoint(TypedDict):
    """What a file holds."""

    state: dict[str, Any]  # of the run, at the boundary of an iteration
    lengths: dict[str, int]  # bytes of each of the attempt's tables at that boundary
    digests: NotRequired[dict[str, str]]  # SHA-256 of those bytes; older checkpoints have none
    run_id: str
    code_id: str


class Refused(Exception):
    """Why a checkpoint cannot be used: one sentence."""


def path_of(folder: Path, iteration: int) -> Path:
    return folder / f"checkpoint-{iteration:06d}.pt"


def iterations_in(folder: Path) -> list[int]:
    """Iterations with a checkpoint, newest first."""
    return numbered_in(folder, "checkpoint-", ".pt")


def save(folder: Path, iteration: int, content: Checkpoint) -> None:
    """Write durably, then drop all but the newest `KEPT`."""
    buffer = io.BytesIO()
    torch.save(_tensors(content), buffer)
    payload = buffer.getvalue()
    target = path_of(folder, iteration)
    temporary = target.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    sync_folder(folder)
    for old in iterations_in(folder)[KEPT:]:
        path_of(folder, old).unlink(missing_ok=True)


def load(path: Path, identity: Mapping[str, str]) -> Checkpoint:
    """The content, if it is whole and of this run and code; else `Refused`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    digest, payload = data[:32], data[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise Refused(f"{path} is torn or altered: its digest does not fit its content")
    try:
        content = _arrays(torch.load(io.BytesIO(payload), weights_only=True))
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Refused(f"{path} has its digest but holds no checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} has its digest but holds no checkpoint: it is no table of names and values")
    for name, wanted in identity.items():
        if content.get(name) != wanted:
            raise Refused(f"{path} belongs to another {name.replace('_', ' ')}: {content.get(name)}, not {wanted}")
    state = content.get("state")
    if not isinstance(state, dict) or type(state.get("iteration")) is not int:
        raise Refused(f"{path} has its digest but holds no checkpoint: it has no state of a run at an iteration")
    return cast(Checkpoint, content)


def misfit(state: Any, pattern: Any, name: str = "its state") -> str:
    """How a state is laid out otherwise than `pattern`, one that this code makes; empty if it is not.

    An array that is empty in the pattern may have any length.
    """
    if isinstance(pattern, Mapping):
        if not isinstance(state, Mapping):
            return f"{name} is no table of names and values"
        if missing := [key for key in pattern if key not in state and key not in ADDED]:
            return f"{name} lacks {', '.join(missing)}"
        pairs = [(state[key], value, f"{name}.{key}") for key, value in pattern.items() if key in state]
    elif isinstance(pattern, list):
        if not isinstance(state, list) or len(state) != len(pattern):
            return f"{name} is no list of {len(pattern)}"
        pairs = [(*pair, f"{name}.{number}") for number, pair in enumerate(zip(state, pattern, strict=True))]
    elif isinstance(pattern, np.ndarray | torch.Tensor):
        there, here = np.asarray(state), np.asarray(pattern)
        free = here.shape[:1] == (0,) and there.ndim == here.ndim
        if there.dtype.kind != here.dtype.kind or there.shape[free:] != here.shape[free:]:
            return f"{name} has the shape {there.shape} of {there.dtype}, not {here.shape} of {here.dtype}"
        return ""
    else:
        return "" if type(state) is type(pattern) else f"{name} is {state!r:.50}"
    return next((found for pair in pairs if (found := misfit(*pair))), "")


def _tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tensors(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _arrays(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_arrays(item) for item in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value
