"""Caps are read in two places that may not import each other, and must be read alike: vLLM's plugin, and the emulator."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.engine_plugin import poolpilot_engine as plugin
from poolpilot.env.emulator import cap_file as emulator


def a_document(token: Any = 1, cap: Any = 16, budget: Any = 512, **more: Any) -> bytes:
    return json.dumps({"fencing_token": token, "batch_cap": cap, "token_budget": budget, **more}).encode()


def by_plugin(text: bytes) -> dict[str, int] | str:
    """What the plugin makes of it: the caps, or what it says."""
    try:
        return asdict(plugin.parse_caps(text))
    except plugin.CapsError as error:
        return str(error)


def by_emulator(text: bytes) -> dict[str, int] | str:
    """What an emulated replica makes of it."""
    try:
        return asdict(emulator.parse_caps(text))
    except emulator.CapsError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b" " * 4097, "more than 4096 bytes"),
        (a_document() + b" " * 4096, "more than 4096 bytes"),
        (b"[]", "exactly the fields"),
        (b"null", "exactly the fields"),
        (b'{"batch_cap": 3}', "exactly the fields"),
        (a_document(more=1), "exactly the fields"),
        (a_document(token=-1), "fencing_token: -1"),
        (a_document(cap=0), "batch_cap: 0"),
        (a_document(budget=0), "token_budget: 0"),
        (a_document(budget=-1), "token_budget: -1"),
        (a_document(cap=True), "batch_cap: True"),
        (a_document(cap=3.0), "batch_cap: 3.0"),
        (a_document(cap="3"), "batch_cap: '3'"),
        (a_document(cap=None), "batch_cap: None"),
        (a_document(budget=float("nan")), "token_budget: nan"),
        (a_document(token=10**400), {"fencing_token": 10**400, "batch_cap": 16, "token_budget": 512}),
        (a_document(token=0, cap=1, budget=1), {"fencing_token": 0, "batch_cap": 1, "token_budget": 1}),
        (a_document(), {"fencing_token": 1, "batch_cap": 16, "token_budget": 512}),
        (b" \n" + a_document() + b"\n", {"fencing_token": 1, "batch_cap": 16, "token_budget": 512}),
    ],
)
def test_both_take_the_same_and_refuse_the_same_by_its_name(text: bytes, words: str | dict[str, int]) -> None:
    made = by_plugin(text)
    assert made == by_emulator(text)
    assert words in made if isinstance(words, str) else made == words


_VALUES = st.none() | st.booleans() | st.integers(-2, 5000) | st.floats() | st.text(max_size=3)


@given(
    st.binary(max_size=80)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
    | st.builds(a_document, _VALUES, _VALUES, _VALUES)
)
def test_both_make_the_same_of_anything(text: bytes) -> None:
    assert by_plugin(text) == by_emulator(text)
    with suppress(plugin.CapsError):
        assert plugin.parse_caps(text).batch_cap >= 1
