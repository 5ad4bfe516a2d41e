"""A checkpoint is whole, unchanged and made for this build, or it is refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poolpilot.agents import checkpoint
from poolpilot.agents.blend import portfolio_as_json
from poolpilot.agents.checkpoint import (
    CARD,
    MAX_CARD_BYTES,
    ONNX,
    WEIGHTS,
    CheckpointError,
    CheckpointMismatch,
    file_hash,
    load_checkpoint,
    shipped_checkpoints,
    write_card,
)
from poolpilot.agents.portfolio import portfolio_of
from poolpilot.env.codec import observation_schema

PORTFOLIO = portfolio_as_json(portfolio_of())
A_RULE = {"rule": "plan-tracking", "knobs": {"headroom": 1.2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole as far as the card can tell: no network is run here."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ONNX).write_bytes(b"network")
    (mine / WEIGHTS).write_bytes(b"weights")
    write_card(mine, {"name": "steady", "miss_price": 0.5, "portfolio": PORTFOLIO})
    return mine


def rewrite(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD).read_text())
    card.update(changes)
    (folder / CARD).write_text(json.dumps({k: v for k, v in card.items() if v is not None}))


def test_a_whole_folder_is_read(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.name, loaded.miss_price, loaded.folder) == ("steady", 0.5, folder)
    assert loaded.policy_hash == file_hash(folder / ONNX)[:16]
    assert loaded.card["observation_schema"] == observation_schema()
    assert load_checkpoint(str(folder)).card == loaded.card


def test_without_a_name_the_folders_is_taken(folder: Path) -> None:
    rewrite(folder, name=None)
    assert load_checkpoint(folder).name == "mine"


@pytest.mark.parametrize("name", [ONNX, WEIGHTS])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"other")
    with pytest.raises(CheckpointMismatch, match=rf"{name}: sha256 .*was changed or cut short.*copy it again"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", [ONNX, WEIGHTS])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"card.json names '{name}', which is not there; copy the whole folder"):
        load_checkpoint(folder)


def test_a_half_written_folder_has_no_card_and_is_refused(folder: Path) -> None:
    (folder / CARD).unlink()
    with pytest.raises(CheckpointError, match=r"no card\.json there and no shipped checkpoint of that name"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["nowhere", "", "/", "x" * 200])
def test_a_name_of_nothing_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="shipped are"):
        load_checkpoint(name)


def test_a_checkpoint_of_another_schema_is_refused(folder: Path) -> None:
    rewrite(folder, observation_schema="0123456789abcdef", poolpilot="0.0.9")
    with pytest.raises(
        CheckpointMismatch, match=rf"schema 0123456789abcdef, .*{observation_schema()}; train again.*poolpilot 0\.0\.9"
    ):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"miss_price": NaN}', "not readable as JSON: NaN"),
        (b'{"miss_price": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b"[]", "wanted a JSON object"),
        (b'"card"', "wanted a JSON object"),
        (b" " * (MAX_CARD_BYTES + 1), "larger than"),
    ],
    ids=["empty", "cut short", "no text", "very deep", "NaN", "too many digits", "a list", "a word", "too big"],
)
def test_a_card_that_is_none_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / CARD).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"card\.json: {said}"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("observation_schema", None, "observation_schema: None, wanted the schema's hash"),
        ("observation_schema", 7, "observation_schema: 7"),
        ("files", None, "files: None, wanted file names"),
        ("files", [ONNX], "files: "),
        ("files", {WEIGHTS: "0"}, "files: policy.onnx is missing"),
        ("miss_price", None, "miss_price: None, wanted a price"),
        ("miss_price", "dear", "miss_price: 'dear', wanted a price"),
        ("miss_price", True, "miss_price: True, wanted a price"),
        ("miss_price", -1.0, "miss_price: -1.0, wanted a price"),
        ("miss_price", 10**400, "miss_price: 1000.*, wanted a price"),
    ],
)
def test_a_card_without_what_is_needed_is_refused(folder: Path, field: str, value: Any, said: str) -> None:
    rewrite(folder, **{field: value})
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("portfolio", "said"),
    [
        (None, "portfolio: None, wanted a list of 4 rules with their knobs"),
        ({}, "portfolio: {}, wanted a list of 4 rules with their knobs"),
        ([], "portfolio: 0 rules, wanted 4"),
        ([A_RULE] * 3, "portfolio: 3 rules, wanted 4"),
        ([A_RULE] * 5, "portfolio: 5 rules, wanted 4"),
        ([A_RULE] * 3 + ["threshold"], r"portfolio\[3\]: 'threshold', wanted {\"rule\": name"),
        ([A_RULE] * 3 + [{"rule": "threshold"}], r"portfolio\[3\]: {'rule': 'threshold'}, wanted"),
        ([A_RULE] * 3 + [{**A_RULE, "more": 1}], r"portfolio\[3\]: .*more.*, wanted"),
        ([{**A_RULE, "rule": 7}] + [A_RULE] * 3, r"portfolio\[0\].rule: 7, wanted a rule's name"),
        ([{**A_RULE, "knobs": [1]}] + [A_RULE] * 3, r"portfolio\[0\].knobs: \[1\], wanted numbers by name"),
        ([{**A_RULE, "knobs": {"hold_s": "long"}}] + [A_RULE] * 3, r"portfolio\[0\].knobs.hold_s: 'long', wanted"),
        ([{**A_RULE, "knobs": {"hold_s": True}}] + [A_RULE] * 3, r"portfolio\[0\].knobs.hold_s: True, wanted"),
        ([{**A_RULE, "knobs": {"hold_s": -1.0}}] + [A_RULE] * 3, r"portfolio\[0\].knobs.hold_s: -1.0, wanted"),
        ([{**A_RULE, "knobs": {"hold_s": 10**400}}] + [A_RULE] * 3, r"portfolio\[0\].knobs.hold_s: 1000.*, wanted"),
        ([{**A_RULE, "knobs": {"k" * 5000: None}}] + [A_RULE] * 3, r"portfolio\[0\].knobs.kkkk.*: None, wanted"),
    ],
)
def test_a_card_that_does_not_say_what_it_blends_is_refused_in_one_line(
    folder: Path, portfolio: Any, said: str
) -> None:
    rewrite(folder, portfolio=portfolio)
    with pytest.raises(CheckpointError, match=rf"card\.json: {said}") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_card_says_what_is_blended(folder: Path) -> None:
    assert load_checkpoint(folder).portfolio == portfolio_of()


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/hostname", "sub/policy.onnx", "..", ".", "", "..\\secret", "n" * 5000, "nul\x00byte"],
    ids=["up", "absolute", "down", "parent", "itself", "nothing", "backslash", "very long", "a null byte"],
)
def test_a_card_cannot_name_files_outside_its_folder(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"secret")
    files = json.loads((folder / CARD).read_text())["files"]
    rewrite(folder, files={**files, name: file_hash(folder.parent / "secret")})
    with pytest.raises(CheckpointError, match=r"card\.json names ") as caught:
        load_checkpoint(folder)
    assert len(str(caught.value)) < 1000


def test_the_card_is_written_last_and_at_once(folder: Path) -> None:
    assert not list(folder.glob("*.part"))
    write_card(folder, {"miss_price": 1.0, "portfolio": PORTFOLIO})
    assert set(load_checkpoint(folder).card["files"]) == {ONNX, WEIGHTS}


def test_shipped_checkpoints_are_listed_by_name_and_all_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in shipped_checkpoints().items():
        assert load_checkpoint(name).folder == path
    monkeypatch.setattr(checkpoint, "SHIPPED", folder.parent)
    (folder.parent / "unfinished").mkdir()
    assert shipped_checkpoints() == {"mine": folder}
    assert load_checkpoint("mine").name == "steady"
