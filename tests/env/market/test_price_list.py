"""Price lists: our own format and SkyPilot's, told apart by their columns; every mistake is one line that says where."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolpilot.env.catalog.gpus import GPUS
from poolpilot.env.market.offers import Offer
from poolpilot.env.market.price_list import read_price_list
from poolpilot.env.market.series import SeriesError

OWN = "provider,region,instance,gpu,n_gpu,usd_hr_ondemand,usd_hr_spot,as_of,source\n"
SKY = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone\n"


def written(folder: Path, text: str, name: str = "prices.csv") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


def brief(offer: Offer) -> tuple[object, ...]:
    return offer.gpu, offer.gpus, offer.kind, round(offer.usd_per_hr, 4), offer.region, offer.instance


def test_a_row_is_an_offer_on_demand_and_one_on_the_spot_market(tmp_path: Path) -> None:
    text = OWN + "gcp,us-central1,a2-ultragpu-8g,A100-80GB,8,40.55,18.61,2026-01-29,list\naws,east,,l4,,0.8,,,\n"
    dear, spot, l4 = read_price_list(written(tmp_path, text)).offers
    assert brief(dear) == ("A100-SXM-80GB", 8, "on_demand", 40.55, "us-central1", "a2-ultragpu-8g")
    assert brief(spot) == ("A100-SXM-80GB", 8, "spot", 18.61, "us-central1", "a2-ultragpu-8g")
    assert (dear.machine_gpus, dear.as_of, dear.source, dear.provider) == (8, date(2026, 1, 29), "list", "gcp")
    assert (l4.gpu, l4.gpus, l4.machine_gpus, l4.as_of, l4.stock) == ("L4-24GB", 1, 1, None, None)


def test_the_shortest_file_has_a_gpu_and_a_price(tmp_path: Path) -> None:
    (offer,) = read_price_list(
        written(tmp_path, "gpu,usd_hr_spot\nT4,0.1\n"), provider="mine", as_of=date(2026, 11, 1)
    ).offers
    assert brief(offer) == ("T4-16GB", 1, "spot", 0.1, "", "")
    assert (offer.provider, offer.as_of) == ("mine", date(2026, 11, 1))


def test_stock_machines_and_preemptions_where_they_are_told(tmp_path: Path) -> None:
    text = "gpu,usd_hr_ondemand,usd_hr_spot,machine_gpus,stock,preemptions_per_hr\nH100,3,1,8,12,0.4\nH100,3,1,,,\n"
    first, spot, _, usual = read_price_list(written(tmp_path, text), spot_preemptions_per_hr=0.1).offers
    assert (first.machine_gpus, first.stock, first.preemptions_per_hr) == (8, 12, 0.0)
    assert (spot.machine_gpus, spot.stock, spot.preemptions_per_hr) == (8, 12, 0.4)
    assert usual.preemptions_per_hr == 0.1


def test_a_spot_price_as_high_as_on_demand_is_no_spot_market(tmp_path: Path) -> None:
    (offer,) = read_price_list(written(tmp_path, OWN + "aws,east,,H100,8,55.04,55.04,,\n")).offers
    assert offer.kind == "on_demand"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-07-20", date(2026, 7, 20)),
        ("2025-04 or earlier", date(2025, 4, 1)),
        ("2026 (catalog v8)", date(2026, 1, 1)),
        ("2026-07-20T12:00:00", date(2026, 7, 20)),
    ],
)
def test_an_unclear_date_is_taken_at_its_oldest(tmp_path: Path, text: str, day: date) -> None:
    (offer,) = read_price_list(written(tmp_path, f"{OWN}aws,east,,H100,1,3,,{text},\n")).offers
    assert offer.as_of == day


def test_parquet_with_numbers_and_days_reads_as_csv_does(tmp_path: Path) -> None:
    columns = {"gpu": ["H100", "L4"], "n_gpu": [8, 1], "usd_hr_ondemand": [40.0, 0.8], "usd_hr_spot": [None, 0.3]}
    path = tmp_path / "prices.parquet"
    pa_parquet.write_table(pa.table({**columns, "as_of": [date(2026, 7, 1), None]}), path)
    found = [(o.gpu, o.gpus, o.kind, o.usd_per_hr, o.as_of) for o in read_price_list(path).offers]
    assert found == [
        ("H100-SXM-80GB", 8, "on_demand", 40.0, date(2026, 7, 1)),
        ("L4-24GB", 1, "on_demand", 0.8, None),
        ("L4-24GB", 1, "spot", 0.3, None),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN, r"has no rows; wanted rows of gpu, usd_hr_ondemand"),
        (
            "gpu,price\nH100,3\n",
            r"columns are gpu; wanted gpu, usd_hr_ondemand; or gpu, usd_hr_spot; or InstanceType, ",
        ),
        (OWN + "aws,e,,H100,8,cheap,,,\n", r"row 1: usd_hr_ondemand: 'cheap': wanted a number above 0, at most 10000"),
        (OWN + "aws,e,,L4,1,1,,,\naws,e,,H100,8,-1,,,\n", r"row 2: usd_hr_ondemand: '-1': wanted a number above 0"),
        (OWN + "aws,e,,H100,0,3,,,\n", r"row 1: n_gpu: '0': wanted a whole number above 0, at most 1024"),
        (OWN + "aws,e,,H100,1.5,3,,,\n", r"row 1: n_gpu: '1\.5': wanted a whole number"),
        (OWN + "aws,e,,H100,1,3,,yesterday,\n", r"row 1: as_of: 'yesterday': wanted a day such as 2026-07-20"),
        (OWN + "aws,e,,H100,1,3,,2026-13-01,\n", r"row 1: as_of: '2026-13-01': wanted a day"),
        (
            "gpu,usd_hr_spot,n_gpu,machine_gpus\nH100,3,8,4\n",
            r"row 1: machine_gpus: '4': wanted at least the 8 of n_gpu",
        ),
        ("gpu,usd_hr_spot,stock\nH100,3,-2\n", r"row 1: stock: '-2': wanted a whole number of 0 or more"),
        (SKY + "p5,H100,many,1,1,,3,1,east,a\n", r"row 1: AcceleratorCount: 'many': wanted a number above 0"),
        (SKY + "p5,H100,8,1,1,,cheap,1,east,a\n", r"row 1: Price: 'cheap': wanted a number of 0 or more"),
    ],
)
def test_a_mistake_is_one_line_naming_file_row_column_value_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SeriesError, match=said) as caught:
        read_price_list(written(tmp_path, text))
    assert "prices.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_unknown_gpus_are_left_out_counted_and_named(tmp_path: Path) -> None:
    read = read_price_list(
        written(tmp_path, OWN + "a,e,,K80,1,1,,,\na,e,,H100,1,3,,,\na,e,,K80,2,2,,,\na,e,,,1,1,,,\n")
    )
    assert [offer.gpu for offer in read.offers] == ["H100-SXM-80GB"]
    (note,) = read.notes
    assert note.endswith("left out 3 rows of accelerators not in the catalogue: K80, (no name)")


def test_skypilot_s_machines_by_zone_with_the_cloud_of_the_folder(tmp_path: Path) -> None:
    rows = [
        "p5.48xlarge,H100,8.0,192,2048,,55.04,14.246,us-east-1,use1-az5",
        "m5.large,,,2,8,,0.096,0.04,us-east-1,use1-az5",
        "p4d.24xlarge,A100,8.0,96,1152,,21.9576,,us-east-1,use1-az1",
        "inf2.xlarge,Inferentia2,1.0,4,16,,0.7582,0.2,us-east-1,use1-az1",
        "g6f.large,L4,0.125,2,8,,0.2,,us-east-1,use1-az1",
    ]
    read = read_price_list(written(tmp_path, SKY + "\n".join(rows) + "\n", "aws/vms.csv"), as_of=date(2026, 11, 20))
    assert [brief(offer) for offer in read.offers] == [
        ("H100-SXM-80GB", 8, "on_demand", 55.04, "us-east-1", "p5.48xlarge"),
        ("H100-SXM-80GB", 8, "spot", 14.246, "us-east-1", "p5.48xlarge"),
        ("A100-SXM-40GB", 8, "on_demand", 21.9576, "us-east-1", "p4d.24xlarge"),
    ]
    assert {(o.provider, o.as_of, o.source) for o in read.offers} == {
        ("aws", date(2026, 11, 20), "skypilot-org/skypilot-catalog")
    }
    assert read.notes[0].endswith("left out 2 rows of accelerators not in the catalogue: Inferentia2, L4 in parts")


@pytest.mark.parametrize(
    ("cloud", "row", "gpu"),
    [
        (
            "runpod",
            "1x_A100-80GB_SECURE,A100-80GB,1,8,117,\"{'Name': 'A100 PCIe'}\",1.39,1.39,US,US-1",
            "A100-PCIe-80GB",
        ),
        ("runpod", "1x_H100_SECURE,H100,1,8,117,,2.39,,US,US-1", "H100-PCIe-80GB"),
        ("runpod", "1x_H100-SXM_SECURE,H100-SXM,1,8,117,,2.69,,US,US-1", "H100-SXM-80GB"),
        ("azure", "Standard_NC24ads_A100_v4,A100-80GB,1,24,220,,3.673,,eastus,1", "A100-PCIe-80GB"),
        ("azure", "Standard_ND96amsr_A100_v4,A100-80GB,8,96,1900,,32.77,,eastus,1", "A100-SXM-80GB"),
        ("azure", "Standard_NC40ads_H100_v5,H100,1,40,320,,6.98,,eastus,1", "H100-NVL-94GB"),
        ("azure", "Standard_NC6s_v3,V100,1,6,112,,3.06,,eastus,1", "V100-PCIe-16GB"),
        ("aws", "p3dn.24xlarge,V100-32GB,8,96,768,,31.212,,us-east-1,a", "V100-SXM-32GB"),
        ("lambda", "gpu_1x_a6000,A6000,1,14,100,,1.09,,us-east-1,", "A6000-48GB"),
    ],
)
def test_skypilot_s_names_mean_what_each_cloud_sells(tmp_path: Path, cloud: str, row: str, gpu: str) -> None:
    (offer, *_) = read_price_list(written(tmp_path, SKY + row + "\n", f"{cloud}.csv")).offers
    assert (offer.gpu, offer.provider) == (gpu, cloud)


def test_on_google_s_cloud_the_host_is_added_to_the_price_of_the_gpus(tmp_path: Path) -> None:
    rows = [
        ",A100,1,,,A100,2.934,1.29,us-central1,us-central1-a",
        "a2-highgpu-1g,,,12,85,,0.73948,0.36975,us-central1,us-central1-a",
        ",A100,2,,,A100,5.868,2.58,us-central1,us-central1-a",
        ",T4,1,,,T4,0.35,0.11,us-central1,us-central1-a",
        "n1-standard-2,,,2,7.5,,0.095,0.02,us-central1,us-central1-a",
        "n1-standard-8,,,8,30,,0.38,0.08,us-central1,us-central1-a",
        "n1-standard-4,,,4,15,,0.19,0.04,us-central1,us-central1-a",
        ",tpu-v6e-8,1,,,tpu-v6e-8,21.6,9.7,us-central1,us-central1-a",
    ]
    read = read_price_list(written(tmp_path, SKY + "\n".join(rows) + "\n", "gcp/vms.csv"))
    assert [brief(offer) for offer in read.offers] == [
        ("A100-SXM-40GB", 1, "on_demand", 3.6735, "us-central1", "a2-highgpu-1g"),
        ("A100-SXM-40GB", 1, "spot", 1.6598, "us-central1", "a2-highgpu-1g"),
        ("T4-16GB", 1, "on_demand", 0.54, "us-central1", "n1-standard-4"),
        ("T4-16GB", 1, "spot", 0.15, "us-central1", "n1-standard-4"),
    ]
    assert [note.split(": ", 1)[1] for note in read.notes] == [
        "left out 1 rows of GPUs whose host has no price in their zone",
        "left out 1 rows of accelerators not in the catalogue: tpu-v6e-8",
    ]


def offers_or_one_line(path: Path) -> tuple[Offer, ...]:
    """The offers of a file; none of one that was refused, in one line."""
    said = ""
    try:
        return read_price_list(path).offers
    except SeriesError as error:
        said = str(error)
    assert "\n" not in said
    assert 0 < len(said) <= 1000
    return ()


cells = st.one_of(
    st.sampled_from(
        ["", "nan", "H100", "A100", "8", "1", "0.5", "1e400", "-3", "2026-01", "inf", "aws", "n1-standard-4"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters='\n\r",'), max_size=12),
)


@settings(max_examples=150)
@given(
    st.sampled_from([OWN, SKY, "gpu,usd_hr_spot,stock,machine_gpus\n"]),
    st.lists(st.lists(cells, max_size=10), max_size=4),
)
def test_whatever_a_stranger_writes_is_offers_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, header: str, rows: list[list[str]]
) -> None:
    width = header.count(",") + 1
    lines = [",".join((row + [""] * width)[:width]) for row in rows]
    path = tmp_path_factory.mktemp("any") / "prices.csv"
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    for offer in offers_or_one_line(path):
        assert offer.gpu in GPUS
        assert 0.0 < offer.usd_per_hr <= 2e4
        assert 1 <= offer.gpus <= offer.machine_gpus


@settings(max_examples=60)
@given(st.binary(max_size=400))
def test_no_bytes_make_anything_but_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "prices.csv"
    path.write_bytes(content)
    offers_or_one_line(path)


@pytest.mark.shared_data
def test_a_real_list_of_many_clouds_reads_whole(shared_data: Path) -> None:
    read = read_price_list(shared_data / "gpu_prices.csv")
    assert read.notes == ()
    assert len(read.offers) > 2500
    p5 = [o for o in read.offers if o.instance == "p5.48xlarge" and o.region == "us-east-1" and o.kind == "on_demand"]
    assert {(o.gpu, o.gpus, o.usd_per_hr) for o in p5} == {("H100-SXM-80GB", 8, 55.04)}
