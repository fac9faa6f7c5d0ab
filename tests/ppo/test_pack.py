"""A run is the same run alone and in any pack, bit for bit; and no member disturbs another."""

import hashlib
from dataclasses import replace
from itertools import islice

import gymnasium
import numpy as np
import pytest
import torch

from experiments.trace import ALGOS
from ppo.config import Algo, Env, RunConfig
from ppo.losses import Batch, surrogate
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.rollout import collect
from ppo.train import Iteration, train
from tests.conftest import PROFILES, ROWS, small_run

SIZES = (1, 2, 3, 5, 8, 9, 17)
ENVIRONMENTS = {"InvertedPendulum-v4": 1, "Reacher-v4": 2, "Hopper-v4": 3, "HalfCheetah-v4": 6, "CartPole-v1": 2}


def traces(runs: list[RunConfig]) -> dict[RunConfig, str]:
    """A digest of each run's episodes, diagnostics and final state."""
    pack = Pack(runs)
    digests = {run: hashlib.sha256() for run in pack.runs}
    for iteration in train(pack):
        for row, run in enumerate(pack.runs):
            values = [float(iteration.metrics[name][row]) for name in sorted(iteration.metrics)]
            digests[run].update(repr((iteration.episodes[row], values)).encode())
    for row, run in enumerate(pack.runs):
        digests[run].update(
            pack.learner.flat[row].numpy().tobytes() + pack.learner.optimisers[0].square[row].numpy().tobytes()
        )
        digests[run].update(repr(pack.filter.state_dict(row)).encode())
    return {run: digest.hexdigest() for run, digest in digests.items()}


def eleven_rows_by_three_seeds(env: str, **changes: object) -> list[RunConfig]:
    return [small_run(seed, 2, env, algo=algo, **changes) for seed in range(3) for algo in ROWS]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_run_is_the_same_run_in_packs_of_every_size(env: str) -> None:
    runs = eleven_rows_by_three_seeds(env)
    together = traces(runs)
    assert len(set(together.values())) >= 27  # the three d_targ may still walk the same β
    rng = np.random.default_rng(0)
    for size in SIZES:
        some = [runs[i] for i in rng.choice(33, size, replace=False)]
        assert traces(some) == {run: together[run] for run in some}, f"pack of {size}"


@pytest.mark.parametrize("base", PROFILES)
def test_every_profile_is_pack_equal(base: str) -> None:
    runs = eleven_rows_by_three_seeds("Hopper-v4", base=base)
    together = traces(runs)
    for some in (runs[4:5], runs[:8]):
        assert traces(some) == {run: together[run] for run in some}


def test_the_full_horizon_is_pack_equal() -> None:
    full = {"horizon": 2048, "epochs": 1}
    runs = [small_run(seed, 1, "HalfCheetah-v4", profile=full) for seed in range(33)]
    assert traces(runs[7:8]) == {runs[7]: traces(runs)[runs[7]]}


def test_other_shapes_of_network_are_pack_equal() -> None:
    other = {"shared_trunk": True, "activation": "relu", "hidden_sizes": (40, 24), "standardise": "minibatch"}
    runs = eleven_rows_by_three_seeds("Hopper-v4", profile=other)
    together = traces(runs)
    for some in (runs[20:21], runs[5:10]):
        assert traces(some) == {run: together[run] for run in some}


def test_runs_of_several_actors_are_pack_equal() -> None:
    runs = eleven_rows_by_three_seeds("Hopper-v4", base="ppo2_2018", profile={"actors": 4, "horizon": 64})
    together = traces(runs)
    for some in (runs[20:21], runs[5:10]):
        assert traces(some) == {run: together[run] for run in some}


@pytest.mark.parametrize("algo", ALGOS, ids=lambda algo: f"{algo.objective} {algo.advantage}")
@pytest.mark.parametrize("env", ["Hopper-v4", "CartPole-v1"])
def test_every_algorithm_is_pack_equal(algo: Algo, env: str) -> None:
    runs = [small_run(seed, 2, env, algo=algo, profile={"horizon": 64, **ALGOS[algo]}) for seed in range(5)]
    together = traces(runs)
    assert len(set(together.values())) == 5
    for some in (runs[3:4], runs[1:4]):
        assert traces(some) == {run: together[run] for run in some}


@pytest.mark.parametrize("algo", ALGOS, ids=lambda algo: f"{algo.objective} {algo.advantage}")
def test_every_algorithm_goes_on_from_its_state(algo: Algo) -> None:
    """In the midst of episodes, of a generation, of β's and the stepsize's way."""
    profile = {"horizon": 64, **ALGOS[algo]}
    runs = [small_run(seed, 4, "CartPole-v1", algo=algo, profile=profile) for seed in range(2)]
    whole, parts = Pack(runs), Pack(runs)
    undisturbed = [said(iteration) for iteration in train(whole)]
    first = [said(iteration) for iteration in islice(train(parts), 2)]
    states = [parts.state_dict(row) for row in range(2)]
    resumed = Pack(runs)
    resumed.load_state_dicts(states)
    assert first + [said(iteration) for iteration in train(resumed)] == undisturbed
    assert torch.equal(resumed.learner.flat, whole.learner.flat)


