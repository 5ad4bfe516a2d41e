"""What was learned beside the incumbent, on days of the twin that are not learned from; the best is kept.

Nothing is scored that is further from the incumbent than the bound: it is moved back first. The incumbent is scored too,
on the same days: learning that makes nothing better yields no candidate. At the end head-rooms are tried, of what was learned
and of the incumbent itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ...agents.blend import rules_of
from ...agents.checkpoint import Checkpoint
from ...agents.portfolio import make_rule
from ...agents.ppo.export import load_network
from ...agents.ppo.network import SetNetwork
from ...env.bending import Bending
from ...env.contract import Cluster, FloatArray, Policy
from ...env.spaces import SpaceLayout
from ..acting import ActingNetwork
from ..criterion import Outcome, loss
from ..judging import Judge
from ..learner import LearnerPolicy
from ..priced import at_price
from .anchored import AnchoredPolicy, nearer
from .settings import FinetuneConfig

BEST_WEIGHTS: Final = "best.safetensors"
SCORES: Final = "scores.json"
PROBED: Final = 2048
"""Observations that distances are measured on."""
MARGIN: Final = 1e-6
"""What a candidate must be better by to be one at all."""


@dataclass(frozen=True)
class Score:
    """One look at what was learned."""

    steps: int
    loss: float
    """The best over the prices tried (`training.criterion`)."""
    miss_price: float
    bill_ratio: float
    shortfall: float
    kl: float
    """Nats from the incumbent, at that price."""
    kl_max: float
    """The most over the observations."""
    share: float
    """Of the way from the incumbent to what was learned: 1 unless it was moved back; 0: the incumbent's own network."""
    headroom: float = 1.0
    """Times the incumbent's."""


@dataclass
class Scoring:
    """Scores when asked, and keeps the best."""

    folder: Path
    """The run's."""
    incumbent: Checkpoint
    config: FinetuneConfig
    judge: Judge
    probes: NDArray[np.float32] | None = None
    """`[B, N]` observations of the last rollout, and recorded ones."""
    incumbent_score: Score = field(init=False)
    best: Score = field(init=False)
    history: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Score the incumbent, or go on from what an earlier part of the run kept."""
        self._layout = SpaceLayout()
        self._rules = rules_of(self.incumbent.portfolio, make_rule)
        self.network = load_network(self.incumbent).eval()
        kept = self.folder / SCORES
        if kept.is_file():
            document = json.loads(kept.read_text())
            self.history = [Score(**row) for row in document["history"]]
            self.incumbent_score = Score(**document["incumbent"])
            self.best = Score(**document["best"])
            return
        price = self.incumbent.miss_price
        outcome = self._outcomes(self.network, (price,), 1.0)[0]
        self.incumbent_score = Score(0, loss(outcome), price, outcome.bill_ratio, outcome.shortfall, 0.0, 0.0, 0.0)
        self.best = self.incumbent_score
        self._write()

    @property
    def improved(self) -> bool:
        """Whether anything better than the incumbent was found."""
        differs = self.best.share > 0.0 or self.best.headroom != 1.0
        return differs and self.best.loss < self.incumbent_score.loss - MARGIN

    @property
    def prices(self) -> tuple[float, ...]:
        """Of a miss, that are tried: the incumbent's first, so that another one must be better to be taken."""
        others = (factor for factor in self.config.price_factors if factor != 1.0)
        return tuple(self.incumbent.miss_price * factor for factor in (1.0, *others))

    def __call__(self, policy: LearnerPolicy, steps: int) -> float:
        """The least loss over the prices, of what the policy's network has become or of what is near enough of it."""
        if steps == 0 or self.probes is None:  # it is the incumbent still
            return self.incumbent_score.loss
        assert isinstance(policy, AnchoredPolicy)
        assert isinstance(policy.network, SetNetwork)
        learned = policy.network
        # By what both are told at work: what they would answer at other prices is of no consequence.
        own = self.incumbent.miss_price
        network, share, _ = nearer(
            self.network, learned, lambda n: self._distance(policy, n, own)[0], self.config.kl_limit
        )
        allowed = [p for p in self.prices if self._distance(policy, network, p)[0] <= self.config.kl_limit]
        if share == 0.0 or not allowed:
            return self.incumbent_score.loss
        outcomes = self._outcomes(network, allowed, 1.0)
        losses = [loss(outcome) for outcome in outcomes]
        at = int(np.argmin(losses))
        kl, most = self._distance(policy, network, allowed[at])
        score = Score(steps, losses[at], allowed[at], outcomes[at].bill_ratio, outcomes[at].shortfall, kl, most, share)
        self.history.append(score)
        if score.loss < self.best.loss - MARGIN:
            self._keep(network)
            self.best = score
        self._write()
        return score.loss

    def settle(self) -> None:
        """Try head-rooms, of the best that was learned and of the incumbent; what is better than the best is the best."""
        known = [self.incumbent_score]
        if self.best.share > 0.0 and self.best.headroom == 1.0:
            known.append(self.best)
        for own in known:
            network = self.network if own.share == 0.0 else self.best_network()
            for factor in self.config.headroom_factors:
                if factor == 1.0:
                    continue
                (outcome,) = self._outcomes(network, (own.miss_price,), factor)
                tried = replace(
                    own,
                    headroom=factor,
                    loss=loss(outcome),
                    bill_ratio=outcome.bill_ratio,
                    shortfall=outcome.shortfall,
                )
                self.history.append(tried)
                if tried.loss < self.best.loss - MARGIN:
                    self.best = tried
        self._write()

    def best_network(self) -> SetNetwork:
        """That of the best score."""
        if self.best.share == 0.0:
            return self.network
        network = SetNetwork(self.network.width)
        network.load_state_dict(load_file(self.folder / BEST_WEIGHTS))
        return network.eval()

    def probe(self, seen: NDArray[np.float32]) -> None:
        """Measure distances on these observations `[B, N]` from now on."""
        every = max(len(seen) // PROBED, 1)
        self.probes = np.array(seen[::every][:PROBED])

    def _distance(self, policy: AnchoredPolicy, network: SetNetwork, price: float) -> tuple[float, float]:
        """Nats from the incumbent, in the mean and at most, where the network is told `price` and the incumbent its own."""
        assert self.probes is not None
        ones = np.ones(len(self.probes))
        theirs = at_price(self.probes, ones * self.incumbent.miss_price, self._layout)
        seen = at_price(self.probes, ones * price, self._layout)
        with torch.no_grad():
            nats = policy.distance(network, torch.as_tensor(seen), torch.as_tensor(theirs))
        return float(nats.mean()), float(nats.max())

    def _outcomes(self, network: SetNetwork, prices: Sequence[float], headroom: float) -> list[Outcome]:
        """At each price, with so many times the incumbent's head-room."""

        def make(cluster: Cluster, miss_price: FloatArray) -> Policy:
            bending = Bending(cluster, self._rules(cluster), self.incumbent.headroom * headroom)
            return ActingNetwork(bending, network, miss_price)

        return self.judge.by_price(make, prices)

    def _keep(self, network: SetNetwork) -> None:
        tensors = {k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}
        written = self.folder / (BEST_WEIGHTS + ".part")
        save_file(tensors, written)
        written.replace(self.folder / BEST_WEIGHTS)

    def _write(self) -> None:
        document: dict[str, Any] = {
            "incumbent": asdict(self.incumbent_score),
            "best": asdict(self.best),
            "history": [asdict(own) for own in self.history],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        written = self.folder / (SCORES + ".part")
        written.write_text(json.dumps(document, indent=2) + "\n")
        written.replace(self.folder / SCORES)
