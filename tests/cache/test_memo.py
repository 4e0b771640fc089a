"""Digests remembered by identity: only with a proof, and only as long as it holds."""

from __future__ import annotations

import gc
import mmap
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import memo
from nbflow.cache.fingerprint import content_bytes

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

N = 5000


@pytest.fixture
def sealed(tmp_path: Path) -> Any:
    """A function that returns a value as it comes back over a read-only map."""

    def make(value: Any) -> Any:
        buffers: list[Any] = []

        def keep(buffer: Any) -> bool:
            view = buffer.raw()
            if view.nbytes > 2048:
                buffers.append(view)
            return bool(view.nbytes <= 2048)

        head = pickle.dumps(value, protocol=5, buffer_callback=keep)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.blob"
        places = []
        with open(file, "wb") as stream:
            stream.write(b"-" * 64)
            for view in buffers:
                stream.write(b"\0" * (-stream.tell() % 64))
                places.append((stream.tell(), view.nbytes))
                stream.write(view)
        with open(file, "rb") as stream:
            mapped = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return pickle.loads(head, buffers=[mapped[start : start + size] for start, size in places])

    yield make
    gc.collect()
    assert not [key for key in memo.known if isinstance(key, int)], "what is remembered ends with its value"


def _frame() -> Any:
    numbers = np.arange(N)
    whole = pd.array([1, None] * (N // 2), dtype="Int64")
    kinds = pd.Categorical(["x", "y"] * (N // 2))
    text = pd.Series([f"text {n}" for n in numbers])
    if text.dtype == object:  # before pandas 3, which keeps text in Arrow's arrays unless told otherwise
        text = text.astype("string[pyarrow]")
    return pd.DataFrame({"a": numbers, "b": numbers / 7, "s": text, "i": whole, "c": kinds})


VALUES = {
    "array": lambda: np.arange(N),
    "columns": lambda: np.asfortranarray(np.arange(N * 2.0).reshape(N, 2)),
    "frame": _frame,
    "frame with an index": lambda: _frame().set_index("b"),
    "series": lambda: _frame()["a"],
    "table": lambda: pa.table({"x": np.arange(N), "s": [str(n) for n in range(N)]}),
    "chunked": lambda: pa.chunked_array([np.arange(N), np.arange(3)]),
}


@pytest.mark.parametrize("name", VALUES)
def test_sealed_values_are_remembered(sealed: Any, name: str) -> None:
    """Over read-only memory the digest is remembered, alone and as a member, and is what walking gives."""
    value = sealed(VALUES[name]())
    content = content_bytes(value)
    assert memo.remember(value, content, "`load`")
    assert memo.recall(value) == content
    assert memo.remember((value, 3), b"pair", "")
    assert memo.recall((value, 3)) == b"pair"
    assert memo.recall([value, 3]) is None
    assert memo.recall((value, 4)) is None
    memo.remember(value, b"told", "")
    assert content_bytes(value) == b"told", "walks ask"
    assert content_bytes({"k": [value]}) != content_bytes({"k": [sealed(VALUES[name]())]}), "at any depth"


@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("table", "chunked")])
def test_values_that_can_be_written_are_not(name: str) -> None:
    """An ordinary value has no proof."""
    value = VALUES[name]()
    assert not memo.remember(value, b"wrong", "")
    assert memo.recall(value) is None


def test_switched_off_writing_is_no_proof() -> None:
    """The owner of the memory can switch it on again, also below a view."""
    owner = np.arange(N)
    view = owner[:]
    view.flags.writeable = False
    assert not memo.remember(view, b"wrong", "")
    owner.flags.writeable = False
    assert not memo.remember(view, b"wrong", "")
    assert not memo.remember(np.frombuffer(memoryview(bytearray(N)).toreadonly(), "u1"), b"wrong", "")
    assert memo.remember(np.frombuffer(bytes(N), "u1"), b"right", "")


CHANGES = {
    "new column": lambda frame: frame.__setitem__("z", 1),
    "other column": lambda frame: frame.__setitem__("a", 1),
    "one cell of text": lambda frame: frame.loc.__setitem__((0, "s"), "other"),
    "one whole number": lambda frame: frame.loc.__setitem__((0, "i"), 77),
    "one category": lambda frame: frame.loc.__setitem__((0, "c"), "y"),
    "a name": lambda frame: setattr(frame, "columns", ["q", "b", "s", "i", "c"]),
    "the name of the columns": lambda frame: setattr(frame.columns, "name", "q"),
    "the name of the index": lambda frame: setattr(frame.index, "name", "q"),
    "the index": lambda frame: setattr(frame, "index", range(1, N + 1)),
    "attributes": lambda frame: frame.attrs.update(unit="m"),
    "a column moved": lambda frame: frame.insert(0, "b", frame.pop("b")),
    "a column dropped": lambda frame: frame.__delitem__("c"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_frame_is_digested_anew(sealed: Any, name: str) -> None:
    """Whatever a frame over sealed memory still allows to be changed is noticed (or refused by pandas)."""
    frame = sealed(_frame())
    before = content_bytes(frame)
    assert memo.remember(frame, before, "")
    try:
        CHANGES[name](frame)
    except (ValueError, pa.ArrowException):
        assert memo.recall(frame) == before
        return
    assert memo.recall(frame) is None
    assert content_bytes(frame) != before


def test_a_changed_array_is_digested_anew(sealed: Any) -> None:
    """Shape and type of an array can be changed in place even where its data cannot."""
    array = sealed(np.arange(N))
    memo.remember(array, b"flat", "")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # numpy advises against it
        array.shape = (N // 2, 2)
    assert memo.recall(array) is None


def test_nothing_large_is_kept_alive(sealed: Any) -> None:
    """A remembered value goes when its last user goes, and so does what was remembered of a tuple of it."""
    array = sealed(np.arange(N))
    memo.remember(array, b"a", "")
    memo.remember((array, 1), b"b", "")
    gone = weakref.ref(array)
    del array
    gc.collect()
    assert gone() is None


def test_long_text_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and bytes are kept, newest first, up to a number of bytes; short ones are not worth it."""
    monkeypatch.setattr(memo, "_texts", type(memo._texts)())
    monkeypatch.setattr(memo, "_text_bytes", 0)
    monkeypatch.setattr(memo, "_TEXT_BYTES", 3 * memo.LARGE)
    assert not memo.remember("short", b"s", "")
    texts = [chr(65 + number) * memo.LARGE for number in range(4)]
    for text in texts:
        assert memo.remember(text, text[:1].encode(), "")
    assert [memo.recall(text) for text in texts] == [None, None, b"C", b"D"]
    assert memo.recall("D" * memo.LARGE) is None, "another object"
    assert content_bytes(texts[3]) == b"D"
    assert memo.remember(data := bytes(memo.LARGE), b"z", "")
    assert content_bytes(data) == b"z"
