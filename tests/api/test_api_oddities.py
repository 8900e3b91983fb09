"""What answers in the API server's place, and is none: nothing of it ends kpf, or fills the log."""

import asyncio
from pathlib import Path

import pytest
import yaml

from kpf.sources.api import backoff
from kpf.sources.api.access import Access
from kpf.sources.api.source import ApiSource

ANSWERS = {
    "a redirect to a name that is none": b"HTTP/1.1 302 Found\r\nLocation: http://a..b/x\r\nContent-Length: 0\r\n\r\n",
    "a redirect to itself": b"HTTP/1.1 302 Found\r\nLocation: /api/v1/services\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an empty page": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "garbage for gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\ngarbage",
    "a page of another": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>sign in</html>\n",
    "chunks that are none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "another way of speaking": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
}
REQUESTS = 12


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_whatever_answers_kpf_goes_on_and_says_it_once(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(backoff, "LONGEST_S", 0.02)
    troubles = asyncio.run(_troubles(answer, tmp_path / "config"))
    assert 1 <= len(troubles) <= 3, troubles


async def _troubles(answer: bytes, path: Path) -> set[str]:
    """Everything that is complained of while so many requests are answered like that."""
    asked, enough = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(answer)
        writer.close()
        if asked >= REQUESTS:
            enough.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    path.write_text(_kubeconfig(server.sockets[0].getsockname()[1]), encoding="utf-8")
    source, troubles = ApiSource(Access(str(path)), node_name="node-1"), set[str]()
    following = asyncio.create_task(source.follow(lambda: None))
    while not enough.is_set():
        await asyncio.wait([following], timeout=0.02)
        assert not following.done(), following.exception()
        troubles |= set(source.troubles)
    assert source.read() is None
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    server.close()
    await server.wait_closed()
    return troubles


def _kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab"}}],
            "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        }
    )
