"""`python -m poolpilot.benchmarks.finetuning`: what refit and fine-tuning bring where the world is not what was believed.

A sidecar's run is recorded in a world that differs from what policy and planner believe (a pool slower, cold starts longer,
another mix of classes), or does not. From the record the twin is refitted and the incumbent fine-tuned in it, by the
commands that a user has; what was learned goes through the gates before a trial. Then, on other days of the same world: the
incumbent with the old beliefs, with the refitted ones, and what was learned, with the refitted ones. A seed that is finished is
not run again, so it can be stopped at any time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import yaml
from rich.console import Console

from poolpilot.agents.checkpoint import shipped_checkpoints
from poolpilot.agents.registry import BEFORE_TRIAL, Registry, wanting
from poolpilot.commands.simulating.recorded import recorded_run
from poolpilot.controller.choosing import PolicyChoice
from poolpilot.env.scenario import Scenario, load_scenario, parse_scenario
from poolpilot.env.window import FINISHED, LOST, MET
from poolpilot.training.evaluation.bootstrap import Interval, bootstrap

from .report import Section, markdown, print_sections, put
from .two_pools import Document, slowed, two_pools, with_rates, written

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "finetuning.md"
PART: Final = "finetuning"
RESULT: Final = "result.json"
RECORDED_SEED: Final = 100
SCORED_SEED: Final = 200
NOT_REPRODUCED: Final = 3
"""Exit code of `finetune refit` where the twin does not do the recorded days again."""
NOT_LET_THROUGH: Final = 1
"""Exit code of `policies check` where a gate does not let the candidate through."""
WORLDS: Final[Mapping[str, str]] = {
    "differs": "`l40s` takes 1.3 times as long, cold starts twice, two thirds of the chat and three times the summarisation",
    "same": "the world is what was believed",
}
TIMES: Final = {"chat": 2.0 / 3.0, "summarisation": 3.0}
"""What comes of each class in the world that differs, over what was believed."""
VARIANTS: Final = ("before", "after refit alone", "after fine-tuning")
BY_GATES: Final = "what the gates leave"
"""Who learned where they let it through, and the refit alone where they do not."""


def true_document(world: str, duration_s: float) -> Document:
    """What is true; what policy and planner believe is `two_pools`."""
    document = two_pools(duration_s)
    if world == "differs":
        rates = {name: own["rate_per_s"] for name, own in document["workload"]["classes"].items()}
        with_rates(slowed(document), {name: TIMES[name] * rate for name, rate in rates.items()})
    return document


@dataclass(frozen=True)
class Asked:
    """How much of everything."""

    checkpoint: str
    duration_s: float
    steps: int
    days: int
    """Scored, of each seed."""


def run_seed(world: str, seed: int, asked: Asked, folder: Path, console: Console) -> dict[str, Any]:
    """One record, one refit, one run of learning, and days of all three; what they came to."""
    believed, true = written(folder, believed=two_pools(asked.duration_s), true=true_document(world, asked.duration_s))
    log, refit, registry = folder / "run" / "decisions.jsonl", folder / "refit", folder / "registry"
    if not registry.is_dir():
        Registry.found(registry, asked.checkpoint)
    incumbent = Registry(registry).incumbent()
    policy = f"registry:{registry}@{incumbent}"
    common = ["--scenario", str(believed)]
    done = folder / "recorded"
    if not done.is_file():
        log.unlink(missing_ok=True)
        recording = ["--policy", policy, "--world", str(true), "--seed", str(RECORDED_SEED + seed)]
        _step(["simulate", *common, *recording, "--record", str(log)])
        done.touch()
    console.print(f"[dim]{world}, seed {seed}: recorded[/dim]")
    code, _ = _step(["finetune", "refit", str(log), *common, "--out", str(refit), "--json"], NOT_REPRODUCED)
    result: dict[str, Any] = {
        "world": world,
        "seed": seed,
        "reproduced": code == 0,
        "learned": None,
        "learned_version": "",
        "gates": {},
        "lacks": [],
    }
    console.print(f"[dim]{world}, seed {seed}: refitted[/dim]")
    beliefs, chosen = {"before": load_scenario(str(believed))}, {"before": policy}
    # Where the twin is not to be trusted nothing is learned, and nothing changes.
    twin = load_scenario(str(refit / "scenario.yaml")) if code == 0 else beliefs["before"]
    beliefs["after refit alone"] = beliefs["after fine-tuning"] = twin
    chosen["after refit alone"] = chosen["after fine-tuning"] = policy
    if code == 0:
        learned = folder / "learned"
        resume = ["--resume"] if (learned / "state.json").is_file() else []
        learning = ["--scenario", str(refit / "scenario.yaml"), "--registry", str(registry), "--out", str(learned)]
        bounds = ["--steps", str(asked.steps), "--cpu-seconds", "36000", "--seed", str(seed)]
        _, said = _step(["finetune", "learn", str(log), *learning, *bounds, *resume, "--json"])
        result["learned"] = said["reason"]
        if said["version"]:
            chosen["after fine-tuning"] = f"registry:{registry}@{said['version']}"
            result |= asked_gates(folder, said["version"])
    console.print(f"[dim]{world}, seed {seed}: {result['learned']}[/dim]")
    true_world = parse_scenario(yaml.safe_load(true.read_text()), true)
    days = range(SCORED_SEED + seed * asked.days, SCORED_SEED + (seed + 1) * asked.days)
    for variant in VARIANTS:
        result[variant] = [scored(beliefs[variant], chosen[variant], true_world, day) for day in days]
    return result


def asked_gates(folder: Path, version: str, gates: Sequence[str] = BEFORE_TRIAL) -> dict[str, Any]:
    """What each gate finds, and what keeps the version back; those that are not named are not asked again."""
    registry = folder / "registry"
    looked_at = [
        "--registry",
        str(registry),
        "--refit",
        str(folder / "refit"),
        "--record",
        str(folder / "run"),
        "--json",
    ]
    named = [word for gate in gates for word in ("--gate", gate)]
    _step(["policies", "check", version, *looked_at, *named], NOT_LET_THROUGH)
    own = Registry(registry)
    evidence = own.evidence(version)
    return {
        "learned_version": version,
        "gates": {gate: found.verdict.value for gate, found in evidence.items()},
        "lacks": wanting(evidence, version, own.incumbent(), BEFORE_TRIAL),
    }


def _again(out: Path, gates: Sequence[str], console: Console) -> None:
    """Ask gates again of what finished seeds have learned."""
    for path in sorted(out.glob(f"*/{RESULT}")):
        result = json.loads(path.read_text())
        if result["learned_version"]:
            result |= asked_gates(path.parent, result["learned_version"], gates)
            path.write_text(json.dumps(result, indent=2) + "\n")
            console.print(f"[dim]{path.parent.name}: {result['gates']}[/dim]")


def scored(beliefs: Scenario, policy: str, world: Scenario, seed: int) -> dict[str, Any]:
    """A day of the world under a policy with these beliefs: the bill, and the attainment of each class and of all."""
    # Beliefs are of the cluster; the day is the world's.
    own = beliefs.model_copy(update={"duration_s": world.duration_s, "tick_s": world.tick_s})
    usd, tally = 0.0, np.zeros((len(world.class_names), 3))
    for tick in recorded_run(own, PolicyChoice(policy), seed, world):
        if tick.since is not None:
            usd += float(np.nansum(tick.since.usd))
            tally += tick.since.tally[:, [FINISHED, LOST, MET]]
    ended = tally[:, 0] + tally[:, 1]
    attained = np.divide(tally[:, 2], ended, out=np.ones_like(ended), where=ended > 0)
    wanted = world.cluster().targets.attainment
    return {
        "usd": usd,
        "attainment": float(tally[:, 2].sum() / max(ended.sum(), 1.0)),
        "by_class": dict(zip(world.class_names, attained.tolist(), strict=True)),
        "short": float(np.maximum(wanted - attained, 0.0).mean()),
    }


def _step(arguments: Sequence[str], may_be: int = 0) -> tuple[int, dict[str, Any]]:
    """One of the commands; its JSON where it prints some. RuntimeError if it fails."""
    done = subprocess.run([sys.executable, "-m", "poolpilot", *arguments], stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, may_be):
        raise RuntimeError(f"poolpilot {' '.join(arguments[:2])}: exit code {done.returncode}")
    try:
        document: Any = json.loads(done.stdout)
    except ValueError:
        document = {}
    return done.returncode, document


def gathered(out: Path) -> list[dict[str, Any]]:
    """What every finished seed came to."""
    return [json.loads(path.read_text()) for path in sorted(out.glob(f"*/{RESULT}"))]


def sections(results: Sequence[Mapping[str, Any]]) -> list[Section]:
    """A table for each world, and one of how runs went."""
    found = []
    for world, what in WORLDS.items():
        own = [result for result in results if result["world"] == world]
        if own:
            found.append(_table(world, what, own))
    return found


def _table(world: str, what: str, results: Sequence[Mapping[str, Any]]) -> Section:
    def of(variant: str, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`[S]` means over the days of each seed."""
        return np.array([np.mean([day[name] for day in _days(result, variant)]) for result in results])

    before = of("before", "usd")
    rows = []
    for variant in (*VARIANTS, BY_GATES):
        ratio = bootstrap(of(variant, "usd") / before)
        rows.append(
            (
                variant,
                _told(bootstrap(of(variant, "usd")), "{:.2f}"),
                "1" if variant == "before" else _told(ratio, "{:.3f}"),
                _told(bootstrap(of(variant, "attainment") * 100), "{:.2f}"),
                _told(bootstrap(of(variant, "short") * 100), "{:.2f}"),
            )
        )
    reproduced = sum(bool(result["reproduced"]) for result in results)
    bettered = sum(str(result["learned"]).startswith("loss ") for result in results)
    note = (
        f"{what[0].upper()}{what[1:]}. {len(results)} seeds; the refitted twin reproduced {reproduced} of the records, and a"
        f" candidate better than the incumbent was found in {bettered} of these. Gates: {_gates(results)}. Means over seeds with"
        " 95 % bootstrap intervals; days are not those of the record."
    )
    title = "A world that differs" if world == "differs" else "A world that does not differ"
    head = ("policy and beliefs", "bill, $", "bill over before", "attainment, %", "short of targets, points")
    return Section(title, note, head, tuple(rows))


