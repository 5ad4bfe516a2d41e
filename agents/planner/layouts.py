"""Layouts: how one replica of a model lies over GPUs, tensor and pipeline parallel, alike or unlike, and at which
precision."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Layout", "LayoutStage"]


@dataclass(frozen=True, slots=True)
class LayoutStage:
    """Some layers on GPUs of one type in one machine."""

    gpu: str
    """Of the catalogue."""
    layers: int
    tensor_parallel: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """One replica."""

    model: str
    """Of the catalogue."""
    precision: str
    """Of the weights: bf16, fp16, fp8, int8 or int4."""
    stages: tuple[LayoutStage, ...]

    @property
    def gpus(self) -> dict[str, int]:
        """How many of each type, in the order of the stages."""
        counts: dict[str, int] = {}
        for stage in self.stages:
            counts[stage.gpu] = counts.get(stage.gpu, 0) + stage.tensor_parallel
        return counts
