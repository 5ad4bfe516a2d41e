"""GPUs of pools: DCGM exporters' pages and NVML become columns of a snapshot; what one source lacks hides no other."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.env.scenario.sources import GpuMetrics
from poolpilot.telemetry.dcgm_page import parse_dcgm_page
from poolpilot.telemetry.gpu_collector import GpuCollector
from poolpilot.telemetry.gpu_readings import GpuReading, PoolGpus, slowed
from poolpilot.telemetry.metrics_page import PageError
from poolpilot.telemetry.nvml import NvmlError

SOURCE = "http://gpu-1:9400/metrics"


def gpu_lines(gpu: int, pod: str, util: float, temp: float, watts: float, reasons: int | None = None) -> str:
    labels = (
        f'{{gpu="{gpu}",UUID="GPU-{gpu}",pci_bus_id="00000000:0{gpu}:00.0",device="nvidia{gpu}",'
        f'modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-1",container="vllm",namespace="llm",pod="{pod}"}}'
    )
    lines = [
        f"DCGM_FI_DEV_SM_CLOCK{labels} 1980",
        f"DCGM_FI_DEV_GPU_TEMP{labels} {temp}",
        f"DCGM_FI_DEV_POWER_USAGE{labels} {watts}",
        f"DCGM_FI_DEV_GPU_UTIL{labels} {util}",
        f"DCGM_FI_DEV_FB_FREE{labels} 20000",
        f"DCGM_FI_DEV_FB_USED{labels} 59000",
        f"DCGM_FI_DEV_FB_RESERVED{labels} 1000",
    ]
    if reasons is not None:
        lines.append(f"DCGM_FI_DEV_CLOCKS_EVENT_REASONS{labels} {reasons}")
    return "".join(line + "\n" for line in lines)


HEAD = "# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).\n# TYPE DCGM_FI_DEV_GPU_TEMP gauge\n"
PAGE = HEAD + gpu_lines(0, "vllm-h100-a", 80, 71, 640.5, 0) + gpu_lines(1, "vllm-h100-b", 60, 88, 700.0, 0x40)
PAGE += gpu_lines(2, "training-x", 99, 95, 710.0, 0x40)


def test_a_page_tells_every_gpu() -> None:
    first, second, _ = (gpu.reading for gpu in parse_dcgm_page(PAGE, SOURCE))
    assert first == GpuReading("GPU-0", 0.8, 59000 / 80000, 71.0, 640.5, 0.0)
    assert (second.temp_c, second.throttled) == (88.0, 1.0)


def test_what_the_exporter_does_not_count_is_unknown() -> None:
    (gpu,) = parse_dcgm_page(gpu_lines(0, "a", 80, 71, 640.5), SOURCE)
    assert math.isnan(gpu.reading.throttled)
    blank = gpu_lines(0, "a", 80, 71, 640.5).replace(" 640.5", " 9223372036854775794")
    assert math.isnan(parse_dcgm_page(blank, SOURCE)[0].reading.power_w)


def test_older_and_profiling_names() -> None:
    old = PAGE.replace("CLOCKS_EVENT_REASONS", "CLOCK_THROTTLE_REASONS")
    assert [g.reading.throttled for g in parse_dcgm_page(old, SOURCE)] == [0.0, 1.0, 1.0]
    profiled = gpu_lines(0, "a", 0.35, 71, 640.5).replace("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE")
    assert parse_dcgm_page(profiled, SOURCE)[0].reading.util_frac == 0.35


def test_instances_of_one_gpu_are_one() -> None:
    lines = gpu_lines(0, "a", 40, 71, 640.5)
    other = gpu_lines(0, "b", 60, 71, 640.5)
    (gpu,) = parse_dcgm_page(lines + other, SOURCE)
    assert (gpu.reading.util_frac, gpu.reading.power_w, gpu.reading.temp_c) == (0.5, 640.5, 71.0)


@pytest.mark.parametrize(
    ("page", "named"),
    [
        ("", "cut off"),
        (PAGE[:-10], "cut off"),
        ("# nothing here\n", "no DCGM_FI_DEV_GPU_TEMP"),
        (PAGE.replace(" 71\n", " 171\n"), "DCGM_FI_DEV_GPU_TEMP: 171, wanted 0 to 150"),
        (PAGE.replace(" 80\n", " 180\n"), "DCGM_FI_DEV_GPU_UTIL: 1.8, wanted 0 to 1"),
        (PAGE.replace(" 640.5\n", " -1\n"), "DCGM_FI_DEV_POWER_USAGE: -1"),
        (PAGE.replace(" 640.5\n", " warm\n"), "not a metric line"),
        (PAGE + gpu_lines(0, "vllm-h100-a", 80, 71, 640.5, 0), "two values for the labels"),
    ],
)
def test_a_page_that_cannot_be_used_is_named(page: str, named: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_dcgm_page(page, SOURCE)
    assert named in str(caught.value)
    assert SOURCE in str(caught.value)


@given(st.integers(0, len(PAGE)), st.integers(0, 60), st.text(max_size=20))
def test_a_damaged_page_is_a_page_or_a_page_error(at: int, cut: int, insert: str) -> None:
    try:
        gpus = parse_dcgm_page(PAGE[:at] + insert + PAGE[at + cut :], SOURCE)
    except PageError:
        return
    for gpu in gpus:
        assert math.isnan(gpu.reading.temp_c) or 0 <= gpu.reading.temp_c <= 150
        assert math.isnan(gpu.reading.util_frac) or 0 <= gpu.reading.util_frac <= 1


@pytest.mark.parametrize(
    ("reasons", "slow"),
    [(0, 0.0), (0x1, 0.0), (0x2, 0.0), (0x10, 0.0), (0x4, 1.0), (0x8, 1.0), (0x20, 1.0), (0x41, 1.0), (0x80, 1.0)],
    ids=["none", "idle", "set", "sync", "power cap", "hardware", "heat", "heat and idle", "power brake"],
)
def test_only_heat_and_power_slow_a_gpu(reasons: int, slow: float) -> None:
    assert slowed(reasons) == slow


def test_columns_are_means_sums_and_the_hottest() -> None:
    gpus = (GpuReading("a", 0.5, 0.5, 60.0, 300.0, 0.0), GpuReading("b", 1.0, 0.5, 80.0, 400.0, 1.0))
    assert PoolGpus(gpus, 0.0, True).columns() == {
        "gpu_util_frac": 0.75,
        "gpu_temp_c": 80.0,
        "power_w": 700.0,
        "throttled": 0.5,
    }
    part = PoolGpus(gpus, 0.0, False).columns()
    assert math.isnan(part["power_w"])
    assert part["gpu_temp_c"] == 80.0
    one_unknown = PoolGpus((gpus[0], GpuReading("b")), 0.0, True).columns()
    assert math.isnan(one_unknown["power_w"])
    assert (one_unknown["gpu_temp_c"], one_unknown["throttled"]) == (60.0, 0.0)
    assert all(math.isnan(value) for value in PoolGpus((), 9.0, False).columns().values())


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class OwnGpus:
    """The own host's GPUs, without a driver: `read` is NVML's face."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.hangs.set()
        self.asked: list[Sequence[int | str]] = []

    def read(self, gpus: tuple[int | str, ...]) -> tuple[GpuReading, ...]:
        self.asked.append(gpus)
        self.hangs.wait(60)
        if "GPU-gone" in gpus:
            raise NvmlError("NVML: GPU is lost")
        return (GpuReading("own", 0.25, 0.5, 50.0, 70.0, 0.0),)


