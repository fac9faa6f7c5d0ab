"""Every learner and the objectives it serves."""

from ppo.cem import CEM, CrossEntropyMethod
from ppo.declarations import Objective
from ppo.learner import Learner, Uniform
from ppo.losses import check_reads
from ppo.objectives import SURROGATES
from ppo.surrogate import Surrogate
from ppo.trust_region import TRUST_REGION, TrustRegion

LEARNERS: dict[type[Learner], tuple[Objective, ...]] = {
    Surrogate: SURROGATES,
    TrustRegion: (TRUST_REGION,),
    CrossEntropyMethod: (CEM,),
    Uniform: (Objective("random"),),
    Learner: (Objective("initial"),),  # the untrained policy
}
"""Who trains what. The members of a pack share a learner, and stand in this order of objectives."""

OBJECTIVES = {each.name: each for objectives in LEARNERS.values() for each in objectives}
"""Every objective there is, by its name in `algo.objective`."""

for learner, served in LEARNERS.items():
    for each in served if issubclass(learner, Surrogate) else ():
        check_reads(each)


def learner_of(objective: str) -> type[Learner]:
    """The learner that serves the objective of that name."""
    return next(learner for learner, served in LEARNERS.items() if objective in {each.name for each in served})
