"""Everything that decides a run of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..config import TrainConfig
from ..worlds import Variation

AROUND_THE_TWIN: Final = Variation(load=0.2, price=0.1, cold_start=0.2, target=0.0, drop_pool=0.1)
"""How far the worlds to learn in stray from the refitted twin: what tomorrow may bring, not what the refit might have got
wrong by half."""
GOES_ON: Final = "--resume goes on"
"""How what is said of a run that has not come to its end ends."""


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """A training run that starts from an incumbent, and stays near it."""

    steps: int = 60_000
    clusters: int = 32
    steps_per_update: int = 30
    batch_size: int = 480
    epochs: int = 4
    learning_rate: float = 3e-4
    average: int = 10
    evaluate_every: int = 10_000
    bank: int = 192
    rehearsal: float = 0.5
    """Share of the worlds that are clusters drawn at random, as in training: a policy that lives in one calm cluster alone
    forgets what it knew of all others, and of bad days (rehearsal against forgetting)."""
    curriculum_steps: int = 0
    critic_first: int = 3_000
    """Its critic knows other worlds: one that misjudges these undoes what the actor has learned."""
    incumbent: str = ""
    """Hash or version of what it starts from."""
    kl_target: float = 2.0
    """Nats between what is learned and the incumbent, as if both explored as in training (`anchored`): the penalty is
    raised above and lowered below."""
    kl_limit: float = 5.0
    """No candidate is further from the incumbent."""
    live_weight: float = 0.5
    """Of the recorded transitions' loss, beside that of the twin's; 0: none is learned from."""
    twin: str = ""
    """Fingerprint of the refitted scenario: a file of the same name may come to hold another one."""
    record: tuple[str, ...] = ()
    """Fingerprints of what was recorded and learned from."""
    recorded_until_unix_s: float = 0.0
    """When the last recorded step that was learned from was made; 0 where none was, or nobody knows."""
    days: int = 4
    """Of the twin, never learned from, on which what is learned is scored beside the incumbent."""
    price_factors: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0)
    """Prices of a miss that are tried, in the incumbent's."""
    headroom_factors: tuple[float, ...] = (0.85, 0.92, 1.0, 1.08)
    """Head-rooms that are tried at the end, in the incumbent's: a world that is known needs less of it than one that is not."""
