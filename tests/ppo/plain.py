"""Plain single-agent PyTorch, to compare with: nn.Linear layers, torch.distributions, a loop for GAE."""

import numpy as np
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from ppo.randomness import generator

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "elu": torch.nn.functional.elu}


class Agent(torch.nn.Module):
    """One run's networks, copied from its row of a pack."""

    def __init__(self, pack, row):
        super().__init__()
        views = pack.learner.model.network.views(pack.learner.flat.detach().clone())
        trunks = ("trunk", "trunk") if pack.profile.shared_trunk else ("policy", "value")
        depth = len(pack.profile.hidden_sizes)
        columns = {"policy.head": pack.spaces.action_size, "value.head": 1}
        layers = [f"{trunk}.{i}" for trunk in dict.fromkeys(trunks) for i in range(depth)]
        self.layers, self.paths = torch.nn.ModuleDict(), {}
        for name in [*layers, *columns]:
            weight, bias = (views[f"{name}.{kind}"][row][:, : columns.get(name)] for kind in ("weight", "bias"))
            layer = torch.nn.Linear(*weight.shape)
            layer.load_state_dict({"weight": weight.T, "bias": bias[0]})
            self.layers[name.replace(".", "_")] = layer
        for head, trunk in zip(("policy", "value"), trunks, strict=True):
            self.paths[head] = [f"{trunk}_{i}" for i in range(depth)]
        self.log_std = None if pack.spaces.discrete else torch.nn.Parameter(views["log_std"][row][0].clone())
        self.activation = ACTIVATIONS[pack.profile.activation]

    def head(self, name, x):
        for layer in self.paths[name]:
            x = self.activation(self.layers[layer](x))
        return self.layers[f"{name}_head"](x)

    def value(self, x):
        return self.head("value", x)[:, 0]

    def policy(self, x):
        output = self.head("policy", x)
        return (
            Categorical(logits=output) if self.log_std is None else Independent(Normal(output, self.log_std.exp()), 1)
        )


