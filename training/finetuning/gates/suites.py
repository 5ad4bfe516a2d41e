"""Gate (d): on whole suites the candidate is not worse: what it learned of one cluster has not cost it the rest.

Not worse means: over each suite, the loss is known to be higher by less than `SLACK`; and in no scenario is it known to be
higher by more than `BROKEN`. Both are shares of the incumbent's loss: on a bad day that is mostly misses, and two policies that
are as good miss other ones. A suite is these scenarios and no others, so chance is that of their days. A suite that is only
partly there (its data is missing) is no suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ....agents.checkpoint import Checkpoint
from ....agents.registry import SUITES, Verdict
from ....env.scenario import Scenario
from ...criterion import Outcome, shortfall_of
from ...evaluation.bootstrap import bootstrap
from ...evaluation.entrants import CHECKPOINT, Listed
from ...evaluation.jobs import Job, Plan, jobs_of
from ...evaluation.manifest import manifest_of
from ...evaluation.rows import Row
from ...evaluation.run_folder import RunFolder
from ...evaluation.running import run_evaluation
from ...suites.suite import Suite
from .finding import Finding
from .paired import Pairs, clear_of, told

SLACK: Final = 0.05
"""Over a suite."""
BROKEN: Final = 0.15
"""In one scenario, for all its seeds."""
CANDIDATE, INCUMBENT = "candidate", "incumbent"


def suites_gate(
    candidate: Checkpoint,
    incumbent: Checkpoint,
    suites: Sequence[Suite],
    seeds: int,
    workers: int = 1,
    folder: Path | None = None,
    on_progress: Callable[[int, int, Job | None], None] | None = None,
) -> Finding:
    """Both on every scenario of the suites.

    Args:
        candidate: to be judged.
        incumbent: who decides now.
        suites: whole ones.
        seeds: worlds for each scenario.
        workers: processes.
        folder: keeps rows there, so that a run that is cut off goes on.
        on_progress: told the jobs done, those known of, and the last one.
    """
    missing = [f"{suite.name}/{own.name}: {own.why}" for suite in suites for own in suite.skipped]
    if missing:
        return Finding(SUITES, Verdict.UNKNOWN, f"not whole: {'; '.join(missing)}")
    scenarios = {(suite.name, scenario.name): scenario for suite in suites for scenario in suite.scenarios}
    listed = [_listed(CANDIDATE, candidate), _listed(INCUMBENT, incumbent)]
    plan = Plan(scenarios, {own.name: own for own in listed}, seeds, tuned=False, bounded=False)
    manifest = manifest_of(scenarios, {}, listed, (1.0,), 0, seeds, False, False, "")
    kept = RunFolder(folder, manifest) if folder is not None else None
    rows = run_evaluation(plan, jobs_of(plan, (1.0,)), 0, workers, kept, on_progress)
    inputs = {f"{suite}/{name}": _world_hashes(rows, suite, name) for suite, name in scenarios}
    return judged(rows, [suite.name for suite in suites], scenarios, {**inputs, "code": str(manifest["code"])})


def judged(
    rows: Sequence[Row],
    suites: Sequence[str],
    scenarios: Mapping[tuple[str, str], Scenario],
    inputs: Mapping[str, str],
) -> Finding:
    """What the rows of an evaluation of both say."""
    figures: dict[str, object] = {}
    failed: list[str] = []
    unknown: list[str] = []
    said: list[str] = []
    for suite in suites:
        names = tuple(name for own, name in scenarios if own == suite)
        pairs = Pairs(
            names,
            tuple(_outcomes(rows, suite, name, CANDIDATE) for name in names),
            tuple(_outcomes(rows, suite, name, INCUMBENT) for name in names),
        )
        figures[suite] = pairs.figures()
        whole, theirs = pairs.interval_over_seeds(), pairs.incumbent_losses
        slack = SLACK * float(theirs.mean())
        verdict = clear_of(whole, slack)
        said.append(f"{suite}: loss {told(whole)}")
        if verdict is Verdict.FAIL:
            failed.append(f"{suite}: loss {told(whole)}, wanted less than {slack:+.4f}")
        elif verdict is Verdict.UNKNOWN:
            unknown.append(f"{suite}: loss {told(whole)} cannot be told from {slack:+.4f}")
        for s, name in enumerate(names):
            own, most = bootstrap(pairs.losses[s]), BROKEN * float(theirs[s].mean())
            if own.low > most:
                failed.append(f"{suite}/{name}: loss {told(own)}, wanted less than {most:+.4f}")
    if failed:
        return Finding(SUITES, Verdict.FAIL, "; ".join(failed), figures, inputs)
    if unknown:
        return Finding(SUITES, Verdict.UNKNOWN, f"{'; '.join(unknown)}; more seeds tell more", figures, inputs)
    return Finding(SUITES, Verdict.PASS, "; ".join(said), figures, inputs)


def _listed(name: str, checkpoint: Checkpoint) -> Listed:
    return Listed(
        name,
        str(checkpoint.folder),
        CHECKPOINT,
        swept=False,
        hashes={file: str(value) for file, value in checkpoint.card["files"].items()},
        knobs={"miss_price": checkpoint.miss_price},
    )


def _outcomes(rows: Sequence[Row], suite: str, scenario: str, policy: str) -> tuple[Outcome, ...]:
    own = [r for r in rows if (r["suite"], r["scenario"], r["policy"]) == (suite, scenario, policy)]
    return tuple(_outcome(row) for row in sorted(own, key=lambda row: int(row["seed"])))


def _outcome(row: Row) -> Outcome:
    reached = np.array(
        [np.nan if c["attainment"] is None else c["attainment"] for c in row["classes"]], dtype=np.float64
    )
    wanted = np.array([c["wanted"] for c in row["classes"]], dtype=np.float64)
    ratio = float(row["usd_per_hr"]) / max(float(row["reference_usd_per_hr"]), 1e-9)
    return Outcome(ratio, float(shortfall_of(reached, wanted)))


def _world_hashes(rows: Sequence[Row], suite: str, scenario: str) -> str:
    own = {int(r["seed"]): str(r["world"]) for r in rows if (r["suite"], r["scenario"]) == (suite, scenario)}
    return " ".join(own[seed] for seed in sorted(own))
