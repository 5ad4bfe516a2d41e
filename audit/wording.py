"""The figures of a replay's match in words and units. Pure."""

from __future__ import annotations

from typing import Final

_PARTS: Final = {
    "usd": "($)",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "end-to-end time",
    "met": "within its target",
}


def figure_name(figure: str) -> str:
    """`ttft_p95_s` as "TTFT p95"."""
    parts = figure.removesuffix("_s").split("_")
    return " ".join(_PARTS.get(part, part) for part in parts)


def figure_value(figure: str, value: float | None) -> str:
    """A value in its unit: seconds, a share, dollars or a count."""
    if value is None:
        return "-"
    if figure.endswith("_s"):
        return f"{1000.0 * value:.3g} ms" if value < 1.0 else f"{value:.3g} s"
    if figure == "attainment" or figure.endswith("_met"):
        return f"{100.0 * value:.2f} %"
    return f"{value:.2f}" if figure == "bill_usd" else f"{value:.4g}"
