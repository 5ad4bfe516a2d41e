"""docs/environment.md, the environment's data sheet, and the environment name the same observation."""

import re

from poolpilot.env.codec import CLASS_FEATURES, POOL_FEATURES, WHOLE_FEATURES
from poolpilot.env.spaces import MAX_CLASSES, MAX_POOLS

from .pages import DOCS

PAGE = (DOCS / "environment.md").read_text()


def features(heading: str) -> tuple[str, ...]:
    section = PAGE.split(f"\n### {heading}\n")[1].split("\n### ")[0]
    return tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_every_feature_has_its_row_in_the_order_of_the_vector() -> None:
    assert features("Observation of a class") == CLASS_FEATURES
    assert features("Observation of a pool") == POOL_FEATURES
    assert features("Observation of the whole") == WHOLE_FEATURES


def test_the_room_for_classes_and_pools_is_told() -> None:
    assert f"for each of {MAX_CLASSES} classes" in PAGE
    assert f"for each of {MAX_POOLS} pools" in PAGE
