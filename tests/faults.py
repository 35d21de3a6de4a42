"""A proxy on loopback between S3 clients and their server: it counts requests, and spoils some of them by chance.

The faults are those of networks and of busy servers:

    slow-down       503 with the code SlowDown, the request never reaches the server
    error           500, as above
    reset-before    the connection is reset, the request never reaches the server
    reset-after     the server has done what was asked, and the connection is reset before it can say so
    truncated       half of the answer's body, then a reset (of answers that have a body)
    hang            no answer until the client gives up
    latency         the answer comes 0.3 s late

and those of a server that no longer takes the client's word:

    expired         400 with the code ExpiredToken
    denied          403 with the code AccessDenied
    skewed          403 with the code RequestTimeTooSkewed

It can also make the server one that ignores conditions of writes (If-None-Match), as older S3 servers do.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import yarl
from aiohttp import web
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests import s3

FAULTS = ("slow-down", "error", "reset-before", "reset-after", "truncated", "hang", "latency")
REFUSALS = ("expired", "denied", "skewed")
LATENCY = 0.3  # seconds
CERTAIN = 40  # the request of a time of spoiling that is spoiled in any case
_NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade", "trailer"}
_REPLIES = {
    "slow-down": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
    "skewed": (403, "RequestTimeTooSkewed"),
}


@dataclass
class Proxy:
    """Where it answers; what it is to spoil, in which share of the requests; and what it saw.

    requests: method and path with query, in the order of their arrival. given: bytes of the answers to GET, by path.
    injected: spoiled requests by fault.
    ignores_conditions: no condition of a write reaches the server.
    """

    endpoint: str = ""
    fault: str | None = None
    rate: float = 0.0
    ignores_conditions: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)
    given: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    _drawn: int = 0
    _spared: int = 0

    @contextmanager
    def spoiling(self, fault: str, rate: float, after: int = 0) -> Iterator[None]:
        """Spoil a share of the requests while the context lasts, but for the first few."""
        if fault not in FAULTS + REFUSALS:
            raise ValueError(f"{fault!r} is none of {FAULTS + REFUSALS}")
        self.fault, self.rate, self._drawn, self._spared = fault, rate, 0, after
        try:
            yield
        finally:
            self.fault = None

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count the requests by kind, such as "GET" or "LIST", while the context lasts."""
        counts: Counter[str] = Counter()
        first = len(self.requests)
        yield counts
        counts.update(kind(method, path) for method, path in self.requests[first:])

    def draw(self) -> str | None:
        """Draw the lot of one request."""
        if self.fault is None:
            return None
        self._drawn += 1
        if self._drawn <= self._spared:
            return None
        return self.fault if self.chance.random() < self.rate or self._drawn == CERTAIN else None


def kind(method: str, path: str) -> str:
    """Name a request as S3's price lists do."""
    return "LIST" if method == "GET" and "list-type=" in path else method


@contextmanager
def between(server: str) -> Iterator[Proxy]:
    """Run a proxy to a server's endpoint, in a thread of its own."""
    proxy = Proxy()
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(proxy, server, ready, stop),))
    thread.start()
    try:
        if not ready.wait(30):
            raise RuntimeError("the proxy did not start")
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _serve(proxy: Proxy, server: str, ready: threading.Event, stop: asyncio.Event) -> None:
    async with aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:

        async def answer(request: web.Request) -> web.StreamResponse:
            return await _answer(proxy, server, session, request)

        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.endpoint = f"http://{host}:{port}"
        ready.set()
        await stop.wait()
        await runner.cleanup()


async def _answer(
    proxy: Proxy, server: str, session: aiohttp.ClientSession, request: web.Request
) -> web.StreamResponse:
    fault = proxy.draw()
    body = await request.read()
    proxy.requests.append((request.method, request.raw_path))
    if fault in _REPLIES:
        proxy.injected[fault] += 1
        return _refusal(*_REPLIES[fault], head=request.method == "HEAD")
    if fault == "reset-before":
        proxy.injected[fault] += 1
        return _reset(request)
    if fault == "hang":
        proxy.injected[fault] += 1
        await asyncio.sleep(3600)
    if fault == "latency":
        proxy.injected[fault] += 1
        await asyncio.sleep(LATENCY)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_FORWARDED}
    if proxy.ignores_conditions and "If-None-Match" in request.headers:
        headers = _unconditional(request, headers, body)
    url = yarl.URL(server + request.raw_path, encoded=True)  # as signed
    async with session.request(request.method, url, headers=headers, data=body or None) as response:
        content = await response.read()
        proxy.given[request.path] += len(content) if request.method == "GET" else 0
        if fault == "reset-after":
            proxy.injected[fault] += 1
            return _reset(request)
        if fault == "truncated" and len(content) > 1:
            proxy.injected[fault] += 1
            return await _half(request, response, content)
        kept = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_FORWARDED}
        return web.Response(status=response.status, headers=kept, body=content if request.method != "HEAD" else None)


def _unconditional(request: web.Request, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """Give a request's headers without its condition, signed again: the client has signed the condition, too."""
    kept = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "if-none-match")}
    url = f"http://{request.host}{request.raw_path}"
    signed = AWSRequest(method=request.method, url=url, headers=kept, data=body)
    S3SigV4Auth(Credentials(s3.KEY, s3.SECRET), "s3", "us-east-1").add_auth(signed)
    return dict(signed.headers.items())


def _refusal(status: int, code: str, head: bool) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected</Message></Error>'
    return web.Response(status=status, content_type="application/xml", text=None if head else text)


def _reset(request: web.Request) -> web.Response:
    """Reset the connection, as a machine does that went down and came up again."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, response: aiohttp.ClientResponse, content: bytes) -> web.StreamResponse:
    kept = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_FORWARDED}
    kept["Content-Length"] = str(len(content))
    half = web.StreamResponse(status=response.status, headers=kept)
    await half.prepare(request)
    await half.write(content[: len(content) // 2])
    _reset(request)
    return half
