"""The file of tuned knobs comes back as it was written, and a spoilt one is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from poolpilot.agents.portfolio import PLAN_TRACKING, RULE_SPECS, spec_of
from poolpilot.agents.tuned import SHIPPED, Reached, TunedError, TunedRule, read_tuned, write_tuned

KNOBS = spec_of(PLAN_TRACKING).defaults
RULE = TunedRule(
    knobs=KNOBS,
    trials=40,
    seeds=2,
    suite="train",
    suite_hash="0123456789abcdef",
    reached=Reached(loss=0.8, bill_ratio=0.75, shortfall=0.003),
    reached_by_defaults=Reached(loss=0.9, bill_ratio=0.9, shortfall=0.0),
    versions={"poolpilot": "0.1.0"},
)


def test_rules_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    write_tuned(path, {PLAN_TRACKING: RULE})
    assert read_tuned(path, spec_of) == {PLAN_TRACKING: RULE}
    assert [found.name for found in tmp_path.iterdir()] == ["tuned.json"]


def test_without_a_file_nothing_is_tuned(tmp_path: Path) -> None:
    assert read_tuned(tmp_path / "none.json", spec_of) == {}


def test_the_shipped_file_is_whole_and_within_range() -> None:
    """Reading checks every rule, every knob and its range."""
    tuned = read_tuned(SHIPPED, spec_of)
    assert not tuned or set(RULE_SPECS) <= set(tuned), "no rule may stay behind: poolpilot tune"
    assert len({(rule.suite_hash, rule.trials, rule.seeds) for rule in tuned.values()}) <= 1, "all tuned as hard"


def spoilt(**changes: Any) -> str:
    return json.dumps({PLAN_TRACKING: {**RULE.model_dump(mode="json"), **changes}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "dictionary|object"),
        (json.dumps({"no-such": RULE.model_dump(mode="json")}), "no rule 'no-such'"),
        (spoilt(knobs={**KNOBS, "nerve": 1.0}), "plan-tracking: no knob 'nerve'"),
        (spoilt(knobs={"headroom": 1.3}), "plan-tracking: no burst; wanted all of its knobs"),
        (spoilt(knobs={**KNOBS, "headroom": 99.0}), "headroom is 99.0, wanted 0.8 to 2"),
        (spoilt(knobs={**KNOBS, "headroom": float("nan")}), "knobs.headroom.*finite"),
        (spoilt(knobs={**KNOBS, "headroom": "1.3"}), "knobs.headroom.*number"),
        (spoilt(trials=0), "trials: 0"),
        (spoilt(more=1), "more.*[Ee]xtra"),
        (spoilt(reached={"loss": 1.0}), "reached.bill_ratio"),
    ],
    ids=["json", "list", "rule", "knob", "missing", "range", "nan", "text", "trials", "field", "evidence"],
)
def test_a_spoilt_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(TunedError, match=said) as caught:
        read_tuned(path, spec_of)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
