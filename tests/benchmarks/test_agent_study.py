"""The study of the agent's variants: real runs in miniature, not run twice, told in tables."""

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poolpilot.benchmarks import agent_study
from poolpilot.benchmarks.agent_study import VARIANTS, config_of, gathered, main, sections
from poolpilot.benchmarks.report import markdown
from poolpilot.tests.training.clusters import tiny
from poolpilot.training.config import TrainConfig

FREE = "free"


def studied(folder: Path, *more: str) -> Result:
    tiny(folder)
    suite = folder / "small.yaml"
    suite.write_text("schema: 1\nname: small\nsummary: One.\nscenarios:\n  - path: tiny.yaml\n")
    words = ("--suite", str(suite), "--random-worlds", "0", "--days", "1", "--steps", "1", "--seeds", "1")
    return CliRunner().invoke(main, [*words, "--out", str(folder / "study"), *more], catch_exceptions=False)


def test_a_study_is_run_once_and_told_beside_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before a run learns, the first rule is tried in every world of its bank: here minutes long, and few.
    monkeypatch.setattr(agent_study, "BANK", 8)
    quick = partial(TrainConfig, scenarios=(str(tmp_path / "tiny.yaml"),), clusters=4, steps_per_update=4)
    monkeypatch.setattr(agent_study, "TrainConfig", quick)
    assert studied(tmp_path, "--only", FREE).exit_code == 0
    folder = tmp_path / "study"
    result = folder / "free-seed0" / "result.json"
    first = json.loads(result.read_text())
    assert first["variant"] == FREE
    assert first["cpu_min"] > 0.0
    assert [row["scenario"] for row in first["scores"]["suite"]] == ["tiny"]
    written = result.stat().st_mtime_ns
    again = studied(tmp_path, "--only", FREE)
    assert again.exit_code == 0
    assert result.stat().st_mtime_ns == written, "a finished run was run again"
    (section,) = sections(gathered(folder))
    names = [row[0] for row in section.rows]
    assert len(names) == 5
    assert names[0] == "rule 0: plan-tracking+integral"
    assert names[-1] == FREE
    assert section.rows[0][-1].startswith("+0.000 [+0.000"), "the first rule against itself"
    assert "| free |" in markdown([section])
    other = studied(tmp_path, "--only", FREE, "--days", "2")
    assert other.exit_code == 2
    assert "name another --out" in other.output


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_from_the_first_only_where_they_say_so(variant: str) -> None:
    base, own = config_of("blend", 3, 1000), config_of(variant, 3, 1000)
    differing = {name for name in vars(base) if getattr(base, name) != getattr(own, name)}
    told = set(VARIANTS[variant][1])
    if "hold" in told:  # as many ticks are other numbers of steps
        assert own.steps * own.hold == base.steps * base.hold
        differing -= {"steps", "critic_first", "curriculum_steps", "evaluate_every"}
    assert differing == told
    assert own.seed == 3


def test_no_variant_imitates_rules_that_it_does_not_have() -> None:
    assert all(config_of(name, 0, 1).imitate == 0 for name in VARIANTS if config_of(name, 0, 1).acting == "free")
