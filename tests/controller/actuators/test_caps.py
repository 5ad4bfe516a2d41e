import fcntl
import json
from pathlib import Path

import pytest

from poolpilot.controller.actuators.caps import CapFileError, CapFiles, Caps, StaleToken


def test_what_is_applied_stands_in_the_file(tmp_path: Path) -> None:
    files = CapFiles(tmp_path / "new" / "caps")
    assert files.apply("h100", 32, 2048, fencing_token=7)
    assert json.loads(files.path("h100").read_text()) == {"fencing_token": 7, "batch_cap": 32, "token_budget": 2048}
    assert files.read("h100") == Caps(7, 32, 2048)
    assert files.read("l40s") is None


def test_the_same_again_is_not_written(tmp_path: Path) -> None:
    files = CapFiles(tmp_path)
    files.apply("a", 32, 2048, 1)
    before = files.path("a").stat()
    assert not files.apply("a", 32, 2048, 1)
    after = files.path("a").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("batch_cap", "token_budget", "token"),
    [(16, 2048, 1), (32, 1024, 1), (32, 2048, 2)],
    ids=["cap", "budget", "token"],
)
def test_any_change_is_written_by_replacing_the_file(
    tmp_path: Path, batch_cap: int, token_budget: int, token: int
) -> None:
    files = CapFiles(tmp_path)
    files.apply("a", 32, 2048, 1)
    with files.path("a").open() as reader:
        assert files.apply("a", batch_cap, token_budget, token)
        assert json.load(reader)["batch_cap"] == 32, "who has it open reads the whole old one"
    assert files.read("a") == Caps(token, batch_cap, token_budget)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a.json"]


@pytest.mark.parametrize("caps", [(32, 2048), (8, 512)], ids=["same figures", "other figures"])
def test_an_older_leader_writes_nothing(tmp_path: Path, caps: tuple[int, int]) -> None:
    files = CapFiles(tmp_path)
    files.apply("a", 32, 2048, 5)
    with pytest.raises(StaleToken, match=r"a.json: has fencing token 5, this writer has 4"):
        files.apply("a", *caps, 4)
    assert files.read("a") == Caps(5, 32, 2048)


def test_nobody_writes_while_another_does(tmp_path: Path) -> None:
    files = CapFiles(tmp_path)
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CapFileError, match="another process writes caps"):
            files.apply("a", 32, 2048)
    assert files.apply("a", 32, 2048)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "wanted exactly the fields"),
        ('{"batch_cap": 1}', "wanted exactly the fields"),
        ('{"fencing_token": 0, "batch_cap": 0, "token_budget": 1}', "batch_cap: 0"),
        ('{"fencing_token": 0, "batch_cap": true, "token_budget": 1}', "batch_cap: True"),
        ('{"fencing_token": 0, "batch_cap": 1, "token_budget": 1e9}', "token_budget: 1000000000.0"),
        ('{"fencing_token": -1, "batch_cap": 1, "token_budget": 1}', "fencing_token: -1"),
        (" " * 5000, "more than 4096 bytes"),
        ("[" * 4000, "recursion"),
    ],
)
def test_a_broken_file_is_named_and_written_over(tmp_path: Path, text: str, message: str) -> None:
    files = CapFiles(tmp_path)
    files.path("a").write_text(text)
    with pytest.raises(CapFileError, match=message) as raised:
        files.read("a")
    assert str(files.path("a")) in str(raised.value)
    assert files.apply("a", 32, 2048)
    assert files.read("a") == Caps(0, 32, 2048)


@pytest.mark.parametrize(("cap", "budget", "name"), [(0, 1, "batch_cap"), (1, 0, "token_budget")])
def test_caps_that_would_stop_an_engine_are_refused(tmp_path: Path, cap: int, budget: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0, wanted a whole number of at least 1"):
        CapFiles(tmp_path).apply("a", cap, budget)


@pytest.mark.parametrize("pool", ["../a", "", "a b", "a/b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, pool: str) -> None:
    with pytest.raises(ValueError, match="wanted letters"):
        CapFiles(tmp_path).apply(pool, 1, 1)
