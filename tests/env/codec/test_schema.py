"""A checkpoint's schema changes with whatever gives its numbers another meaning, and with nothing else."""

from __future__ import annotations

import pytest

from poolpilot.env import contract
from poolpilot.env.codec import features, observation_schema, outputs, schema


@pytest.mark.parametrize("names", ["CLASS_FEATURES", "POOL_FEATURES", "WHOLE_FEATURES"])
def test_the_schema_changes_with_the_features(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {observation_schema()}
    for other in ((*getattr(features, names), "mood"), getattr(features, names)[1:], getattr(features, names)[::-1]):
        monkeypatch.setattr(features, names, other)
        seen.add(observation_schema())
    assert len(seen) == 4


@pytest.mark.parametrize(
    "name",
    [
        *("HEADROOM_BEND", "REPLICA_BEND", "TILT_BEND", "CAP_BEND", "ADMIT_BEND", "HOLD_BEND"),
        *("CLASS_OUTPUTS", "POOL_OUTPUTS", "WHOLE_OUTPUTS"),
    ],
)
def test_the_schema_changes_with_the_outputs_and_bends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = observation_schema()
    monkeypatch.setattr(outputs, name, 7)
    assert observation_schema() != before


def test_the_schema_is_of_the_observation_not_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that no feature reads leaves trained networks as good as they were."""
    before = observation_schema()
    monkeypatch.setattr(contract, "SCHEMA_VERSION", contract.SCHEMA_VERSION + 1)
    assert observation_schema() == before
    monkeypatch.setattr(schema, "OBSERVATION_VERSION", schema.OBSERVATION_VERSION + 1)
    assert observation_schema() != before
