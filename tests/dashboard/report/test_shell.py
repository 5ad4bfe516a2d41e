"""Every report's shell: it opens without a network, runs no script but its own, and shows data as text."""

from __future__ import annotations

import base64
import hashlib
import re

import plotly.graph_objects as go
import pytest
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from poolpilot.dashboard.figures.palette import DARK_OF
from poolpilot.dashboard.report.shell import content_policy, environment, page, slot, unpacked

EVIL = "<script>alert(1)</script>"
FIGURE = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=EVIL))


def a_page(**more: str) -> str:
    return page(**{"title": EVIL, "body": EVIL, "lead": EVIL, **more}, figures={"one": FIGURE}, data={"name": EVIL})


def test_it_holds_its_figures_data_and_library_in_less_than_half_of_five_megabytes() -> None:
    html = a_page()
    assert len(html.encode()) < 2_500_000
    held = unpacked(html)
    assert held["figures"]["one"]["data"][0]["y"] == [3, 4]
    assert held["data"] == {"name": EVIL}
    assert held["dark"] == DARK_OF
    assert html.count("<script") == 4, "payload, library and two scripts"


def test_nothing_in_it_comes_from_another_host() -> None:
    html = a_page()
    assert not re.search(r"<(script|link|img|iframe|object|embed)[^>]*\s(src|href|data)\s*=", html, re.IGNORECASE)
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    assert not re.search(r"\w+\.\w+", policy[1]), "no host is named"


def test_scripts_run_by_their_hashes_alone() -> None:
    html = a_page()
    own = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (get_plotlyjs(), *own)]
    assert len(digests) == 3
    named = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {named};" in html.replace("&#39;", "'")
    assert content_policy(["a"]) != content_policy(["b"])


def test_text_is_escaped_wherever_it_stands() -> None:
    html = a_page()
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4, "title, heading, lead and body"
    assert EVIL not in slot('"><script>', EVIL)
    assert 'data-figure="&#34;&gt;&lt;script&gt;"' in slot('"><script>', "x")
    assert environment().from_string("{{ text }}").render(text=EVIL) == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_markup_stays_markup() -> None:
    assert "<b>bold</b>" in page("t", Markup("<b>bold</b>"), {})


@pytest.mark.parametrize("wrong", ["x = '</script>'", "<!-- "])
def test_a_script_that_would_end_itself_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="HTML would end it there"):
        page("t", "b", {}, scripts=[wrong])


def test_the_same_page_has_the_same_bytes() -> None:
    assert a_page() == a_page()


def test_what_is_no_page_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="no payload"):
        unpacked("<html></html>")
