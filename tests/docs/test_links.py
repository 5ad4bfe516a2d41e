"""Links of the documents lead somewhere."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from .pages import DOCS, ROOT, Link, anchors, links, pages

OTHERS = {"saturation-analyzer.md"}
"""Pages of other projects' `docs` that are named as sources."""
SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "Makefile")


def broken(link: Link) -> str | None:
    """What is wrong with a link within the repository; those to elsewhere must be encrypted."""
    parts = urlsplit(link.target)
    if parts.scheme:
        return (
            None if parts.scheme in {"https", "mailto"} or parts.hostname in {"127.0.0.1", "localhost"} else "not https"
        )
    target = (link.page.parent / unquote(parts.path)).resolve() if parts.path else link.page
    if not target.is_relative_to(ROOT) or not target.exists():
        return "no such file"
    if parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
        return f"no such heading; there are {', '.join(sorted(anchors(target)))}"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    wrong = {link.where: problem for link in links(page) if (problem := broken(link)) is not None}
    assert not wrong


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("docs/operating.md#3-advise-watch-change-nothing", None),
        ("docs/scenario-reference.md#pool", None),
        ("docs/operating.md#advice", "no such heading"),
        ("docs/operations.md", "no such file"),
        ("../elsewhere.md", "no such file"),
        ("http://example.com/", "not https"),
        ("https://example.com/", None),
    ],
)
def test_a_broken_link_is_noticed(target: str, problem: str | None) -> None:
    found = broken(Link(ROOT / "README.md", 1, target))
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_pages_that_code_and_messages_name_are_there() -> None:
    """`docs/evaluation.md` in a help text or an error sends people there."""
    folders = [
        ROOT / name for name in ("commands", "env", "agents", "controller", "telemetry", "training", "dashboard")
    ]
    folders += [ROOT / name for name in ("audit", "benchmarks", "deploy", "engine_plugin")]
    files = [path for folder in folders for pattern in SOURCES for path in folder.rglob(pattern)]
    assert len(files) > 200
    named = {(path, name) for path in files for name in re.findall(r"\bdocs/([\w-]+\.md)\b", path.read_text())}
    assert {name for _, name in named} >= {"evaluation.md", "tuning.md"}
    missing = sorted(
        f"{path.relative_to(ROOT)}: docs/{name}"
        for path, name in named
        if not (DOCS / name).exists() and name not in OTHERS
    )
    assert not missing
