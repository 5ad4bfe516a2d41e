"""What a scenario file says under `control:`, validated: how far the sidecar may go by itself, and what lets it go further."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .fields import Name, NonNegativeFloat, Share, Strict

CANARY_SHARE = 0.05
"""Of each class's traffic, where the scenario names neither a share nor pools."""


class Canary(Strict):
    """What of the cluster a canary may touch: a share of each class's traffic, or everything about named pools."""

    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each class's requests that are routed and admitted as the policy says; batch caps and replicas are left
    alone. Left out, and no pools named: 0.05."""
    pools: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Instead of a share: pools whose replicas and batch caps follow the policy, and among which it spreads the requests
    that they get; how much they get of a class does not change."""
    rest: Literal["held", "rule"] = "held"
    """What goes for everything else: `held` leaves it as it was found, `rule` lets the fallback rule decide it. A sidecar
    that was active already, and stepped back, leaves the rest to the rule in any case: the world is in its hands."""

    @model_validator(mode="after")
    def _one_way(self) -> Canary:
        if self.share is not None and self.pools is not None:
            raise ValueError("share, pools: wanted one of them, not both")
        return self

    @property
    def traffic_share(self) -> float:
        """The share in force; 0 where pools are named."""
        if self.pools is not None:
            return 0.0
        return CANARY_SHARE if self.share is None else self.share


class Gates(Strict):
    """What the mode needs to rise by one, and what makes it fall by one."""

    ticks: Annotated[int, Field(ge=1, le=100_000)] = 60
    """On a rung before the next one; the gate looks at all of them."""
    requests: Annotated[int, Field(ge=1)] = 100
    """Judged while a canary ran, of all classes together, before it may become active."""
    attainment_slack: Share = 0.02
    """How far a class may stay below the share that the fallback rule is expected to reach."""
    vetoes_per_tick: NonNegativeFloat = 1.0
    """Most changes that the guard made to proposals, a pool or class each, in the mean of the ticks looked at. In
    simulation the shipped rules have 0.04 to 0.3."""
    failed_frac: Share = 0.0
    """Most ticks of which the policy failed (an error, no answer in time, a number that is none) for a promotion."""
    breach_ticks: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Ticks that are looked at for a breach."""
    breach_requests: Annotated[int, Field(ge=1)] = 20
    """Fewer requests of a class in them tell nothing."""
    breach_failed_frac: Share = 0.5
    """More of these ticks of which the policy failed are a breach."""
    breach_vetoes_per_tick: NonNegativeFloat = 3.0
    """More changes by the guard, in the mean of these ticks, are a breach."""
    wait_ticks: Annotated[int, Field(ge=0, le=100_000)] = 120
    """After a breach the mode does not rise for so long; doubled with each further one."""


class Trial(Strict):
    """How a candidate is tried beside the version that decides, where the policy is a registry's. They take turns: time is
    cut into windows, and in each block of windows one, drawn by lot, is the candidate's."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Of the windows, and so of the requests in the long run, that are the candidate's: a block has 1/share windows, in
    whole numbers."""
    pools: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Pools that the candidate decides on in its windows, as a canary by pools does; the incumbent decides the rest. Left
    out: all of them."""
    settle_s: NonNegativeFloat | None = None
    """From the beginning of a window, in which the other one's decisions still work: nothing is measured. Left out: the
    longest cold start that is believed of a pool."""
    measure_s: Annotated[float, Field(gt=0)] = 600.0
    """The rest of a window."""
    attainment_slack: Share = 0.01
    """How far the candidate's attainment may stay below the incumbent's, of each class and of all requests."""
    cost_slack: NonNegativeFloat = 0.03
    """How far its bill may be above, as a share."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Probability of promoting a candidate that is worse than the slack allows, and of turning down one that is not."""
    blocks: Annotated[int, Field(ge=6, le=10_000)] = 60
    """After so many without a verdict the trial ends, and nothing is promoted."""
    wait_s: Annotated[float, Field(gt=0, le=31_536_000.0)] = 86_400.0
    """So long a trial waits while the mode is not `active`, because the sidecar stepped back or somebody asked for it. Then it
    ends without a verdict, and nothing is promoted."""
    probation_ticks: Annotated[int, Field(ge=0, le=1_000_000)] = 720
    """After a promotion: a breach (`gates`) within so many ticks goes back to the version before instead of down a mode."""


class Exploration(Strict):
    """Noise on what the policy's network answers, so that the record tells what else could be done. Off unless enabled.

    It reaches no further than the canary does, its share or its pools, in `active` mode too; never while a candidate takes
    turns with the policy. A campaign has a budget, and is over when that is spent; a new name begins another one."""

    enabled: bool = False
    campaign: Name = "first"
    """What is spent is counted by campaign, over restarts."""
    usd: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    """Most dollars that a campaign may cost beyond what the policy would have spent without noise. Wanted where enabled."""
    attainment: Annotated[float, Field(gt=0, le=0.5)] | None = None
    """Most that all requests' attainment may lose by it, over `hours` at the planned load. Wanted where enabled."""
    hours: Annotated[float, Field(gt=0, le=8760, allow_inf_nan=False)] = 24.0
    """A campaign lasts no longer, counted in ticks at which it could have explored."""
    spread: Annotated[float, Field(gt=0, le=2)] = 0.5
    """Of the noise, in that of training: at 1 an output's deviation is 0.2 of its range, a pool's 0.1."""
    hold_ticks: Annotated[int, Field(ge=1, le=60)] = 6
    """A draw is held over so many ticks, as in training: shaken at every tick, nothing could be told from its consequences."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> Exploration:
        if self.enabled and (self.usd is None or self.attainment is None):
            raise ValueError("usd, attainment: wanted both where exploration is enabled: what it may cost at most")
        return self


class Recording(Strict):
    """How much of the record of ticks is kept; the oldest goes first."""

    max_gb: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] = 1.0
    """Of decision logs on disk, packed, in 10^9 bytes. Eight pools and four classes take 0.15 a week at 10 s ticks."""
    max_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)] = 31.0
    """On disk and in the store's stream."""
    stream_mb: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 256.0
    """Of the store's stream, which is held in its memory, in 10^6 bytes."""
    stream_ticks: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Most ticks in the store's stream."""


class Drifting(Strict):
    """When the world counts as another one than the policy was trained in, and what of a decision the fallback rule then has:
    nothing up to the first of two thresholds, all from the second one on, and straight lines between."""

    outside_frac: Share = 0.05
    """Of what the policy's network sees, outside the range on its checkpoint's card. In worlds such as it was trained in 0.1
    to 0.4 % are; with targets, loads, speeds and cold starts far from any of these 17 % were."""
    outside_frac_most: Share = 0.2
    twin_error: NonNegativeFloat = 0.4
    """Mean error of the simulated twin on what was recorded since, in parts of what would be bad."""
    twin_error_most: NonNegativeFloat = 1.0
    over_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900.0
    """What is outside counts on the (exponential) mean over so long."""

    @model_validator(mode="after")
    def _ordered(self) -> Drifting:
        for name in ("outside_frac", "twin_error"):
            if not getattr(self, name) < getattr(self, f"{name}_most"):
                raise ValueError(f"{name}: wanted less than {name}_most")
        return self


class Control(Strict):
    """How the live controller goes from advising to acting, and what it remembers."""

    canary: Canary = Canary()
    gates: Gates = Gates()
    trial: Trial = Trial()
    exploration: Exploration = Exploration()
    record: Recording = Recording()
    drift: Drifting = Drifting()
