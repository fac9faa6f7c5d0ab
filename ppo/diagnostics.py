"""What an update did: the updated policy against the old one, over the whole rollout."""

import numpy as np
import torch

from ppo.actor_critic import ActorCritic, Views
from ppo.losses import Batch, Coefficients, Rows, loss


@torch.no_grad()
def diagnostics(model: ActorCritic, views: Views, rows: Rows, whole: Batch, c: Coefficients) -> dict[str, np.ndarray]:
    """The updated policy, `views`, against the old one on the whole rollout, (R,) each.

    kl: exact, KL[π_θold, π_θ]; kl_k1 and kl_k3: the sample estimators −log r and r − 1 − log r
    (http://joschu.net/blog/kl-approx.html); clip_fraction: share of ratios outside 1 ± ε, NaN without ε.
    """
    assert whole.old is not None
    output, value = model.outputs_and_values(views, whole.x)
    new = model.distribution(views, output)
    log_ratio = new.log_prob(whole.action) - whole.log_prob
    ratio = torch.exp(log_ratio)
    epsilon = c.settings["epsilon"]
    outside = (ratio - 1).abs() > epsilon
    parts = loss(rows, new, value, whole, c)
    metrics = {
        "kl": whole.old.kl(new).mean(-1),
        "kl_k1": -log_ratio.mean(-1),
        "kl_k3": (ratio - 1 - log_ratio).mean(-1),
        "clip_fraction": torch.where(epsilon[:, 0].isnan(), torch.nan, outside.float().mean(-1)),
        "entropy": parts["entropy"],
        "policy_loss": parts["policy_loss"],
        "value_loss": parts["value_loss"],
    }
    if "log_std" in views:
        metrics["std"] = torch.exp(views["log_std"]).mean((1, 2))
    return {name: values.cpu().numpy() for name, values in metrics.items()}


def explained_variance(values: np.ndarray, value_target: np.ndarray) -> np.ndarray:
    """1 − Var[target − V] / Var[target] per run, (R,): 1 is perfect, 0 no better than the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (value_target - values).var(axis=-1) / value_target.var(axis=-1)
