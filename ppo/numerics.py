"""`numerics`: exact or fast, a setting of the run, never detected.

exact runs eagerly, and a run gives the same bytes alone and in any pack. fast compiles the update: the same mathematics
rounded otherwise, so it promises equality only for the same pack on the same machine and software. Frames pass its
convolutions in bfloat16, whose 8 bits of mantissa are too few for parameters and enough for pixels.
"""

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppo.refusals import UserError

F = TypeVar("F", bound=Callable[..., Any])


def prepare(numerics: str) -> None:
    """Refuse `fast` where it cannot be had, and forget what earlier packs compiled: their shapes are their own."""
    if numerics == "fast":
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise UserError(f"numerics=fast needs a C++ compiler, and {compiler} is not here; install it or use exact")
        # Inductor caches pickles; its default place under /tmp has a name anyone can take first.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "torchinductor"))
        torch.compiler.reset()


def precision(numerics: str) -> torch.dtype:
    """Of convolutions."""
    return torch.bfloat16 if numerics == "fast" else torch.float32


def variant(function: F, numerics: str) -> F:
    """The function itself, or its compiled form."""
    return compiled(function) if numerics == "fast" else function


@cache
def compiled(function: Callable[..., Any]) -> Any:
    torch._dynamo.config.trace_autograd_ops = True  # minibatch_step takes its gradient inside
    return torch.compile(function, fullgraph=True, dynamic=False)


def tanh(x: Tensor) -> Tensor:
    """tanh(x). Compiled, a form that Inductor runs five times faster than its own, to an absolute error of 1e-7."""
    return 2 * torch.sigmoid(2 * x) - 1 if torch.compiler.is_compiling() else torch.tanh(x)


@torch.library.custom_op("ppo::row_norm", mutates_args=())
def row_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each row, (R, P) → (R, 1). Opaque to Inductor, which fails on a pack where it can fuse this
    sum with the optimiser's in-place steps (github.com/pytorch/pytorch/issues/188228)."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


@row_norm.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(len(x), 1)
