"""The reference of the scenario file names every field, and is the one that the code would write."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from poolpilot.env.catalog.cold_starts import LOADINGS
from poolpilot.env.scenario import Scenario, parse_scenario
from poolpilot.env.scenario.pools import ColdStart
from poolpilot.env.scenario.reference import field_docs, models_of, reference

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_every_field_of_every_model_is_in_the_reference() -> None:
    sections = {part.split("\n", 1)[0]: part for part in reference().split("\n## ")[1:]}
    models = list(models_of(Scenario))
    assert {model.__name__ for model in models} == set(sections)
    for model in models:
        for name, field in model.model_fields.items():
            if name != "base_dir":
                assert f"| `{field.alias or name}` |" in sections[model.__name__], (model, name)


def test_what_stands_under_a_field_is_its_meaning() -> None:
    assert field_docs(ColdStart)["give_up_s"].startswith("A start that does not serve this long")
    assert "A start that does not serve this long after it was asked for is given up" in reference()


def test_the_page_is_up_to_date() -> None:
    page = (DOCS / "scenario-reference.md").read_text()
    assert page == reference(), "run: poolpilot scenarios --reference > docs/scenario-reference.md"


def test_the_examples_of_the_guide_are_a_scenario() -> None:
    example, veil = re.findall(r"```yaml\n(.*?)```", (DOCS / "scenarios.md").read_text(), flags=re.DOTALL)
    plain = parse_scenario(yaml.safe_load(example), Path("docs/scenarios.md"))
    assert plain.cluster().pool_names == ("h100", "l40s")
    veiled = parse_scenario(yaml.safe_load(example) | yaml.safe_load(veil), Path("docs/scenarios.md"))
    assert veiled.telemetry is not None
    assert len(veiled.telemetry.gaps) == 3


def test_the_guide_has_the_table_of_load_times() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \|", (DOCS / "scenarios.md").read_text(), re.MULTILINE
    )
    table = [(r.storage, r.loader, r.duration.s_per_gb, r.duration.fixed_s) for r in LOADINGS.values()]
    assert [(storage, loader, float(rate), float(fixed)) for storage, loader, rate, fixed in rows] == table
