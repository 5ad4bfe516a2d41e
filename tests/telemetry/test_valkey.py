"""The embedded Valkey: up on loopback, keeps what it should, and leaves nothing behind."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest
import redis.asyncio as redis

from poolpilot.telemetry.valkey import ValkeyError, embedded_valkey, valkey_url

pytestmark = pytest.mark.e2e
CHILD = """
import asyncio
from poolpilot.telemetry.valkey import embedded_valkey
async def main():
    async with embedded_valkey() as server:
        print(server.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_two_servers_at_once_are_apart_and_write_no_data() -> None:
    async with embedded_valkey() as one, embedded_valkey() as other:
        assert one.url != other.url
        async with redis.Redis.from_url(one.url) as a, redis.Redis.from_url(other.url) as b:
            await a.set("x", 1)
            assert await b.get("x") is None
        assert [path.name for path in one.folder.iterdir()] == ["valkey.log"]
    assert not alive(one.pid)
    assert not alive(other.pid)
    assert not one.folder.exists()


async def test_a_folder_keeps_the_data(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path / "data") as server, redis.Redis.from_url(server.url) as client:
        await client.set("x", "kept")
    async with embedded_valkey(tmp_path / "data") as server, redis.Redis.from_url(server.url) as client:
        assert await client.get("x") == b"kept"


async def test_it_listens_on_loopback_only() -> None:
    async with embedded_valkey() as server, redis.Redis.from_url(server.url) as client:
        assert await client.config_get("bind") == {"bind": "127.0.0.1"}


async def test_a_taken_port_is_an_error_with_the_servers_words() -> None:
    async with embedded_valkey() as first:
        port = int(first.url.split(":")[-1].split("/")[0])
        with pytest.raises(ValkeyError, match=rf"port {port}.*Address already in use"):
            async with embedded_valkey(port=port):
                pass
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


async def test_it_stops_when_the_block_is_left_by_an_error() -> None:
    with pytest.raises(KeyError):
        async with embedded_valkey() as server:
            raise KeyError
    assert not alive(server.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent's life")
async def test_it_dies_with_a_parent_that_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    async with asyncio.timeout(20):
        while alive(pid):
            await asyncio.sleep(0.02)


async def test_a_given_url_is_used_as_it_is() -> None:
    async with valkey_url("redis://elsewhere:6379/3") as url:
        assert url == "redis://elsewhere:6379/3"
    async with valkey_url(None) as url, redis.Redis.from_url(url) as client:
        assert await client.ping()