class TensorFlowAdam(torch.optim.Optimizer):
    def __init__(self, parameters, lr, eps):
        super().__init__(parameters, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            state["t"] += 1
            state["m"] = 0.9 * state["m"] + 0.1 * p.grad
            state["v"] = 0.999 * state["v"] + 0.001 * p.grad**2
            lr = group["lr"] * (1 - 0.999 ** state["t"]) ** 0.5 / (1 - 0.9 ** state["t"])
            p -= lr * state["m"] / (state["v"].sqrt() + group["eps"])


class Trainer:
    """One run's agent, optimiser and β."""

    def __init__(self, pack, row):
        self.run, self.row, self.agent = pack.runs[row], row, Agent(pack, row)
        self.profile, self.algo, self.beta = self.run.profile, self.run.algo, self.run.algo.beta
        self.stepsize = self.profile.stepsize
        self.optimiser, self.of_value = self.new_optimiser(), self.new_optimiser()
        self.average = Agent(pack, row)

    def new_optimiser(self):
        profile, parameters = self.profile, self.agent.parameters()
        if profile.optimiser != "adam":
            rmsprop = RMSpropTFLike if profile.optimiser == "rmsprop_tensorflow" else torch.optim.RMSprop
            return rmsprop(parameters, lr=profile.stepsize, alpha=profile.rmsprop_decay, eps=profile.rmsprop_epsilon)
        adam = torch.optim.Adam if profile.adam_epsilon_at == "corrected" else TensorFlowAdam
        return adam(parameters, lr=profile.stepsize, eps=profile.adam_epsilon)

    def rewards(self, rollout):
        profile, raw = self.profile, rollout.rewards[self.row]
        if not profile.scale_rewards:
            return raw
        scaled, returns, discounted = [], [], np.zeros(profile.actors)
        for reward, end in zip(raw.T, rollout.ended[self.row].T, strict=True):
            discounted = profile.gamma * discounted + reward
            returns.extend(discounted)
            total = 1e-4 + len(returns)
            variance = (1e-4 + np.square(returns).sum()) / total - (np.sum(returns) / total) ** 2
            scaled.append(reward / np.sqrt(variance + 1e-8))
            discounted = np.where(end, 0.0, discounted)
        return np.clip(scaled, -profile.reward_clip, profile.reward_clip).T

    def advantages(self, rollout):
        """(advantages, value targets, old values), one actor and segment after another."""
        rewards, size = self.rewards(rollout), self.profile.segment or self.profile.horizon
        each = [
            self.advantages_of(
                rollout, rewards[actor][start : start + size], (self.row, actor, slice(start, start + size))
            )
            for actor in range(self.profile.actors)
            for start in range(0, self.profile.horizon, size)
        ]
        return tuple(np.concatenate(arrays) for arrays in zip(*each, strict=True))

    def advantages_of(self, rollout, rewards, here):
        profile, algo = self.profile, self.algo
        with torch.no_grad():
            values = self.agent.value(torch.tensor(rollout.x[here])).double().numpy()
            following = self.agent.value(torch.tensor(rollout.next_x[here])).double().numpy()
        over = rollout.terminated[here] | rollout.truncated[here]
        dead = over if profile.time_limit == "terminal" else rollout.terminated[here]
        worth = np.where(dead, 0.0, following)
        if algo.advantage == "gae":
            advantages, running = np.zeros(len(rewards)), 0.0
            for t in reversed(range(len(rewards))):
                delta = rewards[t] + profile.gamma * worth[t] - values[t]
                running = delta + (0.0 if over[t] else profile.gamma * algo.gae_lambda * running)
                advantages[t] = running
            return advantages, advantages + values, values

        returns, last = np.zeros(len(rewards)), len(rewards) - 1
        for t in range(len(rewards)):
            for k in range(t, len(rewards)):
                returns[t] += profile.gamma ** (k - t) * rewards[k]
                if over[k] or k == last or k - t + 1 == algo.n_step:
                    returns[t] += profile.gamma ** (k - t + 1) * worth[k]
                    break
        if algo.advantage == "whole_return":
            starts = [max(k for k in range(t + 1) if k == 0 or over[k - 1]) for t in range(len(returns))]
            return returns[starts], returns, values
        return returns - (values if algo.advantage == "n_step" else 0.0), returns, values

    def observations(self, rollout):
        if self.profile.observation_filter != "per_rollout":
            return np.concatenate(rollout.x[self.row])
        seen, profile = np.concatenate(rollout.observations[self.row]), self.profile
        total = profile.filter_prior + len(seen)
        mean = seen.sum(axis=0) / total
        variance = (profile.filter_prior + (seen**2).sum(axis=0)) / total - mean**2
        return np.clip((seen - mean) / np.sqrt(variance), -profile.filter_clip, profile.filter_clip)

    def update(self, rollout, iteration, alpha):
        profile, algo, agent = self.profile, self.algo, self.agent
        advantages, targets, values = self.advantages(rollout)
        if profile.standardise == "rollout":
            advantages = (advantages - np.mean(advantages)) / (np.std(advantages) + profile.standardise_epsilon)
        x, actions = (
            torch.tensor(self.observations(rollout)).float(),
            torch.tensor(np.concatenate(rollout.actions[self.row])),
        )
        advantages, targets, values = (torch.tensor(a).float() for a in (advantages, targets, values))
        with torch.no_grad():
            old_log_prob = agent.policy(x).log_prob(actions)
        old, average = self.frozen_policy(self.agent, x), self.frozen_policy(self.average, x)
        if profile.stepsize_schedule == "linear":
            self.stepsize = profile.stepsize * alpha
        self.optimiser.param_groups[0]["lr"] = self.stepsize
        annealed = alpha if profile.epsilon_schedule == "linear" else 1
        epsilon = algo.epsilon and algo.epsilon * annealed
        over = np.concatenate(rollout.terminated[self.row] | rollout.truncated[self.row])
        over[(profile.segment or profile.horizon) - 1 :: profile.segment or profile.horizon] = True
        trajectory = np.array([over[:t].sum() for t in range(len(over))])

        def of_policy(i, advantage):
            policy = agent.policy(x[i])
            log_ratio = policy.log_prob(actions[i]) - old_log_prob[i]
            objective = log_ratio.exp() * advantage
            match algo.objective:
                case "clip":
                    objective = torch.min(objective, log_ratio.exp().clamp(1 - epsilon, 1 + epsilon) * advantage)
                case "policy_gradient":
                    objective = policy.log_prob(actions[i]) * advantage
                case "trajectory_ratio":
                    weight = [log_ratio.detach()[trajectory[i] == trajectory[k]].sum().exp() for k in i]
                    objective = policy.log_prob(actions[i]) * advantage * torch.stack(weight)
                case "projected":
                    objective = self.projected(agent.head("policy", x[i]), average(i), actions[i], advantage)
            if self.beta is not None:
                objective = objective - self.beta * kl_divergence(old(i), policy)
            return -objective.mean() - profile.entropy_coef * policy.entropy().mean()

        def of_value(i):
            value = agent.value(x[i])
            error = (value - targets[i]) ** 2
            if profile.value_clip is not None:
                bound = profile.value_clip * annealed
                clipped = values[i] + (value - values[i]).clamp(-bound, bound)
                error = torch.max(error, (clipped - targets[i]) ** 2)
            return profile.value_coef * error.mean()

        def move(optimiser, loss):
            optimiser.zero_grad()
            loss.backward()
            if profile.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(agent.parameters(), profile.max_grad_norm)
            optimiser.step()

        def per_minibatch(advantage):
            if profile.standardise != "minibatch":
                return advantage
            return (advantage - advantage.mean()) / (advantage.std(correction=0) + profile.standardise_epsilon)

        separate, unit = profile.value_fit == "separate", profile.segment or 1
        if separate:
            move(self.optimiser, of_policy(np.arange(len(x)), per_minibatch(advantages)))
            self.of_value.param_groups[0]["lr"] = profile.value_stepsize
        units = np.tile(np.arange(len(x) // unit), (profile.epochs, 1))
        orders = generator(self.run.seed, "minibatch", iteration).permuted(units, axis=1)
        for order in orders:
            order = np.concatenate([np.arange(k * unit, (k + 1) * unit) for k in order])
            for i in np.split(order, len(x) // profile.minibatch_size):
                if separate:
                    move(self.of_value, of_value(i))
                    continue
                move(self.optimiser, of_policy(i, per_minibatch(advantages[i])) + of_value(i))

        with torch.no_grad():
            kl = kl_divergence(old(np.arange(len(x))), agent.policy(x)).mean().item()
            if algo.average_decay:
                for slow, fast in zip(self.average.parameters(), agent.parameters(), strict=True):
                    slow += (1 - algo.average_decay) * (fast - slow)
        if algo.objective == "kl_adaptive":
            self.beta *= 0.5 if kl < algo.kl_target / 1.5 else 2.0 if kl > 1.5 * algo.kl_target else 1.0
        if profile.stepsize_schedule == "kl":
            low, high = profile.stepsize_kl_target / 2, profile.stepsize_kl_target * 2
            self.stepsize *= 1 / 1.5 if kl > high else 1.5 if kl < low else 1.0

    def projected(self, output, average, action, advantage):
        """ACER's eq. 12 with the gradients of both distributions by hand."""
        if self.agent.log_std is None:
            parameters, p = [output], output.softmax(-1).detach()
            g = [advantage[:, None] * (torch.nn.functional.one_hot(action, output.shape[1]) - p)]
            k = [p - average.probs]
        else:
            parameters = [output, self.agent.log_std.expand_as(output)]
            mean, std = (each.detach() for each in (output, parameters[1].exp()))
            z = (action - mean) / std
            g = [advantage[:, None] * z / std, advantage[:, None] * (z**2 - 1)]
            gap = mean - average.base_dist.loc
            k = [gap / std**2, 1 - (average.base_dist.scale**2 + gap**2) / std**2]
        g, k = torch.cat(g, 1), torch.cat(k, 1)
        excess = ((g * k).sum(1) - self.algo.delta) / ((k**2).sum(1) + 1e-6)
        self.projections = int((excess > 0).sum())
        return ((g - excess.clamp(min=0)[:, None] * k) * torch.cat(parameters, 1)).sum(1)

    def frozen_policy(self, agent, x):
        """Rows → what the agent's policy is now at those steps."""
        with torch.no_grad():
            output = agent.head("policy", x)
        if agent.log_std is None:
            return lambda i: Categorical(logits=output[i])
        std = agent.log_std.detach().exp()
        return lambda i: Independent(Normal(output[i], std), 1)
