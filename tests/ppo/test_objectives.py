import numpy as np
import pytest
import torch

from ppo.declarations import Objective, Setting, by_name, refuse_taken
from ppo.losses import check_reads
from ppo.objectives import adapt_beta, clip, kl_penalty, unconstrained
from ppo.policies import Gaussian

RATIO = [0.5, 0.9, 1.0, 1.1, 1.5]
EPSILON = torch.tensor([0.2])
BETA = torch.tensor([3.0])
KL = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0])


def value_and_gradient(objective, advantage, ratio=RATIO):
    """The gradient is with respect to the log-probability: ratio times that with respect to the ratio."""
    log_prob = torch.log(torch.tensor(ratio)).requires_grad_()
    value = objective(torch.exp(log_prob), torch.full_like(log_prob, advantage))
    (gradient,) = torch.autograd.grad(value.sum(), log_prob)
    return value.detach(), gradient


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "values", "gradients"),
    [(2.0, [1.0, 1.8, 2.0, 2.2, 3.0], [1.0, 1.8, 2.0, 2.2, 3.0]),
     (-2.0, [-1.0, -1.8, -2.0, -2.2, -3.0], [-1.0, -1.8, -2.0, -2.2, -3.0])],
)  # fmt: skip
def test_unconstrained_by_hand(advantage, values, gradients):
    value, gradient = value_and_gradient(unconstrained, advantage)
    close(value, values)
    close(gradient, gradients)


@pytest.mark.parametrize(
    ("advantage", "values", "gradients"),
    [(2.0, [1.0, 1.8, 2.0, 2.2, 2.4], [1.0, 1.8, 2.0, 2.2, 0.0]),
     (-2.0, [-1.6, -1.8, -2.0, -2.2, -3.0], [0.0, -1.8, -2.0, -2.2, -3.0])],
)  # fmt: skip
def test_clip_by_hand_on_both_sides_and_signs(advantage, values, gradients):
    value, gradient = value_and_gradient(lambda r, a: clip(r, a, EPSILON), advantage)
    close(value, values)
    close(gradient, gradients)


def test_clip_reads_one_epsilon_per_run():
    ratio = torch.tensor([[0.5, 1.5], [0.5, 1.5]])
    value = clip(ratio, torch.ones(2, 2), torch.tensor([[0.1], [0.3]]))
    close(value, [[0.5, 1.1], [0.5, 1.3]])
    close(clip(ratio, -torch.ones(2, 2), torch.tensor([[0.1], [0.3]])), [[-0.9, -1.5], [-0.7, -1.5]])


@pytest.mark.parametrize(
    ("advantage", "values", "gradients"),
    [(2.0, [-0.2, 0.9, 1.4, 1.9, 3.0], [1.0, 1.8, 2.0, 2.2, 3.0]),
     (-2.0, [-2.2, -2.7, -2.6, -2.5, -3.0], [-1.0, -1.8, -2.0, -2.2, -3.0])],
)  # fmt: skip
def test_kl_penalty_by_hand(advantage, values, gradients):
    value, gradient = value_and_gradient(lambda r, a: kl_penalty(r, a, KL, BETA), advantage)
    close(value, values)
    close(gradient, gradients)


def test_kl_penalty_falls_by_its_runs_beta_per_nat():
    kl = torch.tensor([[0.1, 0.2], [0.1, 0.2]], requires_grad=True)
    value = kl_penalty(torch.ones(2, 2), torch.zeros(2, 2), kl, torch.tensor([[3.0], [5.0]]))
    (gradient,) = torch.autograd.grad(value.sum(), kl)
    close(value.detach(), [[-0.3, -0.6], [-0.5, -1.0]])
    close(gradient, [[-3.0, -3.0], [-5.0, -5.0]])


