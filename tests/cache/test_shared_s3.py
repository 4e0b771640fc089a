"""The shared tier over the S3 protocol, with a server that fails, stalls, hangs up and forbids."""

from __future__ import annotations

import asyncio
import http.client
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec.asyn
import pytest

from nbflow.cache.keyring import make_key
from nbflow.cache.parts import CacheKey
from nbflow.cache.shared import SharedTier
from nbflow.cache.store import CACHE_MISS, CacheStore
from nbflow.errors import CacheError

pytest.importorskip("moto.server", reason="needs moto[server]")
pytest.importorskip("s3fs", reason="needs s3fs")

LARGE = random.Random(7).randbytes(100 * 1024)  # which nothing compresses
NAMES = [f"{number:032x}" for number in range(1, 9)]
Fault = Callable[[str, str], "int | str | None"]


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the server, unless `fault(method, path)` returns a status, "drop" or "stall"."""

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.fault: Fault = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that we or the client broke off is no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection of the proxy."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle(self) -> None:
        """Serve one request and hang up, so that no thread outlives its test."""
        self.close_connection = True
        self.handle_one_request()

    def pass_on(self) -> None:
        body = self._body()
        self.server.seen.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path)
        if fault == "stall":
            self.server.go.wait(60)
        if fault in ("drop", "stall"):
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, int):
            code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[fault]
            self._reply(fault, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("expect", "transfer-encoding")
        }
        upstream.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        self._reply(answer.status, dict(answer.getheaders()), data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        skipped = ("transfer-encoding", "connection", "date", "server", "content-length")
        for name, value in headers.items():
            if name.lower() not in skipped:
                self.send_header(name, value)
        length = headers.get("content-length", headers.get("Content-Length")) if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """An S3 server behind a proxy, and fsspec's own thread, which stays for the life of the process."""
    import logging

    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            # Starts the threads of fsspec's loop; all servers of a process have the same buckets.
            s3fs.S3FileSystem(endpoint_url=proxy.url).mkdir(f"warm-{uuid.uuid4().hex}")
            yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        server.stop()


class Bucket:
    """A bucket of its own for one test, and stores that share it."""

    def __init__(self, proxy: Proxy, name: str, folder: Path) -> None:
        import s3fs

        self.proxy = proxy
        self.folder = folder
        self.url = f"s3://{name}/cache"
        self.options = {
            "endpoint_url": proxy.url,
            "config_kwargs": {"connect_timeout": 5, "read_timeout": 2, "retries": {"max_attempts": 1}},
            "skip_instance_cache": True,
        }
        self.fs = s3fs.S3FileSystem(endpoint_url=proxy.url, skip_instance_cache=True)
        self.fs.mkdir(name)
        self.told: list[str] = []
        self.stores: list[CacheStore] = []

    def store(self, name: str, **options: Any) -> CacheStore:
        tell: Any = self.told.append
        shared = SharedTier(
            self.url, options=self.options, key="team", tell=tell, flush_s=60.0, **{"delays_s": (0.0, 0.0), **options}
        )
        store = CacheStore(self.folder / name, shared=shared)
        self.stores.append(store)
        return store

    def objects(self) -> list[str]:
        self.fs.invalidate_cache()
        return [path.removeprefix("/") for path in self.fs.find(self.url)]


@pytest.fixture
def bucket(proxy: Proxy, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bucket]:
    make_key("team")
    proxy.fault, proxy.seen = (lambda method, path: None), []
    proxy.go.clear()
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "").lower()[:60].rstrip("-")
    bucket = Bucket(proxy, name, tmp_path)
    proxy.seen.clear()
    yield bucket
    proxy.fault = lambda method, path: None
    proxy.go.set()
    for store in bucket.stores:
        store.close()
    asyncio.run_coroutine_threadsafe(_abandoned_requests(), fsspec.asyn.get_loop()).result(60)


async def _abandoned_requests() -> None:
    """Wait for the ends of requests that nobody waited for any more."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def key(name: str) -> CacheKey:
    return CacheKey(name, "f")


def stats(store: CacheStore) -> dict[str, Any]:
    return store.stats()["shared"]


def test_results_travel(bucket: Bucket) -> None:
    """Small ones as one object, large ones as two; a hit asks for exactly these, and nothing is listed."""
    ann = bucket.store("ann")
    ann.save(key(NAMES[0]), [1])
    ann.save(key(NAMES[1]), [LARGE, bytearray(LARGE)])
    ann.close()
    assert stats(ann)["sent"] == 2
    assert sorted(path.split("/")[2] for path in bucket.objects()) == ["blobs", "keys", "keys"]
    bob = bucket.store("bob")
    bucket.proxy.seen.clear()
    assert bob.get(key(NAMES[0])) == [1]
    assert [method for method, _ in bucket.proxy.seen] == ["GET"]
    bucket.proxy.seen.clear()
    assert bob.get(key(NAMES[1])) == [LARGE, LARGE]
    assert bob.get(key(NAMES[2])) is CACHE_MISS
    assert not [path for _, path in bucket.proxy.seen if "list-type" in path]
    assert bucket.told == []


def test_files_beyond_memory_go_through_the_disk(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large blobs are sent from and fetched into files."""
    monkeypatch.setattr("nbflow.cache.remote._LARGE", 50_000)
    ann = bucket.store("ann")
    ann.save(key(NAMES[0]), bytearray(LARGE))
    ann.close()
    assert bucket.store("bob").get(key(NAMES[0])) == LARGE


