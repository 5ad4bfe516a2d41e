"""docs/workloads.md says every field, and its examples are valid."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from poolpilot.env.workload.formats.kinds import FORMATS, Format
from poolpilot.env.workload.spec import (
    AssignRule,
    Bimodal,
    Bursts,
    ClassLoad,
    Clients,
    Diurnal,
    Fixed,
    JobLoad,
    Lognormal,
    Scaling,
    ServegenSpec,
    SessionLoad,
    SharedPrefix,
    TraceSpec,
    Weekly,
    WorkloadSpec,
)

PAGE = (Path(__file__).parents[3] / "docs" / "workloads.md").read_text(encoding="utf-8")
SPECS: list[type[BaseModel]] = [
    *(AssignRule, Bimodal, Bursts, ClassLoad, Clients, Diurnal, Fixed, JobLoad, Lognormal, Scaling, ServegenSpec),
    *(SessionLoad, SharedPrefix, TraceSpec, Weekly),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_field_is_documented(spec: type[BaseModel]) -> None:
    names = [field.alias or name for name, field in spec.model_fields.items()]
    assert [name for name in names if not re.search(rf"\b{name}\b", PAGE)] == []


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_every_column_is_documented(kind: Format) -> None:
    assert [name for name in kind.columns if name not in PAGE] == []


def test_the_whole_examples_are_valid() -> None:
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "..." not in block]
    assert len(blocks) == 2
    for block in blocks:
        TypeAdapter(WorkloadSpec).validate_python(yaml.safe_load(block)["workload"])
