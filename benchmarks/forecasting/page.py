"""The scores as tables for people and for docs/forecasting.md."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..report import Section
from .scoring import HORIZONS_MIN, SEASONAL, SHIPPED, Score, named, over, ratio
from .series import Series

LAST = "last minute"


def sections(every: list[Series], scores: list[Score]) -> Iterator[Section]:
    """All tables."""
    yield _methods(scores)
    for name, title in ((SEASONAL, "Beside the seasonal naive forecast"), (LAST, "Beside the last minute")):
        yield _by_series(every, named(scores, SHIPPED), named(scores, name), title)


def _methods(scores: list[Score]) -> Section:
    seasonal, last = named(scores, SEASONAL), named(scores, LAST)
    return Section(
        "All methods",
        "MASE is the mean over the traces. Then the errors as a share of those of the seasonal naive forecast and of the "
        "last minute's rate, geometric means over the traces; all at 1, 5 and 15 minutes. Last, how far off the forecast "
        "is a minute ahead while a made rush grows five-fold within three and a half minutes.",
        ("method", "chosen on the tuning days", "MASE", "of seasonal naive", "of last minute", "in a rush"),
        tuple(
            (
                score.name,
                score.setting or "-",
                _three(score.mase.mean(axis=0)),
                _three(over(score, seasonal)),
                _three(over(score, last)),
                "-" if math.isnan(score.rush_error) else f"{score.rush_error:.0%}",
            )
            for score in scores
        ),
    )


def _by_series(every: list[Series], ours: Score, naive: Score, title: str) -> Section:
    def cells(s: int, k: int) -> str:
        mean, low, high = ratio(ours.errors[s][:, k], naive.errors[s][:, k])
        return f"{ours.mase[s, k]:.2f} / {naive.mase[s, k]:.2f} = {mean:.2f} ({low:.2f} to {high:.2f})"

    return Section(
        title,
        "MASE of the shipped forecast / of the naive one = their ratio, with a 95 % interval (paired bootstrap over "
        "blocks of an hour, a twelfth of the scored part where that is shorter).",
        ("trace", *(f"{minutes} min" for minutes in HORIZONS_MIN)),
        tuple((series.name, *(cells(s, k) for k in range(len(HORIZONS_MIN)))) for s, series in enumerate(every)),
    )


def _three(values: np.ndarray) -> str:
    return " / ".join(f"{value:.2f}" for value in values)
