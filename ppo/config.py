"""What a run is: typed settings, checked once, hashed elsewhere.

Each field says its unit or its choices. Where a value comes from stands beside it in `conf/`: a profile is a list of
values with their sources. Defaults here are the neutral choice, so a field added later leaves old run ids alone.
`None` means off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ppo.advantages import ESTIMATORS
from ppo.declarations import Estimator, Objective, Setting, by_name, refuse_taken, switch, switches
from ppo.learner import Learner
from ppo.learners import OBJECTIVES, learner_of
from ppo.networks import CONVOLUTIONS
from ppo.refusals import UserError, choose, names_draws, positive

T = TypeVar("T")


OBJECTIVE_SETTINGS = by_name(setting for each in OBJECTIVES.values() for setting in each.settings)
ESTIMATOR_SETTINGS = by_name(setting for each in ESTIMATORS.values() for setting in each.settings)
SETTINGS = by_name((*OBJECTIVE_SETTINGS.values(), *ESTIMATOR_SETTINGS.values()))
"""Every setting that an objective or an estimator declares, by name."""


def with_settings(cls: type[T]) -> type[T]:
    """Give the class a field for each declared setting, None or its default, and make it a frozen dataclass."""

    def typed(settings: Mapping[str, Setting]) -> dict[str, Any]:
        return {name: each.type if each.default is not None else each.type | None for name, each in settings.items()}

    cls.__annotations__ = {"objective": str, **typed(OBJECTIVE_SETTINGS), "advantage": str, **typed(ESTIMATOR_SETTINGS)}
    for name, setting in SETTINGS.items():
        setattr(cls, name, setting.default)
    return dataclass(frozen=True)(cls)


@with_settings
class Algo:
    """The objective and the advantage estimator, in the paper's symbols. Their settings are fields too, one for each in
    `SETTINGS`: None where the objective and the estimator do not need it."""

    objective: str = "unconstrained"
    advantage: str = "gae"

    if TYPE_CHECKING:

        def __init__(self, objective: str = "unconstrained", **settings: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def __post_init__(self) -> None:
        choose("algo.objective", self.objective, OBJECTIVES)
        choose("algo.advantage", self.advantage, ESTIMATORS)
        needed = dict.fromkeys(self.declared.settings, self.objective)
        needed |= dict.fromkeys(self.estimator.settings, self.advantage)
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if setting in needed and value is None:
                raise UserError(f"algo.{name} is not set, and {needed[setting]} needs it")
            if setting not in needed and value is not None and setting.default is None:
                owner = self.advantage if name in ESTIMATOR_SETTINGS else self.objective
                raise UserError(
                    f"algo.{name}={value} means nothing to {owner}; leave it null, or choose another algo=…"
                )
            setting.check(value)

    @property
    def declared(self) -> Objective:
        return OBJECTIVES[self.objective]

    @property
    def estimator(self) -> Estimator:
        return ESTIMATORS[self.advantage]

    @property
    def learner(self) -> type[Learner]:
        return learner_of(self.objective)

    @property
    def known_settings(self) -> Mapping[str, Setting]:
        """Every setting that some objective or estimator declares, by name."""
        return SETTINGS

    @property
    def label(self) -> str:
        """The objective with the setting that it is known by: clip_0.2."""
        known_by = self.declared.label
        return self.objective if known_by is None else f"{self.objective}_{getattr(self, known_by):g}"


GAINS = ({"init": "normc"}, {"init": "orthogonal"})
FILTERS = ({"observation_filter": "per_rollout"}, {"observation_filter": "per_step"})
STANDARDISED = ({"standardise": "rollout"}, {"standardise": "minibatch"})
RMSPROP = ({"optimiser": "rmsprop_torch"}, {"optimiser": "rmsprop_tensorflow"})
"""Other fields under which some switches are read at all."""


@dataclass(frozen=True)
class Profile:
    """The implementation around the objective. Symbols and units here; each value's source in conf/profile/.

    All that a field is stands in its line: type, default, range or choices, values to try, and whether it is one number
    for each run of a pack. What relates several fields is checked in `__post_init__`.
    """

    # T, env steps per actor and rollout
    horizon: int = switch(2048, "above 0", tries=(64, 96), group="The protocol of Table 3")
    actors: int = switch(1, "above 0", tries=(1, 2, 3))  # N, environments of a run, stepped together
    # env steps: estimates end there, V stands in, and minibatches take whole segments
    segment: int | None = switch(None, "above 0", tries=(None, 8, 16, 32))
    rollouts: int = switch(1, "above 0", tries=(1, 2))  # per iteration, each with its update; diagnostics: their mean
    epochs: int = switch(10, "above 0", tries=(2, 3))  # K, passes over one rollout
    minibatch_size: int = switch(64, "above 0", tries=(16, 32))  # M, env steps
    stepsize: float = switch(3e-4, "above 0", tries=(3e-3, 1e-2), per_run=True)  # Adam's, before its schedule
    gamma: float = switch(0.99, "0 to 1", tries=(0.9, 0.99), per_run=True)  # γ, per env step

    # auto: by the action space
    policy: str = switch("auto", choices=("auto", "gaussian", "categorical"), group="Networks")
    convolutions: str = switch("none", choices=tuple(CONVOLUTIONS))  # the layers that frames pass first
    hidden_sizes: tuple[int, ...] = switch((64, 64), tries=((8, 8), (8,), (16, 8)))  # units per layer
    activation: str = switch("tanh", choices=("tanh", "relu", "elu"))
    shared_trunk: bool = switch(False)  # policy and value share the hidden layers
    init: str = switch("torch", choices=("normc", "orthogonal", "torch"))  # torch: uniform, ±1/√fan_in
    hidden_gain: float = switch(1.0, "any", tries=(1.0, 2.0), under=GAINS)  # multiplies the initial weights
    policy_gain: float = switch(1.0, "any", tries=(0.01, 1.0), under=GAINS)
    value_gain: float = switch(1.0, "any", tries=(0.5, 1.0), under=GAINS)
    log_std_init: float = switch(0.0, "any", tries=(-0.5, 0.0))  # log of the action's unit

    # when the running mean and standard deviation move
    observation_filter: str = switch(
        "none", choices=("none", "per_rollout", "per_step"), group="Observations, actions, rewards, time limits"
    )
    filter_clip: float | None = switch(None, "above 0", tries=(None, 0.5), under=FILTERS)  # standard deviations
    # observations: weight of mean 0 and variance 1 before any data
    filter_prior: float = switch(1e-2, "above 0", tries=(1e-2, 10.0), under=FILTERS)
    filter_floor: float = switch(0.0, "at least 0", tries=(0.0, 2.0), under=FILTERS)  # smallest variance
    filter_epsilon: float = switch(0.0, "at least 0", tries=(0.0, 1.0), under=FILTERS)  # added to the variance
    # to the bounds of the action space, on their way to the environment
    clip_actions: bool = switch(False, under=({"log_std_init": 0.5},))
    scale_rewards: bool = switch(False)  # divide by the running std of the discounted return
    reward_clip: float | None = switch(None, "above 0", tries=(None, 0.1))  # after scaling
    time_limit: str = switch("terminal", choices=("terminal", "bootstrap"))  # the state there is worth 0 or V(s)
    # the state after a lost life is worth V(s) or 0; scores do not care
    lost_life: str = switch("goes_on", choices=("goes_on", "terminal"))

    # over which advantages are shifted and scaled
    standardise: str = switch("none", choices=("none", "rollout", "minibatch"), group="The loss")
    standardise_epsilon: float = switch(0.0, "at least 0", tries=(0.0, 1.0), under=STANDARDISED)  # added to their std
    # c1 of eq. 9, on the mean squared error
    value_coef: float = switch(1.0, "at least 0", tries=(0.05, 1.0), under=({"shared_trunk": True},), per_run=True)
    # how far the value may move from its old one, in return units; annealed as ε is
    value_clip: float | None = switch(None, "above 0", tries=(None, 0.01))
    entropy_coef: float = switch(0.0, "at least 0", tries=(0.0, 0.1), per_run=True)  # c2 of eq. 9, per nat
    # one loss; or the policy moves once per rollout, then K epochs fit V alone
    value_fit: str = switch("joint", choices=("joint", "separate"))
    # of the separate fit; the policy's where it has none of its own
    value_stepsize: float | None = switch(None, "above 0", tries=(None, 1e-3, 3e-3), under=({"value_fit": "separate"},))

    # over all parameters of a run
    max_grad_norm: float | None = switch(None, "above 0", tries=(None, 0.1), group="Optimisation")
    # rmsprop_torch: ε beside the root, mean square from 0; rmsprop_tensorflow: in it, from 1
    optimiser: str = switch("adam", choices=("adam", "rmsprop_torch", "rmsprop_tensorflow"))
    rmsprop_decay: float = switch(0.99, "0 to 1", tries=(0.9, 0.99), under=RMSPROP)  # of the mean square, per step
    rmsprop_epsilon: float = switch(1e-5, "above 0", tries=(1e-5, 1.0), under=RMSPROP)
    adam_epsilon: float = switch(1e-8, "above 0", tries=(1e-8, 1e-2))
    # √v̂ + ε, or √v + ε as TensorFlow and ppo1 do
    adam_epsilon_at: str = switch("corrected", choices=("corrected", "uncorrected"), under=({"adam_epsilon": 1e-2},))
    # linear: times α, 1 → 0 over the budget; kl: by the last update's KL
    stepsize_schedule: str = switch("constant", choices=("constant", "linear", "kl"), tries=("constant", "linear"))
    # nats, of the schedule `kl`
    stepsize_kl_target: float | None = switch(None, "above 0", tries=(1e-5, 1.0), under=({"stepsize_schedule": "kl"},))
    epsilon_schedule: str = switch("constant", choices=("constant", "linear"))  # the same for ε

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        for name, declared in SWITCHES.items():
            declared.check(f"profile.{name}", getattr(self, name))
        if self.value_stepsize is not None and self.value_fit == "joint":
            raise UserError(f"profile.value_stepsize={self.value_stepsize} means nothing to profile.value_fit=joint")
        if (self.stepsize_kl_target is None) == (self.stepsize_schedule == "kl"):
            raise UserError("profile.stepsize_kl_target belongs to profile.stepsize_schedule=kl; set both or neither")
        if self.shared_trunk and self.value_fit == "separate":
            raise UserError("profile.value_fit=separate needs networks of their own; set profile.shared_trunk=false")
        if not self.hidden_sizes or any(size < 2 for size in self.hidden_sizes):
            raise UserError(f"profile.hidden_sizes={list(self.hidden_sizes)}: give at least one layer of 2 units")
        if self.batch % self.minibatch_size:
            fitting = [m for m in range(1, self.batch + 1) if self.batch % m == 0]
            near = min(fitting, key=lambda m: abs(m - self.minibatch_size))
            raise UserError(
                f"profile.minibatch_size={self.minibatch_size} does not divide {self.batch_in_words}; "
                f"the nearest that does is {near}"
            )
        alone = self.minibatch_size if (self.standardise, self.value_fit) == ("minibatch", "joint") else self.batch
        if self.standardise != "none" and alone == 1:
            raise UserError(
                f"profile.standardise={self.standardise} divides by the spread of the advantages, and one env step has "
                "none; give it at least 2 (profile.minibatch_size, profile.horizon), or set profile.standardise=none"
            )
        if self.segment and (self.horizon % self.segment or self.minibatch_size % self.segment):
            raise UserError(
                f"profile.segment={self.segment} must divide profile.horizon={self.horizon} and "
                f"profile.minibatch_size={self.minibatch_size}"
            )

    @property
    def batch(self) -> int:
        """N·T, env steps per run and rollout."""
        return self.actors * self.horizon

    @property
    def steps(self) -> int:
        """Env steps per run and iteration."""
        return self.batch * self.rollouts

    @property
    def batch_in_words(self) -> str:
        """The settings that `batch` comes from, for a sentence about them."""
        return f"profile.horizon={self.horizon}" + (f" × profile.actors={self.actors}" if self.actors > 1 else "")

    @property
    def steps_in_words(self) -> str:
        """The settings that `steps` comes from, for a sentence about them."""
        return self.batch_in_words + (f" × profile.rollouts={self.rollouts}" if self.rollouts > 1 else "")


SWITCHES = switches(Profile)
"""What each field of a profile declares, by name."""


@dataclass(frozen=True)
class Env:
    """A task by its registered name, version included."""

    id: str = "Hopper-v4"
    max_episode_steps: int | None = None  # its time limit, env steps; the task's own where nothing is said
    # Of Atari alone (`ATARI_SETTINGS`), all set there
    frame_skip: int | None = None  # emulator frames per env step
    frame_max: bool = False  # see the brighter of a step's last two frames, pixel by pixel
    frame_stack: int | None = None  # frames an observation holds
    screen: int | None = None  # height and width of a frame, pixels, grey
    noop_max: int | None = None  # a game starts after up to so many no-ops, frames
    fire: bool = False  # press FIRE where a game starts and where it goes on after a lost life, if it has FIRE

    def __post_init__(self) -> None:
        for name in ("max_episode_steps", "frame_skip", "frame_stack", "screen"):
            positive(f"env.{name}", getattr(self, name))
        positive("env.noop_max", self.noop_max, zero=True)


ATARI_SETTINGS = ("frame_skip", "frame_max", "frame_stack", "screen", "noop_max", "fire")


@dataclass(frozen=True)
class RunConfig:
    """Everything that changes a run's numbers, and nothing else."""

    algo: Algo = field(default_factory=Algo)
    profile: Profile = field(default_factory=Profile)
    env: Env = field(default_factory=Env)
    backend: str = "envpool"  # envpool | gymnasium | ale (Atari)
    numerics: str = "exact"  # exact (eager, the same bytes alone and in any pack) | fast (compiled, promises less)
    device: str = "cpu"  # cpu | cuda
    seed: int = 0
    env_steps: int = 1_000_000  # budget of the run; whole iterations of it are used

    def __post_init__(self) -> None:
        choose("backend", self.backend, ("envpool", "gymnasium", "ale"))
        choose("numerics", self.numerics, ("exact", "fast"))
        choose("device", self.device, ("cpu", "cuda"))
        names_draws(f"seed={self.seed}", self.seed)
        if self.env_steps < self.profile.steps:
            raise UserError(
                f"env_steps={self.env_steps} is less than one iteration, {self.profile.steps_in_words}; "
                f"ask for at least {self.profile.steps}"
            )
        for name in ATARI_SETTINGS:
            value = getattr(self.env, name)
            if value != getattr(Env, name) and self.backend != "ale":
                raise UserError(
                    f"env.{name}={value} means nothing to backend={self.backend}, only to ale; leave it out"
                )
        if self.algo.declared.check is not None:
            self.algo.declared.check(self)

    @property
    def iterations(self) -> int:
        return self.env_steps // self.profile.steps


refuse_taken(SETTINGS, {*SWITCHES, "objective", "advantage"})

PER_RUN = {
    Algo: ("objective", *(name for name, setting in SETTINGS.items() if setting.per_run)),
    Profile: tuple(name for name, each in SWITCHES.items() if each.per_run),
}
"""What may differ between the members of one pack: settings that become one number per run. All else gives a tensor its
shape or a loop its length, and is shared."""


def pack_key(run: RunConfig) -> tuple[Any, ...]:
    """Runs with equal keys can train as one pack."""

    def shared(settings: Any) -> tuple[Any, ...]:
        return tuple(getattr(settings, f.name) for f in fields(settings) if f.name not in PER_RUN[type(settings)])

    shapes = run.algo.learner, shared(run.algo), shared(run.profile)
    return (*shapes, run.env, run.backend, run.numerics, run.device, run.env_steps)