@asynccontextmanager
async def exporter(pages: dict[str, str]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        text = pages[request.path]
        return web.Response(text=text, status=200 if text else 503)

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_pools_share_a_page_by_labels_and_one_bad_source_hides_no_other() -> None:
    clock, pages = Clock(), {"/one": PAGE, "/two": PAGE}
    async with exporter(pages) as url, aiohttp.ClientSession() as session:
        sources = {
            "h100": GpuMetrics(dcgm=(f"{url}/one",), labels={"pod": "vllm-h100-*"}),
            "both": GpuMetrics(dcgm=(f"{url}/two",), labels={"gpu": "2"}, nvml=(0,)),
            "none": GpuMetrics(dcgm=(f"{url}/one",), labels={"pod": "vllm-l4-*", "gpu": "7"}),
            "absent": GpuMetrics(dcgm=("http://127.0.0.1:1/metrics",)),
        }
        collector = GpuCollector(session, clock, sources, fresh_s=30.0, timeout_s=20.0, library=OwnGpus())
        pools = await collector.collect()
        assert [gpu.name for gpu in pools["h100"].gpus] == ["GPU-0", "GPU-1"]
        assert pools["h100"].columns()["power_w"] == 1340.5
        assert [gpu.name for gpu in pools["both"].gpus] == ["GPU-2", "own"]
        assert "none of its 3 GPUs carries pod=vllm-l4-*, gpu=7; the first one has pod=vllm-h100-a" in str(
            pools["none"].errors
        )
        assert "ClientConnectorError" in str(pools["absent"].errors)
        assert pools["h100"].errors == pools["both"].errors == ()

        pages["/two"] = ""
        clock.now_s += 20.0
        later = (await collector.collect())["both"]
        assert "HTTP status 503" in str(later.errors)
        assert (later.age_s, later.complete, later.columns()["power_w"]) == (20.0, True, 780.0)
        clock.now_s += 20.0
        stale = (await collector.collect())["both"]
        assert (stale.age_s, stale.complete, [gpu.name for gpu in stale.gpus]) == (40.0, False, ["own"])
        assert math.isnan(stale.columns()["power_w"])


async def test_a_driver_that_hangs_takes_no_more_than_its_time_and_no_second_thread() -> None:
    library = OwnGpus()
    library.hangs.clear()
    async with aiohttp.ClientSession() as session:
        sources = {"own": GpuMetrics(nvml=(0,))}
        collector = GpuCollector(session, Clock(), sources, fresh_s=30.0, timeout_s=0.05, library=library)
        errors = [(await collector.collect())["own"].errors for _ in range(3)]
        assert "no answer within 0.05 s" in str(errors[0])
        assert "still busy with an earlier tick" in str(errors[1:])
        assert len(library.asked) == 1
        library.hangs.set()
        for _ in range(600):
            found = (await collector.collect())["own"]
            if found.gpus:
                break
            await asyncio.sleep(0.05)
    assert found.gpus[0].name == "own"


async def test_a_lost_gpu_is_told() -> None:
    async with aiohttp.ClientSession() as session:
        sources = {"own": GpuMetrics(nvml=("GPU-gone",))}
        found = await GpuCollector(session, Clock(), sources, 30.0, timeout_s=20.0, library=OwnGpus()).collect()
    assert found["own"].errors == ("NVML: GPU is lost",)
    assert found["own"].gpus == ()
