"""Proximal policy optimisation, and whatever else maximises a surrogate by minibatch steps (Algorithm 1).

An update reads: estimate Â_t, then K epochs of minibatches of size M on the loss, then θ_old ← θ.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppo.batches import inputs_of, merged, minibatches, standardised, trajectories
from ppo.declarations import arguments
from ppo.diagnostics import diagnostics, explained_variance
from ppo.learner import Learner, column
from ppo.losses import Batch, Coefficients, joint_gradient, policy_gradient, rows_of, value_gradient
from ppo.normalisation import ObservationFilter
from ppo.numerics import variant
from ppo.objectives import adapt_stepsize
from ppo.policies import Distribution
from ppo.spaces import Spaces

if TYPE_CHECKING:
    from ppo.config import RunConfig
    from ppo.rollout import Rollout


class Surrogate(Learner):
    """R runs that each maximise the surrogate of their own objective."""

    learns = True
    trains_critic = True

    def __init__(self, runs: Sequence["RunConfig"], spaces: Spaces):
        super().__init__(runs, spaces)
        self.rows = rows_of([run.algo.declared for run in runs])
        self.reads = {name for objective, _ in self.rows for name in objective.reads}
        self.leaves = self.model.leaves(self.flat)

    def update(self, rollout: "Rollout", observation_filter: ObservationFilter, number: int) -> dict[str, np.ndarray]:
        """One update of every run.

        Losses, KL, ratio and entropy are measured after the last epoch over the whole rollout, under the update's own
        filter statistics.
        """
        advantage, value_target, values = self.estimate(rollout)
        x = inputs_of(rollout, observation_filter)
        whole = self.whole_rollout(x, rollout, advantage, value_target)
        scheduled = self.scheduled(number)
        c = self.coefficients(scheduled)
        before = self.flat.clone()
        self.optimise(whole, c, self.model.tensor(scheduled["stepsize"]), number)
        metrics = diagnostics(self.model, self.views, self.rows, whole, c)
        metrics["update_norm"] = torch.linalg.vector_norm(self.flat - before, dim=1).cpu().numpy()
        metrics["explained_variance"] = explained_variance(values, value_target)
        metrics |= {name: scheduled[name][:, 0].copy() for name in ("stepsize", "epsilon", "beta")}
        self.adapt(metrics["kl"][:, None])
        return {name: values.astype(np.float64) for name, values in metrics.items()}

    def estimate(self, rollout: "Rollout") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Advantages, value targets and old values, (R, N·T) float64 each, under the statistics of the rollout."""
        rewards = self.reward_scale.scale(rollout.rewards, rollout.ended)
        terminated = rollout.ended if self.profile.time_limit == "terminal" else rollout.terminated
        segment = self.profile.segment or self.profile.horizon
        values, next_values, rewards, terminated, ended = (
            array.reshape(len(self.runs), -1, segment)
            for array in (*self.old_values(rollout), rewards, terminated, rollout.ended)
        )
        estimator = self.algo.estimator
        known = {
            "rewards": rewards, "values": values, "next_values": next_values, "terminated": terminated, "ended": ended,
            "gamma": column(self.runs, "gamma")[..., None],
            **{each.name: self.settings[each.name][..., None] if each.per_run else getattr(self.algo, each.name)
               for each in estimator.settings},
        }  # fmt: skip
        estimate = estimator.function(**arguments(estimator.function, known))
        advantage, value_target, values = map(merged, (*estimate, values))
        at_once = self.profile.value_fit == "separate"  # the policy's one minibatch is the whole rollout
        if self.profile.standardise == "rollout" or (at_once and self.profile.standardise == "minibatch"):
            advantage = standardised(advantage, self.profile.standardise_epsilon)
        return advantage, value_target, values

    def old_values(self, rollout: "Rollout") -> tuple[np.ndarray, np.ndarray]:
        """V_θold of x and of next_x, (R, N, T) float64 each. Frames are dear: where no final observation is worth
        anything, a step's next value is the next step's."""

        def of(x: np.ndarray) -> np.ndarray:
            return self.values(merged(x)).astype(np.float64).reshape(x.shape[:3])

        values = of(rollout.x)
        if not self.model.spaces.frames or self.profile.time_limit == "bootstrap":
            return values, of(rollout.next_x)
        return values, np.concatenate([values[:, :, 1:], of(rollout.next_x[:, :, -1:])], axis=2)

    @torch.no_grad()
    def whole_rollout(
        self, x: np.ndarray, rollout: "Rollout", advantage: np.ndarray, value_target: np.ndarray
    ) -> Batch:
        """The rollout as one batch, (R, N·T), with π_θold and V_θold evaluated once, both under the statistics of
        `x`."""
        model, inputs, action = self.model, self.model.tensor(x), self.model.tensor(merged(rollout.actions))
        output, old_value = model.outputs_and_values(self.views, inputs)
        old = kept(model.distribution(self.views, output), output)
        average = None
        if self.average is not None:
            views = model.network.views(self.average)
            average = kept(model.distribution(views, model.policy_outputs(views, inputs)), output)
        trajectory = None
        if "trajectory" in self.reads:
            trajectory = model.tensor(trajectories(rollout.ended, self.profile.segment or self.profile.horizon))
        clipped = old_value if self.profile.value_clip is not None else None
        targets = model.tensor(advantage), model.tensor(value_target)
        return Batch(inputs, action, old.log_prob(action), *targets, old, clipped, average, trajectory)

    def scheduled(self, number: int) -> dict[str, np.ndarray]:
        """The stepsize, the value clip and the objectives' settings at rollout `number`, (R, 1) float64 each.

        α falls linearly from 1 over the budget, and is taken at the rollout's start (section 6.4).
        """
        alpha = 1 - number / (self.runs[0].iterations * self.profile.rollouts)
        of_stepsize = alpha if self.profile.stepsize_schedule == "linear" else 1.0
        of_epsilon = alpha if self.profile.epsilon_schedule == "linear" else 1.0
        known = self.algo.known_settings
        return {
            "stepsize": self.stepsize * of_stepsize,
            "value_clip": column(self.runs, "value_clip") * of_epsilon,  # as baselines does, which clips both by ε
            **{name: start * (of_epsilon if known[name].annealed else 1.0) for name, start in self.settings.items()},
        }

    def coefficients(self, scheduled: dict[str, np.ndarray]) -> Coefficients:
        """What the loss reads, as tensors."""
        tensor = self.model.tensor
        return Coefficients(
            settings={name: tensor(scheduled[name]) for name in self.settings},
            value_coef=tensor(column(self.runs, "value_coef")),
            value_clip=tensor(scheduled["value_clip"]),
            entropy_coef=tensor(column(self.runs, "entropy_coef")),
            count=self.profile.batch,
        )

    def optimise(self, whole: Batch, c: Coefficients, stepsize: Tensor, number: int) -> None:
        """K epochs of minibatch steps on the loss; on V alone where the policy moves once, before (value_fit)."""
        step, optimiser = joint_step, self.optimisers[0]
        if self.profile.value_fit == "separate":
            self.move_policy(whole, c, stepsize)
            step, optimiser = value_step, self.optimisers[1]
            if self.profile.value_stepsize is not None:
                stepsize = torch.full_like(stepsize, self.profile.value_stepsize)
        step = variant(step, self.numerics)
        needed = replace(whole, old=whole.old if self.reads & {"kl", "old"} else None)
        for batch in minibatches(needed, self.profile, [run.seed for run in self.runs], number):
            bias, epsilon = optimiser.next_step()
            step(self, batch, c, stepsize * bias, epsilon)

    def move_policy(self, whole: Batch, c: Coefficients, stepsize: Tensor) -> None:
        """The one step of every run's policy on the whole rollout (profile.value_fit=separate)."""
        bias, epsilon = self.optimisers[0].next_step()
        gradient = policy_gradient(self.model, self.leaves, self.rows, whole, c)
        self.optimisers[0].move(gradient, stepsize * bias, epsilon)

    def adapt(self, kl: np.ndarray) -> None:
        """What the next update takes from this one's mean KL, (R, 1): β, the stepsize, the average policy."""
        for objective, rows in self.rows:
            if objective.adapt is not None:
                known = {name: values[rows] for name, values in self.settings.items()} | {"kl": kl[rows]}
                for name, values in objective.adapt(**arguments(objective.adapt, known)).items():
                    self.settings[name][rows] = values
        if self.profile.stepsize_kl_target is not None:
            self.stepsize = adapt_stepsize(self.stepsize, kl, self.profile.stepsize_kl_target)
        if self.average is not None:
            self.average.lerp_(self.flat, 1 - self.algo.average_decay)


def joint_step(learner: Surrogate, batch: Batch, c: Coefficients, rate: Tensor, epsilon: Tensor) -> None:
    """One step of every run on the joint loss, in place."""
    gradient = joint_gradient(learner.model, fresh_leaves(learner), learner.rows, batch, c)
    learner.optimisers[0].move(gradient, rate, epsilon)


def value_step(learner: Surrogate, batch: Batch, c: Coefficients, rate: Tensor, epsilon: Tensor) -> None:
    """One step of every run's value network alone, in place."""
    gradient = value_gradient(learner.model, fresh_leaves(learner), batch, c)
    learner.optimisers[1].move(gradient, rate, epsilon)


def fresh_leaves(learner: Surrogate) -> dict[str, Tensor]:
    """The parameters to differentiate by. Compiled code must make its own views: handed tensors that share memory, it
    copies them all."""
    return learner.model.leaves(learner.flat) if torch.compiler.is_compiling() else learner.leaves


def kept(distribution: Distribution, output: Tensor) -> Distribution:
    """The distribution of every sample, in memory of its own: its parameters move on."""
    return distribution.map(lambda parameter: parameter.expand_as(output).clone())
