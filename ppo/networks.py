"""Policy and value networks: where their parameters lie, how they start, and the forward pass.

One run's parameters are one row of a flat matrix (R, P); every weight is a view of it, (R, in, out), so the optimiser
works on one tensor and the pack's layers are single batched products.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ppo.numerics import tanh
from ppo.refusals import UserError

if TYPE_CHECKING:
    from ppo.config import Profile

CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "none": (),
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "a3c": ((16, 8, 4), (32, 4, 2)),
}
"""Filters, kernel and stride of each layer: Mnih et al. 2015 (Nature 518), methods; Mnih et al. 2016
(arXiv:1602.01783), section 8."""

ALIGNMENT = 16  # floats: each weight starts on a cache line, so a run's products do not depend on its place in the pack
Array = TypeVar("Array", Tensor, np.ndarray)

TORCH: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": torch.relu, "elu": torch.nn.functional.elu}
NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


class Network:
    """Shapes of one agent's parameters and its forward pass, for torch tensors (learning) and NumPy arrays (acting).

    `observation_shape`: (D,) numbers, or (C, H, W) frames, which pass the profile's convolutions first; `output_size` A
    (action dimensions, or logits); hidden layers from the profile.
    Heads are at least two columns wide, the unused one sliced off and never moved: for a single column and a single run
    MKL picks another kernel, and a run alone would differ from itself in a pack in the last bit.
    Layers that frames pass, heads apart, are computed in `precision`; parameters, gradients and all else are float32.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        output_size: int,
        gaussian: bool,
        profile: "Profile",
        precision: torch.dtype = torch.float32,
    ):
        self.output_size = output_size
        self.precision = precision
        self.convolutions = CONVOLUTIONS[profile.convolutions]
        if bool(self.convolutions) != (len(observation_shape) == 3):
            wanted = "frames, which need" if len(observation_shape) == 3 else "numbers, not frames; they cannot have"
            raise UserError(f"profile.convolutions={profile.convolutions}: the observations are {wanted} convolutions")
        self.activation = profile.activation
        self.trunks = ("trunk", "trunk") if profile.shared_trunk else ("policy", "value")
        self.layers = len(profile.hidden_sizes)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for trunk in dict.fromkeys(self.trunks):
            channels, *rest = observation_shape
            for layer, (filters, kernel, stride) in enumerate(self.convolutions):
                self._add(f"{trunk}.convolution{layer}", channels * kernel * kernel, filters)
                channels, rest = filters, [(side - kernel) // stride + 1 for side in rest]
            if min(rest, default=1) < 1:
                raise UserError(
                    f"profile.convolutions={profile.convolutions}: {observation_shape} is too small a frame"
                )
            sizes = (channels * math.prod(rest), *profile.hidden_sizes)
            for layer in range(self.layers):
                self._add(f"{trunk}.{layer}", sizes[layer], sizes[layer + 1])
        self._add("policy.head", sizes[-1], max(2, output_size))
        self._add("value.head", sizes[-1], 2)
        if gaussian:
            self.shapes["log_std"] = (1, output_size)
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name, shape in self.shapes.items():
            self.offsets[name] = self.size
            self.size += math.ceil(math.prod(shape) / ALIGNMENT) * ALIGNMENT

    def _add(self, name: str, inputs: int, outputs: int) -> None:
        self.shapes[f"{name}.weight"] = (inputs, outputs)
        self.shapes[f"{name}.bias"] = (1, outputs)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters inside a flat (R, P): weights (R, in, out), biases (R, 1, out), log_std (R, 1, A)."""
        return {
            name: flat[:, self.offsets[name] : self.offsets[name] + math.prod(shape)].unflatten(1, shape)
            for name, shape in self.shapes.items()
        }

    def flatten(self, views: Iterable[Tensor]) -> Tensor:
        """The inverse of `views`: tensors in the order of `shapes` into one (R, P), zeros between."""
        pieces = []
        for view, shape in zip(views, self.shapes.values(), strict=True):
            gap = -math.prod(shape) % ALIGNMENT
            pieces += [view.flatten(1), *([view.new_zeros(len(view), gap)] if gap else [])]
        return torch.cat(pieces, dim=1)

    def gradient(
        self, leaves: Mapping[str, Tensor], total: Tensor, retain_graph: bool | None = None, create_graph: bool = False
    ) -> Tensor:
        """∂total/∂θ as (R, P), 0 where `total`, a sum over rows, does not depend on a parameter. `leaves` are those of
        `views`."""
        gradients = torch.autograd.grad(
            total, list(leaves.values()), retain_graph=retain_graph, create_graph=create_graph, materialize_grads=True
        )
        return self.flatten(gradients)

    def policy_columns(self) -> np.ndarray:
        """Where in a flat row the numbers lie that decide a policy's likeliest action, ascending."""
        columns = []
        for name, shape in self.shapes.items():
            if name.startswith(("policy.", "trunk.")):
                places = self.offsets[name] + np.arange(math.prod(shape)).reshape(shape)
                columns.append(places[:, : self.output_size] if ".head." in name else places)
        return np.concatenate([places.ravel() for places in columns])

    def policy(self, parameters: Mapping[str, Array], x: Array) -> Array:
        """x: (R, B, D), or (R, B, C, H, W) uint8 → (R, B, A)."""
        return self._head(parameters, "policy", self._hidden(parameters, self.trunks[0], x))[..., : self.output_size]

    def value(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """x as for `policy` → (R, B)."""
        return self._head(parameters, "value", self._hidden(parameters, self.trunks[1], x))[..., 0]

    def policy_and_value(self, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, the shared trunk computed once."""
        hidden = self._hidden(parameters, self.trunks[0], x)
        other = hidden if self.trunks[0] == self.trunks[1] else self._hidden(parameters, self.trunks[1], x)
        policy = self._head(parameters, "policy", hidden)[..., : self.output_size]
        return policy, self._head(parameters, "value", other)[..., 0]

    def _hidden(self, parameters: Mapping[str, Array], trunk: str, x: Array) -> Array:
        if self.convolutions:
            return self._seen(parameters, trunk, x)
        activation: Any = (TORCH if isinstance(x, Tensor) else NUMPY)[self.activation]
        for layer in range(self.layers):
            x = activation(linear(x, parameters[f"{trunk}.{layer}.weight"], parameters[f"{trunk}.{layer}.bias"]))
        return x

    def rounded(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters that meet frames in `precision`, the heads' as they are: once for many forward passes."""
        return {name: values if ".head." in name else values.to(self.precision) for name, values in parameters.items()}

    def _seen(self, parameters: Mapping[str, Any], trunk: str, frames: Any) -> Any:
        """What a trunk makes of frames, (R, B, C, H, W) uint8 → (R, B, units) float32."""
        parameters = self.rounded(parameters)

        def layer(name: str) -> tuple[Tensor, Tensor]:
            return parameters[f"{trunk}.{name}.weight"], parameters[f"{trunk}.{name}.bias"]

        activation, x = TORCH[self.activation], frames.to(self.precision) / 255
        for number, (_, kernel, stride) in enumerate(self.convolutions):
            x = activation(convolution(x, *layer(f"convolution{number}"), kernel, stride))
        x = x.reshape(*x.shape[:2], -1)
        for number in range(self.layers):
            x = activation(linear(x, *layer(str(number))))
        return x.float()

    def _head(self, parameters: Mapping[str, Array], head: str, x: Array) -> Array:
        return linear(x, parameters[f"{head}.head.weight"], parameters[f"{head}.head.bias"])


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x (R, B, in), weight (R, in, out), bias (R, 1, out) → (R, B, out)."""
    if x.shape[-1] == 1:  # for a single run and a single input MKL picks another kernel, see `Network`
        return bias + x * weight
    return torch.baddbmm(bias, x, weight) if isinstance(x, Tensor) else x @ weight + bias


def convolution(x: Tensor, weight: Tensor, bias: Tensor, kernel: int, stride: int) -> Tensor:
    """x (R, B, C, H, W), weight (R, C·kernel², out), bias (R, 1, out) → (R, B, out, H′, W′). Run by run: what a run
    computes must not depend on its mates."""
    kernels = weight.mT.unflatten(-1, (x.shape[2], kernel, kernel))
    runs = [torch.conv2d(*run, stride=stride) for run in zip(x, kernels, bias[:, 0], strict=True)]
    return torch.stack(runs)


def initialise(network: Network, profile: "Profile", rng: np.random.Generator) -> np.ndarray:
    """One run's starting parameters, (P,) float32. Biases start at 0 except under `torch`."""
    flat = np.zeros(network.size, dtype=np.float32)
    for name, shape in network.shapes.items():
        head = name.split(".")[0] if ".head." in name else "hidden"
        values = np.zeros(shape)
        if name == "log_std":
            values[:] = profile.log_std_init
        else:
            columns = {"policy": network.output_size, "value": 1, "hidden": shape[-1]}[head]
            gain = {"policy": profile.policy_gain, "value": profile.value_gain, "hidden": profile.hidden_gain}[head]
            inputs = network.shapes[name.replace(".bias", ".weight")][0]
            if profile.init == "torch":
                bound = 1 / math.sqrt(inputs)
                values[:, :columns] = rng.uniform(-bound, bound, size=(shape[0], columns))
            elif name.endswith(".weight"):
                draw = {"normc": normc, "orthogonal": orthogonal}[profile.init]
                values[:, :columns] = gain * draw(rng, inputs, columns)
        start = network.offsets[name]
        flat[start : start + values.size] = values.ravel()
    return flat


def normc(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """Columns of unit norm (baselines@da99706, common/tf_util.py normc_initializer)."""
    weight = rng.standard_normal((inputs, outputs))
    return weight / np.sqrt(np.square(weight).sum(axis=0, keepdims=True))


def orthogonal(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """Orthonormal rows or columns, whichever are fewer (baselines@2dd7d30, a2c/utils.py ortho_init)."""
    u, _, v = np.linalg.svd(rng.standard_normal((inputs, outputs)), full_matrices=False)
    return u if u.shape == (inputs, outputs) else v
