"""The gates that look at a record, by the command, on a refitted record with exploration: who does the same is let through, and
who does what the noise showed to be dearer, or leads where nobody has looked, is not."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.portfolio import portfolio_of
from poolpilot.agents.ppo.export import export_checkpoint
from poolpilot.agents.registry import OFF_POLICY, RANGES, Registry, Verdict
from poolpilot.cli import main
from poolpilot.telemetry.record import line_of, sitting_text

from ..training.clusters import TINY
from ..training.finetuning.incumbents import MISS_PRICE, a_network, a_registry
from ..training.finetuning.living import exploration, live

FLEET = {
    "duration_s: 120": "duration_s: 2600",
    "rate_per_s: 4.0": "rate_per_s: 5.0",
    "max_num_seqs: 4": "max_num_seqs: 2",
    "max: 3, start: 1": "max: 10, start: 6",
}
"""Some replicas, so that a head-room can be seen."""
TICKS, HEADROOM = 240, 0.2
DEARER, STARVING = HEADROOM + 0.2, -0.9
"""One deviation of the noise more head-room; and far less than the load needs."""
STARTED_UNIX_S = 1.8e9


def poolpilot(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@dataclass
class Explored:
    """A record with exploration, refitted, and the registry whose incumbent made it."""

    folder: Path
    registry: Registry

    def check(self, name: str, headroom: float, *gates: str, **told: object) -> tuple[int, str]:
        """Exit code of the gates on a candidate, and its version."""
        card = {"name": name, "miss_price": MISS_PRICE, "portfolio": portfolio_as_json(portfolio_of()), **told}
        export_checkpoint(a_network(headroom), self.folder / name, card)
        version = self.registry.add(self.folder / name)
        what = ["--refit", str(self.folder / "refit"), "--record", str(self.folder / "run"), "--twin-seeds", "2"]
        chosen = [word for gate in gates for word in ("--gate", gate)]
        told = poolpilot(
            "policies", "check", version, "--registry", str(self.registry.folder), *what, *chosen, "--json"
        )
        assert [own["gate"] for own in json.loads(told.stdout)["evidence"]] == list(gates)
        return told.exit_code, version


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    folder = tmp_path_factory.mktemp("explored")
    text = TINY
    for was, now in FLEET.items():
        assert was in text
        text = text.replace(was, now)
    scenario = folder / "tiny.yaml"
    scenario.write_text(text)
    registry = a_registry(folder, headroom=HEADROOM)
    lived = live(folder, registry, scenario, TICKS, exploration(spread=1.0, hold_ticks=1))
    (folder / "run").mkdir()
    lines = [sitting_text(lived.records[0].sitting), *(line_of(entry) for _, entry in lived.entries)]
    (folder / "run" / "decisions.jsonl").write_text("\n".join(lines) + "\n")
    told = poolpilot(
        *("finetune", "refit", str(folder / "run"), "--scenario", str(scenario), "--out", str(folder / "refit"))
    )
    assert told.exit_code == 0, told.output
    return Explored(folder, registry)


def test_who_does_what_the_incumbent_does_is_let_through(explored: Explored) -> None:
    code, version = explored.check("same", HEADROOM, OFF_POLICY, RANGES)
    assert code == 0
    evidence = explored.registry.evidence(version)
    assert {own.verdict for own in evidence.values()} == {Verdict.PASS}
    log = evidence[OFF_POLICY]
    assert log.reason.startswith("not worse on the log: gain a step +0.0000 (between +0.0000 and +0.0000)")
    assert log.figures["effective"] == log.figures["steps"] > 100
    assert log.figures["returns_deviation"] > 0.0
    assert set(log.inputs) == {str(explored.folder / "run")}
    assert evidence[RANGES].figures["recorded_ticks"] == TICKS
    shown = " ".join(poolpilot("policies", "show", version, "--registry", str(explored.registry.folder)).stdout.split())
    for figure in ("effective", "gain_by_weights_alone", "weights_cut_frac", "vetoes_per_tick", "outside_frac"):
        assert figure in shown


def test_who_does_what_the_noise_showed_to_be_dearer_is_not(explored: Explored) -> None:
    code, version = explored.check("dearer", DEARER, OFF_POLICY)
    assert code == 1
    found = explored.registry.evidence(version)[OFF_POLICY]
    assert (found.verdict, found.reason.startswith("worse on the log: gain a step -")) == (Verdict.FAIL, True), (
        found.reason
    )
    assert found.figures["effective"] > 50.0


@pytest.mark.parametrize(
    ("ticks", "verdict", "said"),
    [
        (60, Verdict.PASS, f"on the {TICKS - 60} ticks recorded since it learned: not worse on the log"),
        (TICKS - 1, Verdict.UNKNOWN, "the candidate learned from this very log, which therefore cannot speak for it"),
    ],
    ids=["a part of it", "all of it"],
)
def test_the_log_speaks_only_of_what_was_not_learned_from(
    explored: Explored, ticks: int, verdict: Verdict, said: str
) -> None:
    until = {"record": ["of another size"], "recorded_until_unix_s": STARTED_UNIX_S + 10.0 * (ticks - 0.5)}
    code, version = explored.check(f"tuned-{ticks}", HEADROOM, OFF_POLICY, finetuned=until)
    assert code == 0
    found = explored.registry.evidence(version)[OFF_POLICY]
    assert (found.verdict, found.reason.startswith(said)) == (verdict, True), found.reason


def test_who_leads_where_nobody_has_looked_is_not(explored: Explored) -> None:
    code, version = explored.check("starving", STARVING, RANGES)
    assert code == 1
    found = explored.registry.evidence(version)[RANGES]
    assert found.verdict is Verdict.FAIL, found.reason
    assert "leaves the recorded range more often" in found.reason
    assert found.figures["outside_worst"][0]["more_often_frac"] > 0.2


def test_a_record_whose_bill_is_flipped_about_its_mean_speaks_for_nobody(explored: Explored, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (explored.folder / "run" / "decisions.jsonl").read_text().splitlines()]
    usd = [line["since"]["usd"] for line in lines if line.get("since")]
    mean = np.mean(usd, axis=0)
    for line in lines:
        if line.get("since"):  # the same sum, and nothing below 0
            line["since"]["usd"] = np.maximum(2.0 * mean - np.array(line["since"]["usd"]), 0.0).tolist()
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    registry, folder = explored.registry, str(explored.registry.folder)
    version = next(own.version for own in registry.versions() if own.version != registry.incumbent())
    told = poolpilot(
        "policies", "check", version, "--registry", folder, "--record", str(tmp_path), "--gate", OFF_POLICY
    )
    assert told.exit_code == 1
    found = registry.evidence(version)[OFF_POLICY]
    assert found.verdict is Verdict.FAIL
    assert "the record is not to be trusted" in found.reason
    assert "its bill falls as its replicas rise" in found.reason
    refused = poolpilot(
        *("finetune", "refit", str(tmp_path), "--scenario", str(explored.folder / "tiny.yaml")),
        *("--out", str(tmp_path / "refit")),
    )
    assert refused.exit_code == 2
    assert "its bill falls as its replicas rise" in " ".join(refused.output.split())
