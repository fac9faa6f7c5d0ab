"""Checkpoints: one file per run and boundary, whole or refused.

A file is the SHA-256 of its payload, then the payload (`torch.save`, read back with `weights_only=True`, so a file that
somebody tampered with can run nothing). It is written under a temporary name, synced and renamed; the two newest stay.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.files import numbered_in, sync_folder

KEPT = 2


class Refused(Exception):
    """Why a checkpoint cannot be used: one sentence."""


def path_of(folder: Path, iteration: int) -> Path:
    return folder / f"checkpoint-{iteration:06d}.pt"


def iterations_in(folder: Path) -> list[int]:
    """Iterations with a checkpoint, newest first."""
    return numbered_in(folder, "checkpoint-", ".pt")


def save(folder: Path, iteration: int, content: Mapping[str, Any]) -> None:
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


def load(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """The content, if it is whole and of this run and code; else `Refused`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    digest, payload = data[:32], data[32:]
    if hashlib.sha256(payload).digest() != digest:
        raise Refused(f"{path} is torn or altered: its digest does not fit its content")
    content: dict[str, Any] = _arrays(torch.load(io.BytesIO(payload), weights_only=True))
    for name, wanted in identity.items():
        if content.get(name) != wanted:
            raise Refused(f"{path} belongs to another {name.replace('_', ' ')}: {content.get(name)}, not {wanted}")
    return content


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
