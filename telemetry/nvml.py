"""GPUs of the own host through NVML, by NVIDIA's binding (extra `nvml`). Blocking: call it from a thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from .gpu_readings import GpuReading, slowed

_MILLI: Final = 1e-3
_PERCENT: Final = 1e-2


class NvmlError(RuntimeError):
    """The GPUs cannot be read; the message says what was looked for and what to do."""


class Nvml:
    """NVML, opened at the first reading and opened again after it failed.

    A figure that a GPU does not have (power on some virtual GPUs) is NaN. A GPU that is lost, or a driver that was
    replaced under a running process, is an error.
    """

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._binding: Any = None

    def read(self, gpus: Sequence[int | str]) -> tuple[GpuReading, ...]:
        """These GPUs, by index or UUID; all of the host if none is named.

        Raises:
            NvmlError: no binding, no driver, no such GPU, or one that does not answer.
        """
        nvml = self._opened()
        try:
            wanted = gpus or range(nvml.nvmlDeviceGetCount())
            return tuple(self._reading(nvml, gpu) for gpu in wanted)
        except nvml.NVMLError as error:
            self.close()
            raise NvmlError(f"NVML: {error}") from None

    def close(self) -> None:
        """Let the library go; the next reading opens it again."""
        nvml, self._binding = self._binding, None
        if nvml is not None:
            with suppress(nvml.NVMLError):  # a driver that is gone needs no goodbye
                nvml.nvmlShutdown()

    def _opened(self) -> Any:
        if self._binding is None:
            try:
                import pynvml
            except ImportError as error:
                raise NvmlError(f"no NVML binding ({error}): pip install 'poolpilot[nvml]'") from None
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise NvmlError(
                    f"NVML: {error}; looked for libnvidia-ml.so.1 of the NVIDIA driver and a GPU that it serves"
                ) from None
            self._binding = pynvml
        return self._binding

    def _reading(self, nvml: Any, gpu: int | str) -> GpuReading:
        try:
            handle = (
                nvml.nvmlDeviceGetHandleByIndex(gpu)
                if isinstance(gpu, int)
                else nvml.nvmlDeviceGetHandleByUUID(gpu.encode())
            )
        except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotFound):
            raise NvmlError(f"NVML: no GPU {gpu!r} among the {nvml.nvmlDeviceGetCount()} of this host") from None

        def told(figure: Callable[[], float]) -> float:
            try:
                return figure()
            except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission):
                return math.nan

        return GpuReading(
            name=nvml.nvmlDeviceGetUUID(handle),
            util_frac=told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu * _PERCENT),
            memory_used_frac=told(lambda: _used_frac(nvml.nvmlDeviceGetMemoryInfo(handle))),
            temp_c=told(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            power_w=told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) * _MILLI),
            throttled=told(lambda: slowed(_reasons(nvml, handle))),
        )


def _used_frac(memory: Any) -> float:
    return float(memory.used / memory.total) if memory.total else math.nan


def _reasons(nvml: Any, handle: Any) -> int:
    """The clocks' event reasons; drivers before R535 know them by their older name only."""
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except nvml.NVMLError_FunctionNotFound:
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