def said(iteration: Iteration) -> str:
    return repr((iteration.episodes, {name: values.tolist() for name, values in iteration.metrics.items()}))


@pytest.mark.parametrize("objective", ["random", "initial"])
def test_policies_that_do_not_learn_are_pack_equal_and_keep_their_parameters(objective: str) -> None:
    runs = [small_run(seed, 2, "Hopper-v4", algo=replace(ROWS[0], objective=objective)) for seed in range(5)]
    assert traces(runs[3:4]) == {runs[3]: traces(runs)[runs[3]]}
    pack = Pack(runs)
    before = pack.learner.flat.clone()
    assert all(not iteration.metrics for iteration in train(pack))
    assert (pack.learner.flat == before).all()


class OneNumber(gymnasium.Env):
    """Drifts, and is pushed back: an observation of one number."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.normal()), 0
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.x, self.t = 0.9 * self.x + float(action[0]), self.t + 1
        return np.array([self.x], np.float32), -(self.x**2), False, self.t >= 20, {}


def test_a_task_that_shows_one_number_is_pack_equal() -> None:
    gymnasium.register("OneNumber-v0", entry_point=OneNumber)
    try:
        runs = [
            replace(small_run(seed), env=Env("OneNumber-v0"), backend="gymnasium", algo=ROWS[0]) for seed in range(3)
        ]
        together = traces(runs)
        assert all(traces([run])[run] == together[run] for run in runs)
    finally:
        del gymnasium.registry["OneNumber-v0"]


def test_a_member_that_diverges_leaves_its_mates_bytes_alone() -> None:
    runs = [small_run(seed, 4, "Hopper-v4") for seed in range(4)]
    wild = replace(runs[2], profile=replace(runs[2].profile, stepsize=1e37))
    healthy = traces([runs[0], runs[1], runs[3]])
    beside_it = traces([runs[0], runs[1], wild, runs[3]])
    assert {run: beside_it[run] for run in healthy} == healthy
    pack = Pack([runs[0], wild])
    *_, last = train(pack)
    assert list(last.alive) == [True, False]


def test_the_episodes_of_a_run_end_where_it_died() -> None:
    """Shaped like A2C, whose many rollouts an iteration go on after the one that left no finite parameter."""
    shape = {"horizon": 5, "actors": 16, "rollouts": 25, "epochs": 1, "minibatch_size": 80}
    run = small_run(algo=Algo("policy_gradient"), profile={**shape, "stepsize": 1e37})
    pack, finished = Pack([run]), []
    pack.start()
    while torch.isfinite(pack.learner.flat).all():
        rollout = collect(pack)
        finished += rollout.episodes[0]
        pack.learner.update(rollout, pack.filter, pack.rollout)
        pack.rollout += 1
    assert finished and 0 < pack.env_steps < run.profile.steps
    (only,) = train(Pack([run]))
    assert only.episodes == [finished]
    assert finished[-1].env_step <= pack.env_steps


def test_actions_that_are_not_finite_end_no_episode_of_their_runs_record() -> None:
    pack = Pack([small_run(seed, profile={"actors": 2}) for seed in range(2)])
    pack.start()
    pack.learner.flat[1] = torch.nan
    healthy, dead = collect(pack).episodes
    assert healthy and not dead


@pytest.mark.parametrize("objective", ["policy_gradient", "trajectory_ratio"])
def test_a_ratio_that_overflows_moves_no_run_whose_objective_reads_none(objective: str) -> None:
    bare = small_run(algo=Algo(objective), profile={"minibatch_size": 256})
    clip = replace(bare, algo=ROWS[0], seed=1)

    def gradients(runs: list[RunConfig]) -> torch.Tensor:
        """∂(surrogate)/∂θ, a row per run, where the ratios of the last run are e^±100."""
        pack, rng = Pack(runs), np.random.default_rng(0)
        learner, model = pack.learner, pack.learner.model
        x = model.tensor(np.tile(rng.standard_normal((1, 256, pack.spaces.observation_size)), (len(runs), 1, 1)))
        action = model.tensor(np.tile(rng.standard_normal((1, 256, 1)), (len(runs), 1, 1)))
        new = model.policy(learner.leaves, x)
        log_prob = new.log_prob(action).detach()
        log_prob[-1] += torch.tensor([100.0, -100.0]).repeat(128)
        one, trajectory = torch.ones_like(log_prob), torch.zeros_like(log_prob, dtype=torch.int64)
        batch = Batch(x, action, log_prob, one, one, None, None, trajectory=trajectory)
        total = surrogate(learner.rows, batch, new, learner.coefficients(learner.scheduled(0))).sum()
        return model.network.gradient(learner.leaves, total)

    alone, together = gradients([bare]), gradients([clip, bare])
    assert torch.isfinite(together).all() and together[-1].any()
    assert torch.equal(together[-1], alone[0])


def test_a_pack_of_the_dead_stops() -> None:
    run = small_run(0, 50, "Hopper-v4")
    pack = Pack([replace(run, profile=replace(run.profile, stepsize=1e37))])
    assert len(list(train(pack))) < 50


def test_runs_of_different_shape_are_refused_one_pack() -> None:
    with pytest.raises(UserError, match="cannot share a pack"):
        Pack([small_run(0), small_run(1, profile={"horizon": 512})])
