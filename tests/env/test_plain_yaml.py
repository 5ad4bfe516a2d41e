"""YAML from strangers is data or an error, never a hang."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.plain_yaml import PlainYamlError, plain_yaml

LEVELS = 30
LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, LEVELS))
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, LEVELS)
)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("# nothing", None),
        ("a: {b: [1, 2.5, x, null, true]}", {"a": {"b": [1, 2.5, "x", None, True]}}),
        ("base: &b {x: 1}\none: {<<: *b, y: 2}\ntwo: *b", {"base": {"x": 1}, "one": {"x": 1, "y": 2}, "two": {"x": 1}}),
    ],
    ids=["empty", "a comment", "nested", "a few aliases"],
)
def test_plain_data_is_read(text: str, data: Any) -> None:
    assert plain_yaml(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "a: b: c",
        "a: *nowhere",
        "a: 1\n---\nb: 2",
        "\x00",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!timestamp x",
        "a: !!bool perhaps",
        "a: !!int none",
        "a: !!float none",
        "a: 2024-99-99",
        "? [a]\n: 1",
        "a: " + "9" * 5000,
        "[" * 5000,
        LAUGHS,
        MERGES,
        "a: &a [*a]",
        'a: "\\ud800"',
        "a: &a {<<: *a}",
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_plain_data_is_refused_at_once(text: str) -> None:
    with pytest.raises(PlainYamlError):
        plain_yaml(text)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text("&*[]{}:,-?!<>|'\"#%@ \n\tab01.", max_size=80))
def test_any_text_is_data_or_an_error(text: str) -> None:
    with suppress(PlainYamlError):
        plain_yaml(text)
