"""A ServeGen service is read from its chunks and from tables, and refused by file, row, column and value."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poolpilot.env.workload.formats.servegen import FAMILIES, read_service
from poolpilot.env.workload.traces import TraceError
from poolpilot.tests.env.workload.trace_files import SERVEGEN_TRACE, a_service


def test_a_folder_of_chunks(tmp_path: Path) -> None:
    service = read_service(a_service(tmp_path), None)
    windows = service.windows
    assert windows.client.tolist() == [3, 3]
    assert windows.start_s.tolist() == [0.0, 1200.0]  # the one without requests is left out
    assert windows.rate_per_s.tolist() == [0.5, 0.2]
    assert [FAMILIES[kind] for kind in windows.family] == ["Gamma", "Weibull"]
    assert windows.window_s == 600.0
    # The bucket at 1200 s lacks prompt lengths.
    ((start_s, prompt, output),) = service.lengths[3]
    assert start_s == 0.0
    assert prompt.at(np.array([0.0, 0.24, 0.26, 0.999])).tolist() == [200, 200, 300, 300]
    assert set(output.at(np.linspace(0.0, 0.999, 9))) == {10}


CLIENTS: dict[str, Any] = {
    "client": pa.array([1, 1], pa.int16()),
    "window_start_s": pa.array([0, 600], pa.int32()),
    "rate_rps": pa.array([1.0, 2.0], pa.float32()),
    "family": pa.array(["Gamma", None]).dictionary_encode(),
    "p1": pa.array([0.5, None], pa.float32()),
}
LENGTHS: dict[str, Any] = {
    "client": [1, 1],
    "bucket_start_s": [0, 0],
    "field": ["input_tokens", "output_tokens"],
    "q0": [10.0, 1.0],
    "q50": [20.0, 2.0],
    "q100": [40.0, 2.0],
}


def tables(folder: Path, clients: dict[str, Any], lengths: dict[str, Any]) -> Path:
    pq.write_table(pa.table(lengths), folder / "a_lengths.parquet")
    pq.write_table(pa.table(clients), folder / "a_clients.parquet")
    return folder / "a_clients.parquet"


def test_tables_of_clients_and_quantiles(tmp_path: Path) -> None:
    service = read_service(tables(tmp_path, CLIENTS, LENGTHS), None)
    assert [FAMILIES[kind] for kind in service.windows.family] == ["Gamma", ""]
    assert service.windows.shape.tolist() == [0.5, 1.0]
    _, prompt, output = service.lengths[1][0]
    assert prompt.at(np.array([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == [10, 15, 20, 30, 40]
    assert output.at(np.array([0.6, 1.0])).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("clients", "lengths", "message"),
    [
        ({"rate_rps": [1.0, -2.0]}, {}, "row 2: rate_rps: -2.0: wanted requests per second from 0"),
        ({"rate_rps": [1.0, float("nan")]}, {}, "row 2: rate_rps: nan: wanted a finite number"),
        ({"family": ["Gamma", "Pareto"]}, {}, "row 2: family: 'Pareto': wanted Gamma, Weibull or nothing"),
        ({"p1": [0.0, 1.0]}, {}, "row 1: p1: 0.0: wanted a shape from 0.001"),
        ({"client": [1.5, 1.0]}, {}, "row 1: client: 1.5: wanted a client's whole number"),
        ({"window_start_s": [0, 0]}, {}, "row 2: window_start_s: 0: wanted each of a client's windows once"),
        ({"window_start_s": [0, 10**12]}, {}, "row 2: window_start_s: 1000000000000: wanted seconds from 0"),
        ({"p1": None}, {}, "column p1: there 0 times; wanted it once"),
        ({}, {"q50": [5.0, 2.0]}, "row 1: q50: 5.0: wanted no less than q0"),
        ({}, {"q100": [4e7, 2.0]}, "row 1: q100: 40000000.0: wanted from 0 to 10000000 tokens"),
        ({}, {"q100": None, "q50": None}, "has 1 columns of quantiles; wanted q0 to q100"),
        ({}, {"field": ["input_tokens", "other"]}, "no client has lengths under both input_tokens and output_tokens"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, clients: dict[str, Any], lengths: dict[str, Any], message: str) -> None:
    both = [
        {k: v for k, v in (whole | changes).items() if v is not None}
        for whole, changes in ((CLIENTS, clients), (LENGTHS, lengths))
    ]
    with pytest.raises(TraceError, match=message):
        read_service(tables(tmp_path, *both), None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("trace.csv", SERVEGEN_TRACE + "x,1,1,Gamma,1,1\n", "row 4: start_s: 'x': wanted a number"),
        ("trace.csv", "0,1,1\n", "not readable"),
        ("dataset.json", "[1]", "holds a list; wanted an object of start times"),
        ("dataset.json", "{", "not JSON"),
        ("dataset.json", json.dumps({"x": {}}), "row 1: start: 'x': wanted whole seconds"),
        (
            "dataset.json",
            json.dumps({"0": {"input_tokens": "{1: x}"}}),
            "row 1: input_tokens: '1: x': wanted a text like",
        ),
        ("dataset.json", json.dumps({"0": {"input_tokens": "{1: -1}"}}), "wanted probabilities of 0 or more"),
        ("dataset.json", json.dumps({"0": {"input_tokens": 5}}), "row 1: input_tokens: 5: wanted a text like"),
        ("dataset.json", "{}", "no client has lengths"),
        ("dataset.json", None, "no such file"),
    ],
)
def test_a_bad_chunk_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    service = a_service(tmp_path)
    path = service / f"chunk-3-{file}"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(TraceError, match=message) as caught:
        read_service(service, None)
    assert "\n" not in str(caught.value)


def test_a_folder_without_chunks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"has no chunk-<client>-trace.csv"):
        read_service(tmp_path, None)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("service", "clients", "rate"), [("m_large", 150, 213), ("m_small", 41, 1131), ("deepseek_r1", 73, 16)]
)
def test_the_published_services_have_their_known_size(shared_data: Path, service: str, clients: int, rate: int) -> None:
    windows = read_service(shared_data / "traces" / f"servegen_{service}_clients.parquet", None).windows
    assert len(np.unique(windows.client)) == clients
    span_s = windows.start_s.max() + windows.window_s
    assert windows.window_s == 600.0
    assert windows.rate_per_s.sum() * 600.0 / span_s == pytest.approx(rate, rel=0.03)
