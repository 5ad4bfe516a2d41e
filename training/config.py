"""Everything that decides a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..agents.blend import Portfolio
from ..agents.portfolio import portfolio_of
from .environments import RANDOM

Acting = Literal["blend", "residual", "free"]
Shape = Literal["set", "flat"]
Constraint = Literal["price", "multipliers"]


@dataclass(frozen=True)
class TrainConfig:
    """The arguments of a run; they are kept in its folder, and a run is only resumed with the same ones."""

    scenarios: tuple[str, ...] = (RANDOM,)
    """Where worlds come from: `random`, shipped names, or paths; named scenarios are varied."""
    portfolio: Portfolio = field(default_factory=portfolio_of)
    """The rules that are blended, the neutral one first, with every knob."""
    steps: int = 500_000
    """Steps over all clusters, each of `hold` ticks."""
    seed: int = 0
    """Seeds worlds, network and exploration."""
    clusters: int = 64
    """Clusters stepped side by side."""
    hold: int = 6
    """Ticks of a step: outputs are held over so many while the policy learns, and explored no more often (see
    `vec_env.ClusterVecEnv`). At work the policy answers at every tick."""
    steps_per_update: int = 60
    """Steps of each cluster between two updates."""
    batch_size: int = 960
    """Large minibatches: at stable-baselines3's usual 64 torch's calls cost many times what the numbers do."""
    epochs: int = 6
    learning_rate: float = 1e-3
    """At the start; falls evenly to a tenth."""
    gamma: float = 0.9645
    """Discount a step: at six ticks of 10 s a horizon of 28 minutes, in which a cold start of minutes pays or does not."""
    gae_lambda: float = 0.95
    entropy: float = 0.0
    average: int = 20
    """Updates over which the weights that are scored and shipped are averaged (see `averaging`); 0: the latest ones."""
    width: int = 32
    """Width of the network's embeddings."""
    evaluate_every: int = 50_000
    """Steps between two evaluations on scenarios that are not trained on."""
    bank: int = 1024
    """Different worlds that the run meets, over all difficulties (see `TrainingWorlds.bank`)."""
    curriculum_steps: int = 40_000
    """Steps after which the hardest worlds are open (see `curriculum`); 0: from the start."""
    imitate: int = 0
    """Random worlds to learn from in hindsight before the first step (see `imitation`); 0: none."""
    baseline: bool = True
    """Measure rewards from what the first rule costs in the same world and minutes (see `baseline`)."""
    critic_first: int = 0
    """Steps at the start in which only the critic learns: a critic that knows nothing undoes what was imitated."""
    acting: Acting = "blend"
    """What outputs mean: a blend of the rules' proposals that is bent; the first rule's proposal, bent (`residual`);
    or counts and routes without any rule (`free`)."""
    shape: Shape = "set"
    """The network: weights shared over pools and classes, or one flat layer over everything."""
    history: int = 1
    """Observations that the network sees at once: the last so many ticks."""
    constraint: Constraint = "price"
    """How targets are enforced: a price of misses that is drawn per episode and seen, or multipliers that follow the
    misses (see `multipliers`)."""