@pytest.mark.parametrize("objective", ["unconstrained", "clip", "kl_penalty"])
def test_at_the_old_policy_every_gradient_is_the_policy_gradient(objective):
    rng = np.random.default_rng(0)
    mean = torch.tensor(rng.standard_normal((7, 2)), requires_grad=True)
    log_std = torch.tensor([[0.3, -0.5]], dtype=torch.float64, requires_grad=True)
    action, advantage = torch.tensor(rng.standard_normal((7, 2))), torch.tensor(rng.standard_normal(7))
    old = Gaussian(mean.detach().clone(), log_std.detach().clone())
    new = Gaussian(mean, log_std)
    ratio = torch.exp(new.log_prob(action) - old.log_prob(action))
    match objective:
        case "unconstrained":
            value = unconstrained(ratio, advantage)
        case "clip":
            value = clip(ratio, advantage, EPSILON)
        case _:
            value = kl_penalty(ratio, advantage, old.kl(new), BETA)
    of_mean, of_log_std = torch.autograd.grad(value.sum(), [mean, log_std])

    std = np.exp([0.3, -0.5])
    z = (action.numpy() - mean.detach().numpy()) / std
    weight = advantage.numpy()[:, None]
    np.testing.assert_allclose(of_mean, weight * z / std, rtol=1e-12)
    np.testing.assert_allclose(of_log_std, (weight * (z * z - 1)).sum(0, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(
    "objective",
    [lambda r, a: clip(r, a, torch.tensor([1e9])), lambda r, a: kl_penalty(r, a, KL * r, torch.tensor([0.0]))],
    ids=["clip, ε → ∞", "kl_penalty, β = 0"],
)
def test_without_its_constraint_an_objective_is_exactly_the_unconstrained_one(objective, advantage):
    ratio = np.random.default_rng(1).lognormal(size=5).astype(np.float32).tolist()
    value, gradient = value_and_gradient(objective, advantage, ratio)
    expected_value, expected_gradient = value_and_gradient(unconstrained, advantage, ratio)
    assert torch.equal(value, expected_value)
    assert torch.equal(gradient, expected_gradient)


TARGET = 0.01
LOW, HIGH = TARGET / 1.5, TARGET * 1.5


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.0, 0.5), (np.nextafter(LOW, 0), 0.5), (LOW, 1.0), (np.nextafter(LOW, 1), 1.0), (TARGET, 1.0),
     (np.nextafter(HIGH, 0), 1.0), (HIGH, 1.0), (np.nextafter(HIGH, 1), 2.0), (10.0, 2.0)],
)  # fmt: skip
def test_beta_halves_below_two_thirds_of_the_target_and_doubles_above_three_halves(kl, factor):
    for beta in (1.0, 0.3):
        adapted = adapt_beta(np.array([[beta]]), np.array([[kl]]), np.array([[TARGET]]))
        np.testing.assert_array_equal(adapted, [[beta * factor]], strict=True)


def test_beta_moves_per_run_in_float64_even_for_a_float32_kl():
    kl = np.array([[0.0], [0.01], [1.0]], dtype=np.float32)
    adapted = adapt_beta(np.array([[1.0], [2.0], [3.0]]), kl, np.array([[0.01], [0.01], [0.01]]))
    np.testing.assert_array_equal(adapted, np.array([[0.5], [2.0], [6.0]]), strict=True)


def test_beta_stays_within_its_bounds():
    target = np.array([0.01])
    up = down = np.array([1.0])
    for _ in range(45):
        up, down = adapt_beta(up, np.array([1.0]), target), adapt_beta(down, np.array([0.0]), target)
    np.testing.assert_array_equal(up, [1099511627776.0])
    np.testing.assert_array_equal(down, [1 / 1099511627776.0])
    np.testing.assert_array_equal(adapt_beta(up, np.array([0.0]), target), up / 2)


def test_a_declaration_that_does_not_hold_is_refused_where_it_stands():
    shared = Setting("epsilon", "of a pack", "above 0")
    with pytest.raises(TypeError, match="objective nothing has no function to maximise"):
        check_reads(Objective("nothing"))
    with pytest.raises(TypeError, match="objective odd reads ratios: neither one of advantage, ratio"):
        check_reads(Objective("odd", lambda ratios, advantage: ratios * advantage))
    with pytest.raises(TypeError, match=r"objective odd reads epsilon: .* a setting of its own with per_run=True"):
        check_reads(Objective("odd", clip, (shared,)))
    check_reads(Objective("odd", clip, (Setting("epsilon", "of a run", "above 0", per_run=True),)))
    with pytest.raises(TypeError, match="the setting epsilon is declared in two ways"):
        by_name((shared, Setting("epsilon", "of a run", "above 0", per_run=True)))
    assert by_name((shared, shared)) == {"epsilon": shared}
    with pytest.raises(TypeError, match=r"objective odd: label eps is none of its settings \(epsilon\)"):
        Objective("odd", clip, (shared,), label="eps")
    with pytest.raises(TypeError, match=r"objective odd: adapts beta is none of its settings \(epsilon\)"):
        Objective("odd", clip, (shared,), adapts=("beta",))
    with pytest.raises(
        TypeError, match=r"objective odd: epsilon has no tries=\(…\), two values that traces and tests use"
    ):
        _ = Objective("odd", clip, (shared,)).example
    with pytest.raises(TypeError, match="stepsize: a field has this name already; give the setting another one"):
        refuse_taken(("epsilon", "stepsize"), {"horizon", "stepsize"})
