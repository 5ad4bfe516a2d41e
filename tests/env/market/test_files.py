"""Availability and prices read from the public formats; every mistake in a file is one line that says where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.market.files import read_availability, read_prices
from poolpilot.env.market.series import SeriesError, StepSeries


def written(folder: Path, text: str) -> Path:
    path = folder / "series.csv"
    path.write_text(text)
    return path


def pairs(series: StepSeries) -> list[tuple[float, float]]:
    return list(zip(series.from_s.tolist(), series.values.tolist(), strict=True))


def test_run_lengths_hold_until_the_next_row(tmp_path: Path) -> None:
    text = "trace,gpu,t_s,nodes_available\na,V100,0,4\na,V100,300,2\nb,V100,0,1\na,V100,900,2\n"
    series = read_availability(written(tmp_path, text), "a")
    assert pairs(series) == [(0, 4), (300, 2)]
    assert series.end_s == 900.0


def test_events_are_counted_and_those_of_one_moment_are_one_step(tmp_path: Path) -> None:
    rows = ["0,add,n1", "0,add,n2", "60000,remove,n1", "60000,add,n3", "90500,remove,n2"]
    series = read_availability(written(tmp_path, "t_ms,event,node\n" + "\n".join(rows)))
    assert pairs(series) == [(0, 2), (90.5, 1)]


def test_a_clock_that_steps_back_a_little_is_held(tmp_path: Path) -> None:
    rows = ["2021-12-10,23:59:00,8", "2021-12-11,00:00:00,6", "2021-12-10,23:59:30,5", "2021-12-11,00:02:00,4"]
    series = read_availability(written(tmp_path, "date,time,nodes_running\n" + "\n".join(rows)))
    assert pairs(series) == [(0, 8), (60, 5), (180, 4)]


def test_prices_by_second(tmp_path: Path) -> None:
    series = read_prices(written(tmp_path, "t_s,usd_per_hr\n100,2.5\n160,2.5\n220,1.25\n"), "spot")
    assert pairs(series) == [(0, 2.5), (120, 1.25)]


def test_a_price_list_by_region_instance_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    table = {
        "date": ["2026-01-08", "2026-01-01", "2026-01-01", "2026-01-15"],
        "region": ["us", "us", "eu", "us"],
        "instance": ["a2", "a2", "a2", "a2"],
        "usd_hr_ondemand": [4.0, 3.5, 9.0, 4.0],
        "usd_hr_spot": [1.5, 1.0, 3.0, None],
    }
    pa_parquet.write_table(pa.table(table), path)
    week_s = 7 * 86_400
    assert pairs(read_prices(path, "spot", "us", "a2")) == [(0, 1.0), (week_s, 1.5)]
    assert pairs(read_prices(path, "on_demand", "us", "a2")) == [(0, 3.5), (week_s, 4.0)]


AVAILABILITY_MISTAKES = {
    "no columns that we know": ("a,b\n1,2\n", None, "columns are a, b; wanted t_s, nodes_available; or t_ms"),
    "no rows": ("t_s,nodes_available\n", None, "has no rows; wanted rows of t_s, nodes_available"),
    "several traces": (
        "trace,t_s,nodes_available\na,0,1\nb,0,1\n",
        None,
        "holds 2 traces; wanted `trace`, one of a, b",
    ),
    "a trace that is not there": ("trace,t_s,nodes_available\na,0,1\n", "z", "trace 'z': not in the file; .*one of a"),
    "a trace of a file without": ("t_s,nodes_available\n0,1\n", "z", "trace 'z': .*none: it has no"),
    "half a node": ("t_s,nodes_available\n0,1.5\n", None, "row 1: nodes_available: '1.5': wanted a whole number"),
    "fewer than none": (
        "t_s,nodes_available\n0,3\n5,-1\n",
        None,
        "row 2: nodes_available: '-1': wanted a whole number",
    ),
    "no number": ("t_s,nodes_available\n0,x\n", None, "row 1: nodes_available: 'x'"),
    "a blank": ("t_s,nodes_available\n0,\n", None, "row 1: nodes_available: ''"),
    "time that does not rise": ("t_s,nodes_available\n0,1\n9,2\n9,3\n", None, "row 3: t_s: 9 s .*wanted later"),
    "infinite time": ("t_s,nodes_available\n0,1\ninf,2\n", None, "row 2: t_s: 'inf'"),
    "milliseconds for seconds": ("t_s,nodes_available\n0,1\n1e12,2\n", None, "t_s: spans .*are these seconds"),
    "an unknown event": ("t_ms,event,node\n0,explode,n\n", None, "row 1: event: 'explode': wanted add or remove"),
    "added twice": ("t_ms,event,node\n0,add,n\n1,add,n\n", None, "row 2: node: 'n': .*there already"),
    "removed without": ("t_ms,event,node\n0,remove,n\n", None, "row 1: node: 'n': .*not there"),
    "no date": ("date,time,nodes_running\nyesterday,12:00:00,1\n", None, "row 1: date, time: 'yesterday 12:00:00'"),
    "a clock that jumps back": (
        "date,time,nodes_running\n2021-01-02,00:00:00,1\n2021-01-01,00:00:00,1\n",
        None,
        "row 2: date, time: .*no more than 600 s before",
    ),
    "bytes": ("\x00\x01\x02", None, "wanted t_s|neither CSV"),
    "an empty file": ("", None, "neither CSV nor Parquet"),
    "ragged rows": ("t_s,nodes_available\n0,1,2\n", None, "neither CSV nor Parquet"),
}


@pytest.mark.parametrize(("text", "trace", "said"), AVAILABILITY_MISTAKES.values(), ids=AVAILABILITY_MISTAKES)
def test_a_mistake_is_one_line_naming_file_row_and_remedy(
    tmp_path: Path, text: str, trace: str | None, said: str
) -> None:
    with pytest.raises(SeriesError, match=said) as caught:
        read_availability(written(tmp_path, text), trace)
    assert str(caught.value).startswith(str(tmp_path / "series.csv: "))
    assert_one_line(caught.value)


def assert_one_line(error: SeriesError) -> None:
    assert "\n" not in str(error)


LIST = "date,region,instance,usd_hr_ondemand,usd_hr_spot\n2026-01-01,us,a2,4,1\n2026-01-08,us,a2,4,{}\n"
PRICE_MISTAKES = {
    "no region": (LIST.format(1), (None, "a2"), "region None: not in the file; wanted one of us"),
    "an unknown instance": (LIST.format(1), ("us", "p5"), "instance 'p5': not in the file; wanted one of a2"),
    "a price of nothing": (LIST.format(0), ("us", "a2"), "row 2: usd_hr_spot: '0': wanted a number above 0"),
    "a region of a plain file": ("t_s,usd_per_hr\n0,1\n", ("us", None), "no region or instance to choose"),
    "a price that is none": (
        "t_s,usd_per_hr\n0,nan\n",
        (None, None),
        "row 1: usd_per_hr: 'nan': wanted a number above",
    ),
    "cents": ("t_s,usd_per_hr\n0,123456\n", (None, None), "row 1: usd_per_hr: '123456': .*at most 10000"),
}


@pytest.mark.parametrize(("text", "which", "said"), PRICE_MISTAKES.values(), ids=PRICE_MISTAKES)
def test_a_mistake_in_prices_is_one_line(
    tmp_path: Path, text: str, which: tuple[str | None, str | None], said: str
) -> None:
    with pytest.raises(SeriesError, match=said):
        read_prices(written(tmp_path, text), "spot", *which)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SeriesError, match=r"nowhere\.csv: cannot be read: No such file"):
        read_availability(tmp_path / "nowhere.csv")
    with pytest.raises(SeriesError, match="no file; wanted a CSV or Parquet file"):
        read_availability(tmp_path)


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    assert pairs(read_availability(written(tmp_path, "t_s,nodes_available\n0,1\n"))) == [(0, 1)]
    assert pairs(read_availability(written(tmp_path, "t_s,nodes_available\n0,12\n"))) == [(0, 12)]


@settings(max_examples=150)
@given(data=st.data())
def test_a_garbled_file_is_read_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = data.draw(
        st.sampled_from(
            [
                "trace,t_s,nodes_available\na,0,4\na,300,2\n",
                "t_ms,event,node\n0,add,n1\n60000,remove,n1\n",
                "date,time,nodes_running\n2021-12-10,23:59:00,8\n2021-12-11,00:00:00,6\n",
            ]
        )
    ).encode()
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(len(text), at + 6)))
    path = tmp_path_factory.getbasetemp() / "garbled.csv"
    path.write_bytes(text[:at] + data.draw(st.binary(max_size=6)) + text[end:])
    try:
        series = read_availability(path)
    except SeriesError as error:
        assert_one_line(error)
    else:
        assert series.from_s[0] == 0.0
        assert (np.diff(series.from_s) > 0).all()
        assert (series.values >= 0).all()


@pytest.mark.shared_data
def test_the_public_traces_are_read(shared_data: Path) -> None:
    folder = shared_data / "spot"
    sixteen = read_availability(
        folder / "spot_availability.csv", "availability/16-node/aws-08-27-2023/us-west-2a_v100_1"
    )
    assert sixteen.values.max() == 16
    assert sixteen.end_s == 1_420_500.0
    assert 0.1 < sixteen.losses_per_hr() < 2.0
    p3 = read_availability(folder / "bamboo_node_events.csv", "traces/p3-trace.csv")
    assert p3.values[-1] == 10
    gcloud = read_availability(folder / "bamboo_gcloud_v100.csv")
    assert (gcloud.values.min(), gcloud.values.max()) == (30, 80)
    assert gcloud.end_s == pytest.approx(86_400, rel=0.01)
    spot = read_prices(folder / "gcp_price_history.parquet", "spot", "us-central1", "a2-highgpu-1g")
    assert len(spot.values) > 3
    assert 1.0 < spot.values.min() <= spot.values.max() < 2.0
