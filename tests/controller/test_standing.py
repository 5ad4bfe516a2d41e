"""What a sidecar leaves, the next one finds; a file that is not ours is refused by name."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poolpilot.controller.ladder import standing_on
from poolpilot.controller.standing import Keeper, StandingError, read
from poolpilot.env.contract import Action, Mode
from poolpilot.env.guard import first_state

from .ticks import a_plan, a_sitting

CLUSTER = a_sitting().cluster
IN_FORCE = first_state(a_plan(CLUSTER), CLUSTER).applied
REST = replace(IN_FORCE, replicas=IN_FORCE.replicas + 1.0)
LADDER = replace(
    standing_on(Mode.CANARY, CLUSTER.class_names, Mode.ACTIVE),
    was_active=True,
    wait_ticks=7,
    breaches=2,
    last_breach="slow",
)


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "standing.json"
    assert read(path, CLUSTER) is None
    Keeper(path, CLUSTER, "active up to active").keep(LADDER, IN_FORCE, REST)
    found = read(path, CLUSTER)
    assert found is not None
    assert found.ladder() == LADDER
    assert found.asked == "active up to active"
    for part, wanted in ((found.in_force, IN_FORCE), (found.rest, REST)):
        for field in fields(Action):
            np.testing.assert_array_equal(getattr(part, field.name), getattr(wanted, field.name))


def test_only_changes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "standing.json"
    keeper = Keeper(path, CLUSTER, "active")
    keeper.keep(LADDER, IN_FORCE, REST)
    path.unlink()
    keeper.keep(LADDER, IN_FORCE, REST)
    assert not path.exists()
    keeper.keep(LADDER, REST, REST)
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["standing.json"]


def spoilt(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def apply(text: bytes) -> bytes:
        document = json.loads(text)
        change(document)
        return json.dumps(document).encode()

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:40], "Unterminated|Expecting"),
        (lambda text: b"", "Expecting"),
        (lambda text: b"[]", "wanted an object"),
        (lambda text: b"[" * 50_000, "recursion"),
        (lambda text: b"x" * (2 << 20), "wanted an object"),
        (spoilt(lambda d: d.pop("mode")), "mode: missing"),
        (spoilt(lambda d: d.update(schema=99)), "schema: 99"),
        (spoilt(lambda d: d.update(mode="bold")), "mode: 'bold', wanted one of"),
        (spoilt(lambda d: d["pool_names"].reverse()), "pool_names: .*wanted .* as in the scenario"),
        (spoilt(lambda d: d["in_force"]["replicas"].pop()), "in_force.replicas: .* of shape"),
        (spoilt(lambda d: d["rest"]["admit"].__setitem__(0, None)), "rest.admit: .*wanted numbers from 0"),
        (spoilt(lambda d: d["in_force"]["batch_cap"].__setitem__(0, -1)), "in_force.batch_cap"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "standing.json"
    Keeper(path, CLUSTER, "active").keep(LADDER, IN_FORCE, REST)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StandingError, match=message) as refused:
        read(path, CLUSTER)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