def _days(result: Mapping[str, Any], variant: str) -> Any:
    """That were scored."""
    if variant != BY_GATES:
        return result[variant]
    let_through = result["learned_version"] and not result["lacks"]
    return result["after fine-tuning" if let_through else "after refit alone"]


def _gates(results: Sequence[Mapping[str, Any]]) -> str:
    """How often each gate found what."""
    seen: dict[str, Counter[str]] = {}
    for result in results:
        for gate, verdict in result["gates"].items():
            seen.setdefault(gate, Counter())[verdict] += 1
    counts = (
        f"`{gate}` {', '.join(f'{verdict} {n}' for verdict, n in sorted(own.items()))}" for gate, own in seen.items()
    )
    return "; ".join(counts) or "none was asked"


def _told(found: Interval, form: str) -> str:
    return f"{form.format(found.mean)} ({form.format(found.low)} to {form.format(found.high)})"


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the study.")
@click.option("--seeds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--world", "worlds", multiple=True, type=click.Choice(list(WORLDS)), help="Only this one; repeatable.")
@click.option("--checkpoint", default=None, help="The incumbent. Default: the first one that is shipped.")
@click.option("--duration-s", type=click.FloatRange(min=1800.0), default=7200.0, show_default=True, help="Of a day.")
@click.option("--steps", type=click.IntRange(min=1), default=60_000, show_default=True, help="Of learning.")
@click.option("--days", type=click.IntRange(1, 20), default=2, show_default=True, help="Scored, of each seed.")
@click.option(
    "--again",
    multiple=True,
    type=click.Choice(BEFORE_TRIAL),
    help="Run nothing, but ask this gate again of all that was learned; repeatable.",
)
@click.option("--write", is_flag=True, help="Run nothing: put what is there into docs/finetuning.md.")
def main(
    out: Path,
    seeds: int,
    worlds: tuple[str, ...],
    checkpoint: str | None,
    duration_s: float,
    steps: int,
    days: int,
    again: tuple[str, ...],
    write: bool,
) -> None:
    """Measure what refit and fine-tuning bring."""
    console = Console(stderr=True)
    asked = Asked(checkpoint or next(iter(shipped_checkpoints())), duration_s, steps, days)
    if again:
        _again(out, again, console)
    elif not write:
        for seed in range(seeds):
            for world in worlds or tuple(WORLDS):
                folder = out / f"{world}-seed{seed}"
                if not (folder / RESULT).is_file():
                    result = run_seed(world, seed, asked, folder, console)
                    (folder / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    tables = sections(gathered(out))
    print_sections(tables, Console())
    if write:
        put(PAGE, PART, f"Made by `python -m poolpilot.benchmarks.finetuning`.\n\n{markdown(tables)}")
        console.print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
