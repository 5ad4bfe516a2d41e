"""A sidecar that follows a registry with a candidate on trial: who proposes, and what is told of it."""

from pathlib import Path

from poolpilot.agents.opponents.plan_tracking import PlanTracking
from poolpilot.agents.registry import BEFORE_TRIAL, Registry
from poolpilot.controller.loop import Sidecar
from poolpilot.controller.trial import rules_of
from poolpilot.controller.versions import Versions
from poolpilot.env.contract import Mode, ReasonCode
from poolpilot.tests.agents.registry.candidates import a_checkpoint, let_through

from .test_loop import SCENARIO, Bench, Followed, Kept, a_bench


def a_registry(folder: Path) -> tuple[Registry, str]:
    """One with a candidate on trial, and that."""
    registry = Registry.found(folder / "registry", a_checkpoint(folder / "first"))
    candidate = registry.add(a_checkpoint(folder / "second", pool_output=(0.3, 0.2, 0.0, 0.0)))
    let_through(registry, candidate, BEFORE_TRIAL)
    registry.begin_trial(candidate, registry.incumbent())
    return registry, candidate


def a_follower(bench: Bench, registry: Registry, kept: Kept) -> Sidecar:
    """In mode `active`."""
    cluster, control = SCENARIO.cluster(), SCENARIO.control
    sidecar = bench.sidecar(PlanTracking(cluster), kept, Followed(), Mode.ACTIVE)
    sidecar.proposals.versions = Versions(
        registry,
        cluster,
        sidecar.proposals.thinker,
        rules_of(control.trial, control.gates, cluster.class_names, cluster.cold_start_s),
        0.0,
        control.trial.wait_s,
    )
    return sidecar


async def test_a_sidecar_that_is_asked_down_tells_that_its_trial_waits(tmp_path: Path) -> None:
    registry, candidate = a_registry(tmp_path)
    kept, told = Kept(), []
    async with a_bench(tmp_path) as bench:
        sidecar = a_follower(bench, registry, kept)

        def before(k: int) -> None:
            told.append(sidecar.status.trial)
            if k == 2:
                assert sidecar.request_mode(Mode.ADVISE) is None

        await sidecar.run(bench.ticks(5, before))
        await bench.processes.stop_all()
    assert told[0] == ""
    assert [text.startswith(f"{candidate} on trial: 0 of at most 60 blocks") for text in told[1:3]] == [True, True]
    assert all(f"{candidate} on trial: waits since" in text for text in told[3:])
    assert all("the mode is advise" in text for text in told[3:])
    reasons = [[r for r in tick.decision.reasons if r.code is ReasonCode.VERSION] for tick in kept.ticks]
    assert [len(own) for own in reasons] == [1, 0, 1, 0, 0], "it is said once"
    assert reasons[2][0].subject == candidate
    assert "waits since" in reasons[2][0].detail
    assert {tick.decision.policy_hash for tick in kept.ticks[2:]} == {registry.incumbent()}
