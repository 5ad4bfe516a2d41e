import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolpilot.telemetry.record.segments import (
    Keeping,
    Segment,
    files_of,
    lines_of,
    next_segment,
    outlived,
    pack,
    packed_on_disk,
    segments,
    unpacked,
)


def test_segments_are_in_the_order_in_which_they_were_closed(tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    for number in (1, 2, 10):
        (tmp_path / f"decisions.{number:08d}.jsonl").write_text(f"{number}\n")
    (tmp_path / "decisions.00000010.jsonl.gz").write_bytes(gzip.compress(b"10\n"))
    (tmp_path / "others.00000001.jsonl").write_text("x\n")
    log.write_text("11\n")
    assert [path.name for path in files_of(log)] == [
        "decisions.00000001.jsonl",
        "decisions.00000002.jsonl",
        "decisions.00000010.jsonl.gz",
        "decisions.jsonl",
    ]
    assert [line for path in files_of(log) for line in lines_of(path)] == [b"1\n", b"2\n", b"10\n", b"11\n"]
    assert next_segment(log).name == "decisions.00000011.jsonl"


def test_a_folder_is_read_with_all_its_logs(tmp_path: Path) -> None:
    (tmp_path / "decisions.00000001.jsonl").write_text("1\n")
    (tmp_path / "decisions.jsonl").write_text("2\n")
    assert [path.name for path in files_of(tmp_path)] == ["decisions.00000001.jsonl", "decisions.jsonl"]
    assert files_of(tmp_path / "decisions.00000001.jsonl") == [tmp_path / "decisions.00000001.jsonl"]


@pytest.mark.parametrize("source", ["", "decisions.jsonl"])
def test_where_there_is_no_log_the_place_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / source)):
        files_of(tmp_path / source)


def test_a_segment_is_whole_at_every_moment_of_packing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.00000001.jsonl"
    path.write_bytes(b'{"a":1}\n' * 1000)
    assert packed_on_disk(tmp_path / "decisions.jsonl") == [], "no size yet that it could be judged by"
    before = path.stat().st_mtime
    (tmp_path / "decisions.00000001.jsonl.gz.part").write_bytes(b"a crash left this")
    assert unpacked(tmp_path / "decisions.jsonl") == [path]
    packed = pack(path)
    assert [p.name for p in tmp_path.iterdir()] == ["decisions.00000001.jsonl.gz"]
    assert list(lines_of(packed)) == [b'{"a":1}\n'] * 1000
    assert list(lines_of(path)) == [b'{"a":1}\n'] * 1000, "whoever listed it before finds it packed"
    assert packed.stat().st_mtime == pytest.approx(before)
    assert (
        [segment.path for segment in packed_on_disk(tmp_path / "decisions.jsonl")]
        == [packed]
        == segments(tmp_path / "decisions.jsonl")
    )


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e6)), max_size=30),
    st.integers(0, 1000),
    st.integers(0, 20_000),
    st.floats(0, 1e6),
)
def test_what_is_kept_is_young_and_small_and_the_newest(
    sizes: list[tuple[int, float]], open_bytes: int, max_bytes: int, max_age_s: float
) -> None:
    held = [Segment(Path(str(i)), size, last) for i, (size, last) in enumerate(sizes)]
    keeping = Keeping(max_bytes=max_bytes, max_age_s=max_age_s)
    gone = outlived(held, open_bytes, keeping, now_unix_s=1e6)
    kept = [segment for segment in held if segment not in gone]
    assert all(1e6 - segment.last_unix_s <= max_age_s for segment in kept)
    assert not kept or open_bytes + sum(segment.bytes for segment in kept) <= max_bytes
    young = [segment for segment in held if 1e6 - segment.last_unix_s <= max_age_s]
    assert kept == young[len(young) - len(kept) :], "the oldest go first"
    if len(kept) < len(young):
        one_more = young[len(young) - len(kept) - 1]
        assert open_bytes + sum(segment.bytes for segment in (one_more, *kept)) > max_bytes, "no more than needed goes"
