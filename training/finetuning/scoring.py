"""What was learned beside the incumbent, on days of the twin that are not learned from; the best is kept.

Nothing is scored that is further from the incumbent than the bound: it is moved back first. The incumbent is scored too,
on the same days: learning that makes nothing better yields no candidate. And none is kept that has forgotten what the
incumbent knows of other clusters and of bad days. At the end head-rooms are tried, of what was learned and of the incumbent itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from ..judging import Judge, PricedFactory
from ..learner import LearnerPolicy
from ..priced import at_price
from .anchored import AnchoredPolicy, blended, nearer
from .settings import FinetuneConfig

BEST_WEIGHTS: Final = "best.safetensors"
SCORES: Final = "scores.json"
PROBED: Final = 2048
"""Observations that distances are measured on."""
PARTS: Final = (1.0, 0.5, 0.25)
"""Of the way to what was learned: of what has forgotten too much, less is tried."""
FORGOTTEN: Final = 0.03
"""Share by which the loss on a suite elsewhere may be higher than the incumbent's: two policies that are as good differ by so
much there."""
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
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    """Its loss on other clusters and on bad days, by suite; empty where nobody looked."""


@dataclass
class Scoring:
    """Scores when asked, and keeps the best."""

    folder: Path
    """The run's."""
    incumbent: Checkpoint
    config: FinetuneConfig
    judge: Judge
    """Days of the twin."""
    elsewhere: Mapping[str, Judge] = field(default_factory=dict)
    """Days of other clusters, which no run learns from, by suite."""
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
        self.incumbent_score = Score(
            0,
            loss(outcome),
            price,
            outcome.bill_ratio,
            outcome.shortfall,
            0.0,
            0.0,
            0.0,
            elsewhere=self._elsewhere(self.network, price, 1.0),
        )
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
        if share == 0.0:
            return self.incumbent_score.loss
        for part in PARTS:
            tried = network if part == 1.0 else blended(self.network, network, part)
            nats = {price: self._distance(policy, tried, price) for price in self.prices}
            allowed = {price: far for price, far in nats.items() if far[0] <= self.config.kl_limit}
            score = self._tried(tried, allowed, 1.0, steps, part * share) if allowed else None
            if score is not None:
                return score.loss
        return self.incumbent_score.loss

    def _tried(
        self,
        network: SetNetwork,
        prices: Mapping[float, tuple[float, float]],
        headroom: float,
        steps: int,
        share: float,
    ) -> Score | None:
        """A network at prices, with its nats from the incumbent at each; kept if it is the best so far.

        Returns:
            Its best score, of those that would be the best so far the first that has not forgotten the rest; None if all have.
        """
        outcomes = self._outcomes(network, tuple(prices), headroom)
        found = [
            Score(steps, loss(own), price, own.bill_ratio, own.shortfall, *far, share, headroom)
            for own, (price, far) in zip(outcomes, prices.items(), strict=True)
        ]
        better = sorted((own for own in found if own.loss < self.best.loss - MARGIN), key=lambda own: own.loss)
        if not better:
            return self._noted(min(found, key=lambda own: own.loss))
        for score in better:
            seen = self._noted(replace(score, elsewhere=self._elsewhere(network, score.miss_price, headroom)))
            if not self._forgot(seen):
                if share > 0.0:
                    self._keep(network)
                self.best = seen
                self._write()
                return seen
        return None

    def _noted(self, score: Score) -> Score:
        self.history.append(score)
        self._write()
        return score

    def _forgot(self, score: Score) -> bool:
        theirs = self.incumbent_score.elsewhere
        return any(own > theirs[suite] * (1.0 + FORGOTTEN) for suite, own in score.elsewhere.items())

    def settle(self) -> None:
        """Try head-rooms, of the best that was learned and of the incumbent; what is better than the best is the best."""
        for own in (self.incumbent_score, *((self.best,) if self.best.share > 0.0 else ())):
            network = self._network_of(own)
            for factor in self.config.headroom_factors:
                if factor != 1.0:
                    self._tried(network, {own.miss_price: (own.kl, own.kl_max)}, factor, own.steps, own.share)

    def best_network(self) -> SetNetwork:
        """That of the best score."""
        return self._network_of(self.best)

    def _network_of(self, score: Score) -> SetNetwork:
        if score.share == 0.0:
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
        """In the twin, at each price, with so many times the incumbent's head-room."""
        return self.judge.by_price(self._making(network, headroom), prices)

    def _elsewhere(self, network: SetNetwork, price: float, headroom: float) -> dict[str, float]:
        """Mean loss over the scenarios of each suite of `elsewhere`."""
        making = self._making(network, headroom)
        return {
            suite: float(np.mean([loss(own) for own in judge.by_scenario(making, (price,))[0]]))
            for suite, judge in self.elsewhere.items()
        }

    def _making(self, network: SetNetwork, headroom: float) -> PricedFactory:
        def make(cluster: Cluster, miss_price: FloatArray) -> Policy:
            bending = Bending(cluster, self._rules(cluster), self.incumbent.headroom * headroom)
            return ActingNetwork(bending, network, miss_price)

        return make

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
