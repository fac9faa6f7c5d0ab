import numpy as np
import pytest
import torch
from scipy import stats

from ppo.policies import Categorical, Gaussian, distribution_class
from ppo.refusals import UserError

SAMPLES = 100_000
MEAN, LOG_STD = np.array([0.7, -1.2]), np.array([-0.4, 0.6])
OTHER_MEAN, OTHER_LOG_STD = np.array([0.1, -0.8]), np.array([0.2, 0.3])
LOGITS, OTHER_LOGITS = np.array([2.0, -1.0, 0.5, 3.0]), np.array([0.0, 1.0, 1.5, 2.0])


def gaussian(mean=MEAN, log_std=LOG_STD):
    return Gaussian(torch.tensor(mean), torch.tensor(log_std))


def categorical(logits=LOGITS):
    return Categorical(torch.tensor(logits))


def within_three_sigma(samples, expected):
    sigma = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert (sigma > 0).all()
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - expected), 3 * sigma)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_agrees_with_torch_distributions(seed):
    rng = np.random.default_rng(seed)
    mean, new_mean, action = (torch.tensor(rng.standard_normal((2, 5, 3))) for _ in range(3))
    log_std, new_log_std = (torch.tensor(rng.standard_normal((2, 1, 3))) for _ in range(2))
    ours, new = Gaussian(mean, log_std), Gaussian(new_mean, new_log_std)
    theirs, theirs_new = (
        torch.distributions.Independent(torch.distributions.Normal(m, s.exp()), 1)
        for m, s in ((mean, log_std), (new_mean, new_log_std))
    )
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy().expand(2, 5), theirs.entropy())
    torch.testing.assert_close(ours.kl(new), torch.distributions.kl_divergence(theirs, theirs_new))


@pytest.mark.parametrize("seed", range(3))
def test_categorical_agrees_with_torch_distributions(seed):
    rng = np.random.default_rng(seed)
    logits, new_logits = (torch.tensor(4 * rng.standard_normal((2, 5, 3))) for _ in range(2))
    action = torch.tensor(rng.integers(3, size=(2, 5)))
    ours, new = Categorical(logits), Categorical(new_logits)
    theirs, theirs_new = (torch.distributions.Categorical(logits=x) for x in (logits, new_logits))
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(new), torch.distributions.kl_divergence(theirs, theirs_new))


def test_gaussian_density_integrates_to_one():
    grid = np.linspace(-12, 12, 1201)
    points = torch.tensor(np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1))
    density = gaussian().log_prob(points).exp().numpy()
    assert np.trapezoid(np.trapezoid(density, grid), grid) == pytest.approx(1, abs=1e-6)


def test_categorical_probabilities_sum_to_one():
    probabilities = categorical(np.tile(LOGITS, (4, 1))).log_prob(torch.arange(4)).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)


def test_gaussian_entropy_and_kl_match_monte_carlo():
    action = np.random.default_rng(0).normal(MEAN, np.exp(LOG_STD), size=(SAMPLES, 2))
    log_prob = stats.norm.logpdf(action, MEAN, np.exp(LOG_STD)).sum(-1)
    other = stats.norm.logpdf(action, OTHER_MEAN, np.exp(OTHER_LOG_STD)).sum(-1)
    within_three_sigma(-log_prob, gaussian().entropy().item())
    within_three_sigma(log_prob - other, gaussian().kl(gaussian(OTHER_MEAN, OTHER_LOG_STD)).item())


def test_categorical_entropy_and_kl_match_monte_carlo():
    p, q = softmax(LOGITS), softmax(OTHER_LOGITS)
    action = np.random.default_rng(0).choice(4, size=SAMPLES, p=p)
    within_three_sigma(-np.log(p)[action], categorical().entropy().item())
    within_three_sigma(np.log(p / q)[action], categorical().kl(categorical(OTHER_LOGITS)).item())


def test_kl_and_its_gradient_vanish_at_equal_policies():
    mean, log_std = torch.tensor(MEAN, requires_grad=True), torch.tensor(LOG_STD, requires_grad=True)
    logits = torch.tensor(LOGITS, requires_grad=True)
    for kl, parameters in (
        (gaussian().kl(Gaussian(mean, log_std)), [mean, log_std]),
        (categorical().kl(Categorical(logits)), [logits]),
    ):
        assert kl.item() == 0
        for gradient in torch.autograd.grad(kl, parameters):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_gaussian_actions_are_the_mean_plus_the_scaled_noise():
    noise = np.array([[1.0, -2.0], [0.0, 0.5]])[None, None]
    scale = Gaussian.scale({"log_std": np.log([[[0.5, 3.0]]])})
    np.testing.assert_allclose(Gaussian.act(np.array([1.0, 2.0]), scale * noise)[0, 0], [[1.5, -4.0], [1.0, 3.5]])


def test_gaussian_actions_have_the_mean_and_std_of_the_policy():
    noise = Gaussian.noise(np.random.default_rng(3), SAMPLES, 2)
    scale = Gaussian.scale({"log_std": np.asarray(LOG_STD)[None, None]})
    actions = Gaussian.act(np.asarray(MEAN), scale * noise[None, None])[0, 0]
    within_three_sigma(actions, MEAN)
    within_three_sigma(np.square(actions - MEAN), np.exp(2 * np.asarray(LOG_STD)))
    within_three_sigma(np.prod(actions - MEAN, axis=1), 0)


def test_categorical_actions_have_the_frequencies_of_the_policy():
    noise = Categorical.noise(np.random.default_rng(3), SAMPLES, 4)
    samples = Categorical.act(np.asarray(LOGITS), Categorical.scale({}) * noise)
    counts = np.bincount(samples, minlength=4)
    # All four frequencies in one test at the level of 3σ; four tests would fail four times as often.
    assert stats.chisquare(counts, SAMPLES * softmax(LOGITS)).pvalue > 2 * stats.norm.sf(3)


@pytest.mark.parametrize(
    ("wanted", "discrete", "expected"),
    [("auto", True, Categorical), ("auto", False, Gaussian), ("categorical", True, Categorical),
     ("gaussian", False, Gaussian)],
)  # fmt: skip
def test_the_distribution_follows_the_action_space(wanted, discrete, expected):
    assert distribution_class(wanted, discrete, "CartPole-v1") is expected


@pytest.mark.parametrize(("wanted", "discrete", "fitting"), [("gaussian", True, "categorical"),
                                                             ("categorical", False, "gaussian")])  # fmt: skip
def test_the_other_distribution_is_refused_naming_the_task_and_the_fitting_one(wanted, discrete, fitting):
    with pytest.raises(UserError, match=rf"{wanted}.*CartPole-v1.*{fitting}"):
        distribution_class(wanted, discrete, "CartPole-v1")
