"""The shell of every report: one HTML page that holds all it needs, and can load nothing from anywhere.

Figures and data stand in the page gzipped, and Plotly's own script too: a page takes 2 MB instead of 5. Its policy
(CSP) lets exactly the scripts run that are named by their hashes, so that a text from data could not run as one even if
it were not escaped; and it knows no host at all.

The page follows its reader's setting of light or dark by swapping colours (`palette.DARK_OF`); its own words and tables
are there without any script.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..figures.palette import CONFIG, DARK, DARK_OF, LIGHT
from .cells import counted

HERE: Final = Path(__file__).resolve().parent
ASSETS, TEMPLATES = HERE / "assets", HERE / "templates"
_PAYLOAD, _LIBRARY = "payload", "library"
"""Ids of the elements that hold what is packed."""


def environment(*folders: Path) -> Environment:
    """Templates of `folders` and the shell's own; everything that is put into one is escaped."""
    own = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own.globals["counted"] = counted
    return own


def page(
    title: str,
    body: Markup | str,
    figures: Mapping[str, go.Figure],
    *,
    narrow: Mapping[str, go.Figure] | None = None,
    lead: str = "",
    data: Any = None,
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
) -> str:
    """One HTML page; the same arguments make the same bytes.

    Args:
        title: of the page, and its heading.
        body: what stands below; escaped unless it is `Markup`. `slot` makes the places of figures.
        figures: light ones, by the key of their slot.
        narrow: on a phone instead of those of the same keys.
        lead: a line below the heading.
        data: JSON-ready, for `scripts`.
        scripts: of this kind of page, run when figures and data are there (`poolpilot.ready`).
        styles: of this kind of page.

    Raises:
        ValueError: a script or style that would end its own element.
    """
    library = get_plotlyjs()
    payload = {
        "figures": {key: json.loads(figure.to_json()) for key, figure in figures.items()},
        "narrow": {key: json.loads(figure.to_json()) for key, figure in (narrow or {}).items()},
        "config": CONFIG,
        "dark": DARK_OF,
        "data": data,
    }
    own = [*((ASSETS / name).read_text(encoding="utf-8") for name in ("shell.js", "tables.js")), *scripts]
    for text in (*own, *styles):
        if "</" in text or "<!--" in text:
            raise ValueError(
                f"a script or style of {title!r} holds </ or <!--; wanted neither, HTML would end it there"
            )
    return environment().get_template("shell.html").render(
        title=title,
        lead=lead,
        body=body,
        policy=content_policy([library, *own]),
        styles=[Markup(sheet) for sheet in ((ASSETS / "shell.css").read_text(encoding="utf-8"), *styles)],
        scripts=[Markup(script) for script in own],
        light=LIGHT,
        dark=DARK,
        payload_id=_PAYLOAD,
        library_id=_LIBRARY,
        payload=packed(json.dumps(payload, allow_nan=False, separators=(",", ":"))),
        library=_packed_library(),
    )  # fmt: skip


def slot(key: str, says: str, css_class: str = "", empty: str = "There is nothing to draw.") -> Markup:
    """The place of a figure.

    Args:
        key: scripts find it by `data-slot` and may show another figure there (`poolpilot.show`); else it is that of its key.
        says: in words what it shows, to those who do not see it.
        css_class: "tall", or nothing.
        empty: what stands there where a script asks for a figure that there is not.
    """
    return Markup(
        '<div class="figure {0}" data-slot="{1}" data-figure="{1}" data-empty="{3}" role="img" aria-label="{2}"></div>'
    ).format(css_class, key, says, empty)


def content_policy(scripts: Sequence[str]) -> str:
    """What a page may do: run these scripts, and load nothing. Plotly sets styles as it draws."""
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def packed(text: str) -> Markup:
    """Text as gzip in base64: the same bytes for the same text, and nothing in it that HTML knows."""
    return Markup(base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode())


def unpacked(html: str) -> dict[str, Any]:
    """What a page holds: its `figures` by key, as JSON, and its `data`."""
    found = re.search(rf'<script id="{_PAYLOAD}" type="text/plain">([^<]*)</script>', html)
    if found is None:
        raise ValueError("no payload; wanted a page of poolpilot's reports")
    document: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return document


@cache
def _packed_library() -> Markup:
    return packed(get_plotlyjs())


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
