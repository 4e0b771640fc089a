"""Digests of what is kept by column: Arrow's arrays, tables and types, and the series and frames of Polars.

Arrow says the same in many ways: cut into chunks, as a slice of something longer, with anything under a missing
value. None of that counts. Buffers are hashed where they are, chunk after chunk, and copied only where they are not
in canonical form already. Neither library is imported here: a handler is only called with a value of its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from xxhash import xxh3_128, xxh3_128_digest

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.cache.parts import hashed, text_bytes

if TYPE_CHECKING:
    from nbflow.cache.digest import Walk

__all__ = ["COLUMNS", "COLUMNS_INHERITED", "arrow_values"]


# --- Arrow --------------------------------------------------------------------------------------------------------


def arrow_values(walk: Walk, value: Any) -> bytes:
    """Encode an array or chunked array: type, length, which values are missing, and the others."""
    head = text_bytes(str(value.type)), walk.encode(len(value))
    if not hasattr(value, "chunks"):
        return hashed(b"wa", *head, _data(walk, [value]))
    chunks = [chunk for chunk in value.chunks if len(chunk)]
    if len(chunks) > 1 and not _in_pieces(chunks[0].type):
        joined = value.combine_chunks()
        if hasattr(joined, "chunks"):  # some types cannot be joined
            return hashed(b"wa", *head, b"wc", walk.sequence(value.to_pylist()))
        chunks = [joined]
    return hashed(b"wa", *head, _data(walk, chunks or [value.combine_chunks()]))


def _types() -> Any:
    return sys.modules["pyarrow"].types


def _is_text(kind: Any) -> bool:
    types = _types()
    return bool(
        types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind)
    )


def _is_plain(kind: Any) -> bool:
    types = _types()
    return bool(types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind))


def _in_pieces(kind: Any) -> bool:
    """Whether chunks of this type are hashed one after the other, without joining them."""
    return _is_text(kind) or (_is_plain(kind) and not _types().is_boolean(kind))


def _data(walk: Walk, chunks: list[Any]) -> bytes:
    """Encode the elements of chunks of one type (of one chunk, unless `_in_pieces`)."""
    types = _types()
    chunks = [chunk.storage if hasattr(chunk, "storage") else chunk for chunk in chunks]
    first = chunks[0]
    kind = first.type
    if types.is_null(kind):
        return b"0"
    if types.is_dictionary(kind):
        return hashed(b"wd", arrow_values(walk, first.indices), arrow_values(walk, first.dictionary))
    if str(kind) in ("string_view", "binary_view"):
        return _data(walk, [first.cast(str(kind).replace("_view", "").replace("string", "large_string"))])
    validity = _validity(chunks)
    if _is_text(kind):
        return hashed(b"wv", validity, *_texts(chunks, "large" in str(kind)))
    if validity:
        chunks = [chunk.drop_null() for chunk in chunks]
        first = chunks[0]
    if types.is_boolean(kind):
        return hashed(b"wb", validity, xxh3_128_digest(_flat(first.cast("uint8"), 1)))
    if _is_plain(kind):
        return hashed(b"wp", validity, _streamed(_flat(chunk, kind.bit_width // 8) for chunk in chunks))
    if types.is_struct(kind):
        return hashed(b"wt", validity, *(arrow_values(walk, field) for field in first.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = _compute("list_value_length", first)
        return hashed(b"wl", validity, arrow_values(walk, lengths), arrow_values(walk, first.flatten()))
    return hashed(b"wo", validity, walk.sequence(first.to_pylist()))


def _validity(chunks: list[Any]) -> bytes:
    if not any(chunk.null_count for chunk in chunks):
        return b""
    return b"#" + _streamed(_flat(chunk.is_valid().cast("uint8"), 1) for chunk in chunks)


def _streamed(pieces: Iterator[Any]) -> bytes:
    state = xxh3_128()
    for piece in pieces:
        state.update(piece)
    return state.digest()


def _compute(name: str, *arguments: Any) -> Any:
    import pyarrow.compute as compute

    return compute.call_function(name, list(arguments))


def _flat(value: Any, width: int) -> memoryview:
    """Return the bytes of the elements of an array without missing ones."""
    buffer = value.buffers()[1]
    if buffer is None:
        return memoryview(b"")
    return memoryview(buffer).cast("B")[value.offset * width : (value.offset + len(value)) * width]


def _texts(chunks: list[Any], wide: bool) -> tuple[bytes, bytes]:
    """Return digests of where each text ends, counted from the first of all, and of all texts in a row."""
    ends, content, total = xxh3_128(), xxh3_128(), 0
    for chunk in chunks:
        if not len(chunk):
            continue
        first, last = _span(chunk, wide)
        if chunk.null_count and (_compute("sum", _compute("binary_length", chunk)).as_py() or 0) != last - first:
            chunk = chunk.fill_null("" if "string" in str(chunk.type) else b"")  # something lies under a missing one
            first, last = _span(chunk, wide)
        ends.update(_ends(chunk, wide, total - first))
        _, _, data = chunk.buffers()
        if data is not None and last > first:
            content.update(memoryview(data).cast("B")[first:last])
        total += last - first
    return ends.digest(), content.digest()


def _span(chunk: Any, wide: bool) -> tuple[int, int]:
    marks = memoryview(chunk.buffers()[1]).cast("B").cast("q" if wide else "i")
    return marks[chunk.offset], marks[chunk.offset + len(chunk)]


def _ends(chunk: Any, wide: bool, shift: int) -> Any:
    """Return the offsets behind each text, shifted; in place where nothing is to be shifted."""
    width, offsets, begin = 8 if wide else 4, chunk.buffers()[1], chunk.offset + 1
    if shift == 0:
        return memoryview(offsets).cast("B")[begin * width : (begin + len(chunk)) * width]
    arrow = sys.modules["pyarrow"]
    kind = arrow.int64() if wide else arrow.int32()
    marks = arrow.Array.from_buffers(kind, len(chunk), [None, offsets], offset=begin)
    limit = 1 << (8 * width - 1)
    wrapped = (shift + limit) % (2 * limit) - limit  # `add` wraps too, so ends beyond the limit still differ
    return _flat(_compute("add", marks, arrow.scalar(wrapped, kind)), width)


def _chunked(walk: Walk, value: Any) -> bytes:
    return hashed(b"wk", arrow_values(walk, value))


def _table(walk: Walk, value: Any) -> bytes:
    columns = [arrow_values(walk, column) for column in value.columns]
    return hashed(b"wz", type(value).__name__.encode(), _schema(walk, value.schema), *columns)


def _schema(walk: Walk, value: Any) -> bytes:
    return hashed(b"wx", walk.encode(dict(value.metadata or {})), *(_field(walk, field) for field in value))


def _field(walk: Walk, value: Any) -> bytes:
    nullable = b"?" if value.nullable else b"!"
    return hashed(
        b"wf", text_bytes(value.name), _type(walk, value.type), nullable, walk.encode(dict(value.metadata or {}))
    )


def _type(walk: Walk, value: Any) -> bytes:
    return hashed(b"wy", text_bytes(str(value)))


def _scalar(walk: Walk, value: Any) -> bytes:
    return hashed(b"ws", text_bytes(str(value.type)), walk.encode(value.as_py()))


def _buffer(walk: Walk, value: Any) -> bytes:
    return hashed(b"wu", xxh3_128_digest(memoryview(value)))


# --- Polars -------------------------------------------------------------------------------------------------------


def _polars_series(walk: Walk, value: Any) -> bytes:
    head = text_bytes(value.name), text_bytes(repr(value.dtype)), walk.encode(len(value))
    if repr(value.dtype).startswith(("Object", "Categorical", "Enum")):
        return hashed(b"po", *head, walk.sequence(value.to_list()))
    return hashed(b"ps", *head, arrow_values(walk, value.to_arrow()))


def _polars_frame(walk: Walk, value: Any) -> bytes:
    return hashed(b"pl", *(_polars_series(walk, column) for column in value.get_columns()))


COLUMNS: dict[str, Callable[[Walk, Any], bytes]] = {
    "pyarrow.ChunkedArray": _chunked,
    "pyarrow.Field": _field,
    "pyarrow.RecordBatch": _table,
    "pyarrow.Schema": _schema,
    "pyarrow.Table": _table,
    "polars.DataFrame": _polars_frame,
    "polars.Series": _polars_series,
}
"""Handlers of exactly these types, by top-level package and name."""

COLUMNS_INHERITED: dict[str, Callable[[Walk, Any], bytes]] = {
    "pyarrow.Array": arrow_values,
    "pyarrow.Buffer": _buffer,
    "pyarrow.DataType": _type,
    "pyarrow.Scalar": _scalar,
}
"""Handlers that also fit the library's own subclasses of these."""
