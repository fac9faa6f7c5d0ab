"""Stable-Baselines3's agents with our weights, and their parameters beside ours."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ppo.pack import Pack

POLICY = {"net_arch": {"pi": [16, 16], "vf": [16, 16]}, "activation_fn": torch.nn.Tanh}


def pairs(pack: Pack, row: int, model: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, our values in SB3's shape, and SB3's parameter."""
    policy, views = model.policy, pack.learner.model.network.views(pack.learner.flat)
    layers = {
        "policy.0": policy.mlp_extractor.policy_net[0], "policy.1": policy.mlp_extractor.policy_net[2],
        "value.0": policy.mlp_extractor.value_net[0], "value.1": policy.mlp_extractor.value_net[2],
        "policy.head": policy.action_net, "value.head": policy.value_net,
    }  # fmt: skip
    for name, layer in layers.items():
        yield f"{name}.weight", views[f"{name}.weight"][row].T[: len(layer.weight)], layer.weight
        yield f"{name}.bias", views[f"{name}.bias"][row, 0, : len(layer.bias)], layer.bias
    if not pack.spaces.discrete:
        yield "log_std", views["log_std"][row, 0], policy.log_std


def copy_weights(pack: Pack, row: int, model: Any) -> None:
    with torch.no_grad():
        for _, ours, theirs in pairs(pack, row, model):
            theirs.copy_(ours)


def assert_same_weights(pack: Pack, row: int, model: Any, atol: float) -> None:
    for name, ours, theirs in pairs(pack, row, model):
        np.testing.assert_allclose(ours, theirs.detach(), rtol=0, atol=atol, err_msg=name)
