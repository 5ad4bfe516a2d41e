"""A look at what a network answers before it becomes a version: whole files may hold a network that no policy should be.

The hashes of a poisoned checkpoint are in order; its numbers are not. It is asked about made-up observations all over the
range that every observation lies in.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...env.codec import CLASS_FEATURES, CLASS_OUTPUTS, POOL_FEATURES, POOL_OUTPUTS, WHOLE_FEATURES, WHOLE_OUTPUTS
from ...env.contract import FloatArray
from ..checkpoint import ONNX, Checkpoint, CheckpointError
from ..learned import INPUTS, OUTPUTS, network_session

PROBES: Final = 64
"""Observations of each size of cluster."""
SIZES: Final = ((1, 1), (3, 4), (6, 8))
"""Classes and pools."""
MOST_CUT: Final = 0.25
"""Outputs mean something in [-1, 1] and are cut beyond (`env.codec.Outputs`). A network of which more than this share is
cut does not decide: it leans on the stops. Of the shipped one, none is."""


class ProbeError(CheckpointError):
    """A network answers with numbers that no policy should; the message says which."""


def probe(checkpoint: Checkpoint, seed: int = 0) -> None:
    """Nothing, if the network's answers are finite numbers of the right shape and scale.

    Raises:
        ProbeError: they are not.
        CheckpointError: ONNX Runtime cannot load it.
    """
    session, path = network_session(checkpoint), checkpoint.folder / ONNX
    rng = np.random.default_rng(seed)
    for classes, pools in SIZES:
        asked = _observations(classes, pools, rng)
        try:
            answers = session.run(OUTPUTS, {name: asked[name].astype(np.float32) for name in INPUTS})
        except Exception as error:  # noqa: BLE001  # onnxruntime's own exception types share no public base
            raise ProbeError(f"{path}: it fails on a cluster of {classes} classes and {pools} pools: {error}") from None
        wanted = ((PROBES, classes, CLASS_OUTPUTS), (PROBES, pools, POOL_OUTPUTS), (PROBES, WHOLE_OUTPUTS))
        for name, answer, shape in zip(OUTPUTS, answers, wanted, strict=True):
            _check(np.asarray(answer, dtype=np.float64), name, shape, str(path))


def _check(answer: FloatArray, name: str, shape: tuple[int, ...], path: str) -> None:
    if answer.shape != shape:
        raise ProbeError(f"{path}: {name} has shape {answer.shape}, wanted {shape}")
    if not np.isfinite(answer).all():
        odd = answer[~np.isfinite(answer)].flat[0]
        raise ProbeError(f"{path}: {name} is {odd} on an ordinary observation, wanted finite numbers")
    cut = float((np.abs(answer) > 1.0).mean())
    if cut > MOST_CUT:
        raise ProbeError(
            f"{path}: {cut:.0%} of {name} lie beyond [-1, 1], up to {np.abs(answer).max():.3g}, wanted at most"
            f" {MOST_CUT:.0%}: everything beyond is cut, so it always does the utmost"
        )


def _observations(classes: int, pools: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """`PROBES` of them, uniform in [-1, 1]; nothing is masked."""

    def drawn(*shape: int) -> FloatArray:
        values: FloatArray = rng.uniform(-1.0, 1.0, (PROBES, *shape))
        return values

    return {
        "classes": drawn(classes, len(CLASS_FEATURES)),
        "pools": drawn(pools, len(POOL_FEATURES)),
        "whole": drawn(len(WHOLE_FEATURES)),
        "class_mask": np.ones((PROBES, classes)),
        "pool_mask": np.ones((PROBES, pools)),
    }
