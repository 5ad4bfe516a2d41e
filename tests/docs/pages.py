"""What the documents hold, as their readers' browsers see it: code blocks, code within text, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


class Block(NamedTuple):
    """A block of code."""

    page: Path
    line: int
    language: str
    """As the fence names it; empty: unnamed."""
    text: str

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


class Link(NamedTuple):
    """A link or a picture."""

    page: Path
    line: int
    target: str

    @property
    def where(self) -> str:
        """Page, line and target."""
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.target}"


def pages() -> list[Path]:
    """Every document of the repository."""
    folders = (ROOT, DOCS, ROOT / "deploy", ROOT / "engine_plugin")
    return sorted(path for folder in folders for path in folder.glob("*.md" if folder == ROOT else "**/*.md"))


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    """Fenced code, in its order, without what is meant for the site's generator."""
    for token in _tokens(page):
        if token.type == "fence" and not token.info.startswith("{"):
            assert token.map is not None
            yield Block(page, token.map[0] + 1, token.info.strip(), token.content)


def _inline(page: Path) -> Iterator[tuple[int, Token]]:
    """Pieces of running text with the line where their paragraph begins."""
    line = 0
    for token in _tokens(page):
        if token.map is not None:
            line = token.map[0] + 1
        for child in token.children or ():
            yield line, child


def code_in_text(page: Path) -> Iterator[Block]:
    """What stands in backquotes within text."""
    for line, token in _inline(page):
        if token.type == "code_inline":
            yield Block(page, line, "", token.content)


def links(page: Path) -> Iterator[Link]:
    """Links and pictures."""
    for line, token in _inline(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if token.type in {"link_open", "image"} and isinstance(target, str):
            yield Link(page, line, target)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What links may name after `#`: headings as GitHub spells them, and anchors that stand in the page."""
    found = set(re.findall(r'<a id="([^"]+)"', page.read_text(encoding="utf-8")))
    tokens = _tokens(page)
    for opening, text in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in text.children or () if child.type in {"text", "code_inline"})
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            again = sum(1 for own in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", own))
            found.add(f"{slug}-{again}" if again else slug)
    return frozenset(found)