@pytest.mark.parametrize("fault", [500, 503, "drop"])
def test_faults_of_sending_are_retried(bucket: Bucket, fault: int | str) -> None:
    """A server that fails twice gets the whole result all the same."""
    left = [fault, fault]
    bucket.proxy.fault = lambda method, path: left.pop() if method == "PUT" and left else None
    ann = bucket.store("ann", delays_s=(0.0,) * 6)
    ann.save(key(NAMES[0]), LARGE)
    ann.close()
    assert left == []
    assert bucket.store("bob").get(key(NAMES[0])) == LARGE
    assert bucket.told == []


def test_a_result_that_cannot_be_sent_leaves_nothing_half_written(bucket: Bucket) -> None:
    """The blob arrives, the envelope does not: no reader is misled, the result stays, and it is said once."""
    bucket.proxy.fault = lambda method, path: 500 if method == "PUT" and "/keys/" in path else None
    ann = bucket.store("ann")
    ann.save(key(NAMES[0]), LARGE)
    ann.close()
    assert ann.get(key(NAMES[0])) == LARGE
    assert stats(ann)["dropped"] == 1
    assert len(bucket.told) == 1
    bucket.proxy.fault = lambda method, path: None
    assert not [path for path in bucket.objects() if "/keys/" in path]
    assert bucket.store("bob").get(key(NAMES[0])) is CACHE_MISS


@pytest.mark.parametrize("fault", [500, "drop"])
def test_faults_of_reading_are_misses(bucket: Bucket, fault: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the server does, the answer is a miss with a reason; after three (or a slow one) it is left alone."""
    monkeypatch.setattr("nbflow.cache.remote._PATIENCE_S", 1.0)
    bucket.proxy.fault = lambda method, path: fault
    bob = bucket.store("bob", delays_s=())
    for name in NAMES[:5]:
        assert bob.get(key(name)) is CACHE_MISS
    assert "could not be asked" in str(bob.explain(key(NAMES[0])))
    assert 1 <= stats(bob)["faults"] <= 3
    assert stats(bob)["paused"] is True
    assert len(bucket.told) == 1


def test_a_server_that_does_not_answer_is_not_waited_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled request ends after a bounded time, as a miss."""
    monkeypatch.setattr("nbflow.cache.remote._PATIENCE_S", 0.2)
    bucket.proxy.fault = lambda method, path: "stall"
    bob = bucket.store("bob", delays_s=())
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    assert "could not be asked" in str(bob.explain(key(NAMES[0])))
    bucket.proxy.go.set()


def test_a_bucket_that_is_only_read(bucket: Bucket) -> None:
    """Without the right to write, results are read, and nothing is sent; that is said once."""
    ann = bucket.store("ann")
    ann.save(key(NAMES[0]), LARGE)
    ann.close()
    bucket.proxy.fault = lambda method, path: 403 if method == "PUT" else None
    bob = bucket.store("bob")
    bob.save(key(NAMES[1]), [2])
    bob.close()
    bob.save(key(NAMES[2]), [3])
    bob.close()
    assert bob.get(key(NAMES[0])) == LARGE
    assert stats(bob)["readonly"] is True
    assert len(bucket.told) == 1
    assert "cache_shared_readonly" in bucket.told[0]


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    """Nothing is found, nothing is sent, and that is said."""
    bucket.url = "s3://no-such-bucket/cache"
    ann = bucket.store("ann")
    assert ann.get(key(NAMES[0])) is CACHE_MISS
    ann.save(key(NAMES[0]), [1])
    ann.close()
    assert ann.get(key(NAMES[0])) == [1]
    assert "bucket does not exist" in "".join(bucket.told)


def test_pruning(bucket: Bucket) -> None:
    """One listing, one look at each envelope, and only what has to go is removed; a failing server is an error."""
    ann = bucket.store("ann")
    ann.save(key(NAMES[0]), [1])
    ann.save(key(NAMES[1]), LARGE)
    ann.save(key(NAMES[2]), bytearray(LARGE))
    ann.close()
    bucket.fs.pipe_file(f"{bucket.url}/notes.txt", b"not ours")
    shared = bucket.store("bob").shared
    assert isinstance(shared, SharedTier)
    bucket.proxy.seen.clear()
    planned = shared.prune(150_000, dry_run=True)
    asked = [path for _, path in bucket.proxy.seen]
    assert sum("list-type" in path for path in asked) == 1
    assert sum("/keys/" in path for path in asked) == 3
    assert len(asked) == 4
    assert shared.prune(150_000) == planned
    assert (planned.removed, planned.left) == (2, 1)
    assert sorted(path.split("/")[2] for path in bucket.objects()) == ["blobs", "keys", "notes.txt"]
    carol = bucket.store("carol")
    assert [carol.get(key(name)) is CACHE_MISS for name in NAMES[:3]] == [True, True, False]
    bucket.proxy.fault = lambda method, path: 403 if method == "DELETE" else None
    with pytest.raises(CacheError, match="could not be pruned"):
        shared.prune(0)
