"""Datasets over the S3 protocol, with a server that fails, stalls and hangs up, and places that can only be read."""

from __future__ import annotations

import importlib.util
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nbflow import load_dataset, map_tasks, save_dataset, session, task
from nbflow.datasets import DatasetStore
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import FileDriver

pytest.importorskip("moto.server", reason="needs moto[server]")
s3fs = pytest.importorskip("s3fs", reason="needs s3fs")

_spec = importlib.util.spec_from_file_location(
    "nbflow_s3_proxy", Path(__file__).parents[1] / "cache" / "test_shared_s3.py"
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
proxy = _module.proxy  # the fixture: an S3 server behind a proxy that does what `fault(method, path)` says


@pytest.fixture
def place(proxy: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., DatasetStore]]:
    """Return what opens a store in a bucket of its own."""
    proxy.fault, proxy.seen = (lambda method, path: None), []
    proxy.go.clear()
    bucket = request.node.name.replace("_", "-").replace("[", "-").replace("]", "").lower()[:60].rstrip("-")
    s3fs.S3FileSystem(endpoint_url=proxy.url, skip_instance_cache=True).mkdir(bucket)

    def open_store(**options: Any) -> DatasetStore:
        fs = s3fs.S3FileSystem(
            endpoint_url=proxy.url,
            skip_instance_cache=True,
            config_kwargs={"connect_timeout": 5, "read_timeout": 1, "retries": {"max_attempts": 2}},
        )
        fs.retries = 2
        return DatasetStore(FileDriver(f"{bucket}/data", fs), **options)

    yield open_store
    proxy.fault = lambda method, path: None
    proxy.go.set()


def test_values_versions_and_facts(proxy: Any, place: Callable[..., DatasetStore]) -> None:
    """All that a folder can, a bucket can; old bytes are copied in the bucket and not sent again."""
    store = place(versions=3)
    store.save("a/b.txt", "x" * 50_000)
    proxy.seen.clear()
    store.save("a/b.txt", "y")
    sent = [path for method, path in proxy.seen if method == "PUT"]
    assert len(sent) == 3  # the copy, the value, the history
    assert store.load("a/b.txt", version=-1) == "x" * 50_000
    assert [(info.key, info.size_bytes, info.versions) for info in store.catalog()] == [("a/b.txt", 1, 2)]
    assert store.delete("a/b.txt")
    assert store.driver.list_keys() == []
    with pytest.raises(DatasetNotFoundError):
        store.info("a/b.txt")


@pytest.mark.parametrize("fault", [500, 503, "drop"])
def test_a_short_failure_is_retried(proxy: Any, place: Callable[..., DatasetStore], fault: int | str) -> None:
    """A server that fails once gets the whole value, and gives it, all the same."""
    store = place()
    for method, act in (("PUT", lambda: store.save("a.json", [1])), ("GET", lambda: store.load("a.json"))):
        left = [fault]
        proxy.fault = lambda seen, path, method=method, left=left: left.pop() if seen == method and left else None
        act()
        assert not left
    assert store.load("a.json") == [1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [403, 500, "drop"])
def test_a_lasting_failure_is_a_clear_error(proxy: Any, place: Callable[..., DatasetStore], fault: int | str) -> None:
    """It names the dataset and the place, and what was there before is still there, whole."""
    store = place(versions=2)
    store.save("a.json", "old")
    proxy.fault = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(DatasetError, match=r"Cannot save dataset 'a\.json' in .*data"):
        store.save("a.json", "new")
    proxy.fault = lambda method, path: fault if method in ("GET", "HEAD") else None
    with pytest.raises(DatasetError, match=r"Cannot load dataset 'a\.json'"):
        store.load("a.json")
    proxy.fault = lambda method, path: None
    assert store.load("a.json") == store.load("a.json", version=0) == "old"


def test_workers_save_into_a_slow_bucket(proxy: Any, place: Callable[..., DatasetStore]) -> None:
    """When the map returns, everything is there; what one worker could not save fails the map."""
    proxy.fault = lambda method, path: threading.Event().wait(0.05) or None
    store = place()

    @task(dataset="part_{n}.json", dataset_store=store)
    def part(n: int) -> int:
        save_dataset(f"inner/{n}.json", n)
        return n

    with session(dataset_store=store):
        map_tasks(part, range(8), backend="thread")
        assert [load_dataset(f"part_{n}.json") + load_dataset(f"inner/{n}.json") for n in range(8)] == [
            2 * n for n in range(8)
        ]
        proxy.fault = lambda method, path: 403 if method == "PUT" and "part_3" in path else None
        with pytest.raises(DatasetError, match="part_3"):
            map_tasks(part, range(8), backend="thread")


def test_a_zip_can_be_read_but_not_written(tmp_path: Path) -> None:
    """What it holds is listed and loaded; saving says that it cannot be."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a/b.json", "[1]")
    store = DatasetStore(f"zip://::{tmp_path / 'all.zip'}")
    assert store.list_keys() == ["a/b.json"]
    assert store.load("a/b.json") == [1]
    assert store.info("a/b.json").size_bytes == 3
    with pytest.raises(DatasetError, match="'zip' can only be read"):
        store.save("c.json", 1)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_a_web_server_can_be_read_but_not_written(tmp_path: Path) -> None:
    """A dataset loads from its address; one that is not there, and saving, are clear errors."""
    pytest.importorskip("aiohttp", reason="fsspec reads the web by aiohttp")
    (tmp_path / "b.json").write_text("[1]")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        store = DatasetStore(f"http://127.0.0.1:{server.server_port}")
        assert store.load("b.json") == [1]
        with pytest.raises(DatasetNotFoundError, match=r"'no\.json'"):
            store.load("no.json")
        with pytest.raises(DatasetError, match="'http' can only be read|'https' can only be read"):
            store.save("c.json", 1)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
