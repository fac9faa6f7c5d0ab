import numpy as np
import pytest
import torch

from ppo.config import Profile
from ppo.networks import Network, initialise

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU}
GAINS = {"hidden_gain": 1.4, "policy_gain": 0.01, "value_gain": 0.7}


def built(observations=5, outputs=3, gaussian=True, seed=0, **settings):
    """A network and the views of one run's starting parameters, without the axis of runs."""
    profile = Profile(**settings)
    network = Network((observations,), outputs, gaussian, profile)
    flat = torch.from_numpy(initialise(network, profile, np.random.default_rng(seed)))
    return network, {name: view[0].numpy() for name, view in network.views(flat[None]).items()}


def used_weights(parameters, outputs):
    """(weight without unused columns, its gain) of every layer."""
    for name, weight in parameters.items():
        if name.endswith(".weight"):
            head = name.split(".")[0] if "head" in name else "hidden"
            columns = {"policy": outputs, "value": 1, "hidden": weight.shape[1]}[head]
            yield weight[:, :columns].astype(np.float64), GAINS[f"{head}_gain"]


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_normc_columns_have_the_gain_as_their_norm(outputs, shared_trunk):
    _, parameters = built(outputs=outputs, init="normc", hidden_sizes=(64, 32), shared_trunk=shared_trunk, **GAINS)
    for weight, gain in used_weights(parameters, outputs):
        np.testing.assert_allclose(np.linalg.norm(weight, axis=0), gain, rtol=1e-6)


@pytest.mark.parametrize("hidden_sizes", [(64, 64), (32, 64), (64, 32)])
@pytest.mark.parametrize("outputs", [1, 3, 70])
def test_orthogonal_weights_have_orthogonal_rows_or_columns_of_norm_gain(outputs, hidden_sizes):
    _, parameters = built(outputs=outputs, init="orthogonal", hidden_sizes=hidden_sizes, **GAINS)
    for weight, gain in used_weights(parameters, outputs):
        gram = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-6 * gain**2)


def test_torch_weights_and_biases_are_uniform_within_one_over_root_fan_in():
    _, parameters = built(
        outputs=3, init="torch", hidden_sizes=(64, 128), policy_gain=9.0, value_gain=9.0, hidden_gain=9.0
    )
    used = {"policy.head": 3, "value.head": 1}
    for layer in ("policy.0", "policy.1", "value.0", "value.1", "policy.head", "value.head"):
        weight = parameters[f"{layer}.weight"][:, : used.get(layer)]
        bias = parameters[f"{layer}.bias"][:, : used.get(layer)]
        bound = weight.shape[0] ** -0.5
        drawn = np.concatenate([weight.ravel(), bias.ravel()])
        assert (drawn != 0).all()
        assert 0.9 * bound < np.abs(drawn).max() <= bound * (1 + 1e-6)
        tolerance = 4 * bound / np.sqrt(len(drawn))
        assert abs(drawn.mean()) < tolerance
        assert abs(drawn.std() - bound / np.sqrt(3)) < tolerance


@pytest.mark.parametrize("init", ["normc", "orthogonal"])
def test_biases_start_at_zero(init):
    _, parameters = built(init=init)
    assert all((bias == 0).all() for name, bias in parameters.items() if name.endswith(".bias"))


def test_log_std_starts_at_its_setting_and_only_a_gaussian_has_one():
    np.testing.assert_array_equal(built(log_std_init=-0.5)[1]["log_std"], np.full((1, 3), -0.5))
    assert "log_std" not in built(gaussian=False)[1]


def test_starting_parameters_follow_their_generator():
    (_, one), (_, same), (_, other) = built(seed=1), built(seed=1), built(seed=2)
    np.testing.assert_array_equal(one["policy.0.weight"], same["policy.0.weight"])
    assert (one["policy.0.weight"] != other["policy.0.weight"]).all()


@pytest.mark.parametrize("init", ["normc", "orthogonal", "torch"])
@pytest.mark.parametrize(("outputs", "gaussian"), [(1, True), (2, False)])
def test_an_unused_head_column_is_zero_and_so_is_its_gradient(init, outputs, gaussian):
    network, start = built(outputs=outputs, gaussian=gaussian, init=init)
    parameters = {name: torch.from_numpy(value[None]).requires_grad_() for name, value in start.items()}
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 9, 5)).astype(np.float32))
    policy, value = network.policy_and_value(parameters, x)
    (policy.square().sum() + (value - 1).square().sum()).backward()
    for head, columns in (("policy.head", outputs), ("value.head", 1)):
        for kind in ("weight", "bias"):
            parameter = parameters[f"{head}.{kind}"]
            assert parameter.shape[-1] == 2
            assert (parameter[..., columns:] == 0).all()
            assert (parameter.grad[..., columns:] == 0).all()
            assert (parameter.grad[..., :columns] != 0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_forward_pass_is_that_of_torch_linear_layers(outputs, shared_trunk, activation):
    profile = Profile(hidden_sizes=(16, 8, 12), activation=activation, shared_trunk=shared_trunk)
    network = Network((5,), outputs, True, profile)
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    parameters = network.views(torch.from_numpy(np.stack([initialise(network, profile, rng) for rng in rngs])))
    x = torch.from_numpy(np.random.default_rng(2).normal(0, 2, (2, 9, 5)).astype(np.float32))

    def sequential(run, trunk, head):
        layers = []
        for name in (*(f"{trunk}.{i}" for i in range(3)), head):
            weight, bias = parameters[f"{name}.weight"][run], parameters[f"{name}.bias"][run, 0]
            layer = torch.nn.Linear(*weight.shape)
            layer.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [layer, ACTIVATIONS[activation]()]
        return torch.nn.Sequential(*layers[:-1])

    policy, value = network.policy_and_value(parameters, x)
    for run in range(2):
        trunks = ("trunk", "trunk") if shared_trunk else ("policy", "value")
        with torch.no_grad():
            expected_policy = sequential(run, trunks[0], "policy.head")(x[run])[:, :outputs]
            expected_value = sequential(run, trunks[1], "value.head")(x[run])[:, 0]
        torch.testing.assert_close(policy[run], expected_policy, rtol=0, atol=1e-6)
        torch.testing.assert_close(value[run], expected_value, rtol=0, atol=1e-6)
    assert torch.equal(policy, network.policy(parameters, x))
    assert torch.equal(value, network.value(parameters, x))


def test_parameters_do_not_overlap_in_the_flat_row():
    network = Network((5,), 3, True, Profile(hidden_sizes=(7, 9)))
    flat = torch.zeros(2, network.size)
    for number, view in enumerate(network.views(flat).values(), start=1):
        assert (view == 0).all()
        view.fill_(number)
    assert (flat != 0).sum() == 2 * sum(view[0].numel() for view in network.views(flat).values())
