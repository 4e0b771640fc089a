"""Digests of arrays and tables: NumPy, pandas, Arrow, Polars, SciPy sparse matrices.

Buffers are hashed where they are, at the speed of memory; what surrounds them (dtype, shape, names, index, time zone)
is part of the digest. Memory layout, chunks, padding, unused categories' order of storage and bytes under a missing
value are not. None of these libraries is imported here: a handler is only called with a value of its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest

from nbflow.cache.parts import Undigestable, hashed, text_bytes

if TYPE_CHECKING:
    from nbflow.cache.digest import Walk

__all__ = ["HANDLERS", "INHERITED"]


# --- NumPy --------------------------------------------------------------------------------------------------------


def _dtype(walk: Walk, dtype: Any) -> bytes:
    """Encode a dtype: names and types of fields, units, byte order; not offsets and padding."""
    if dtype.names is not None:
        members = [text_bytes(name) + _dtype(walk, dtype.fields[name][0]) for name in dtype.names]
        return hashed(b"ds", *members)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return hashed(b"dx", _dtype(walk, base), walk.encode(tuple(shape)))
    if dtype.kind == "T":
        return hashed(b"dT", text_bytes(repr(dtype)))
    return hashed(b"dn", text_bytes(dtype.str))


def _array(walk: Walk, value: Any) -> bytes:
    return hashed(b"na", walk.encode(value.shape), _dtype(walk, value.dtype), array_data(walk, value))


def array_data(walk: Walk, value: Any) -> bytes:
    """Encode the elements of an array in C order, whatever its layout."""
    dtype = value.dtype
    if dtype.names is not None:  # by field: the padding between them is not content
        return hashed(b"fd", *(array_data(walk, value[name]) for name in dtype.names))
    if dtype.hasobject or dtype.kind == "T":
        return walk.sequence(value.ravel().tolist())
    if dtype.char in "gG":  # long double: some of its bytes are padding
        return walk.sequence([repr(item) for item in value.ravel()])
    if not value.flags.c_contiguous:
        value = sys.modules["numpy"].ascontiguousarray(value)
    return b"#" + xxh3_128_digest(value.reshape(-1).view("u1"))


def _subarray(walk: Walk, value: Any) -> bytes:
    """Encode a memory map, matrix or record array: its kind and its data."""
    plain = value.view(sys.modules["numpy"].ndarray)
    return hashed(b"ns", type(value).__name__.encode(), _array(walk, plain))


def _masked(walk: Walk, value: Any) -> bytes:
    """Encode a masked array: what lies under the mask does not count."""
    mask = sys.modules["numpy"].ma.getmaskarray(value)
    fill = walk.encode(value.fill_value)
    return hashed(b"nm", _array(walk, mask), _array(walk, value.compressed()), fill, b"h" if value.hardmask else b"s")


def _generic(walk: Walk, value: Any) -> bytes:
    plain = sys.modules["numpy"].asarray(value)
    return hashed(b"nu", _dtype(walk, plain.dtype), array_data(walk, plain.reshape(1)))


def _ufunc(walk: Walk, value: Any) -> bytes:
    return (
        hashed(b"uf", text_bytes(value.__name__))
        if value.__name__ in vars(sys.modules["numpy"])
        else walk.reduced(value)
    )


# --- pandas -------------------------------------------------------------------------------------------------------


def _pandas_values(walk: Walk, values: Any) -> bytes:
    """Encode one column: an ndarray or an extension array."""
    kind = type(values).__name__
    dtype = values.dtype
    if kind == "ndarray":
        return _array(walk, values)
    if kind == "NumpyExtensionArray":
        return _array(walk, values.to_numpy())
    head = text_bytes(f"{kind} {dtype}")
    if kind == "Categorical":
        return hashed(
            b"pc", _index(walk, values.categories), b"o" if values.ordered else b"u", _array(walk, values.codes)
        )
    if kind in ("DatetimeArray", "TimedeltaArray", "PeriodArray"):
        return hashed(b"pt", head, _array(walk, values.view("i8")), walk.encode(getattr(values, "freqstr", None)))
    if kind == "IntervalArray":
        return hashed(b"pi", head, _index(walk, values.left), _index(walk, values.right))
    if kind in ("IntegerArray", "FloatingArray", "BooleanArray"):
        missing = values.isna()
        return hashed(
            b"pm", head, _array(walk, missing), _array(walk, values[~missing].to_numpy(dtype=dtype.numpy_dtype))
        )
    if kind.startswith("StringArray"):
        return hashed(b"px", head, _array(walk, values.to_numpy(dtype=object, na_value=None)))
    if kind.startswith("Arrow"):
        return hashed(b"pw", head, _arrow_values(walk, values.__arrow_array__()))
    if kind == "SparseArray":
        return hashed(
            b"pz",
            head,
            walk.encode(values.fill_value),
            _array(walk, values.sp_index.indices),
            _array(walk, values.sp_values),
        )
    return hashed(b"pe", head, walk.code(type(values)), walk.sequence([*values]))


def _series(walk: Walk, value: Any) -> bytes:
    return hashed(
        b"se",
        walk.attribute(value, "name"),
        _index(walk, value.index),
        _pandas_values(walk, value.array),
        _attrs(walk, value),
    )


def _frame(walk: Walk, value: Any) -> bytes:
    columns = [_pandas_values(walk, value.iloc[:, place].array) for place in range(value.shape[1])]
    return hashed(b"df", _index(walk, value.columns), _index(walk, value.index), _attrs(walk, value), *columns)


def _attrs(walk: Walk, value: Any) -> bytes:
    return walk.encode(value.attrs) if value.attrs else b""


def _index(walk: Walk, value: Any) -> bytes:
    kind = type(value).__name__
    names = walk.encode([*value.names])
    if kind == "RangeIndex":
        return hashed(b"ri", names, walk.sequence((value.start, value.stop, value.step)))
    if kind == "MultiIndex":
        return hashed(b"mi", names, *(_index(walk, value.get_level_values(level)) for level in range(value.nlevels)))
    frequency = getattr(value, "freqstr", None)
    return hashed(b"ix", kind.encode(), names, _pandas_values(walk, value.array), walk.encode(frequency))


def _timestamp(walk: Walk, value: Any) -> bytes:
    zone = walk.encode(value.tzinfo)
    return hashed(b"ts", type(value).__name__.encode(), walk.encode(value.unit), walk.encode(int(value._value)), zone)


def _timedelta(walk: Walk, value: Any) -> bytes:
    return hashed(b"tl", walk.encode(value.unit), walk.encode(int(value._value)))


def _by_repr(walk: Walk, value: Any) -> bytes:
    return hashed(b"rp", type(value).__name__.encode(), text_bytes(repr(value)))


# --- Arrow --------------------------------------------------------------------------------------------------------


def _arrow_values(walk: Walk, value: Any) -> bytes:
    """Encode an array or chunked array: type, which values are missing, and the others."""
    if hasattr(value, "chunks"):
        value = value.combine_chunks()
        if hasattr(value, "chunks"):  # some types cannot be joined
            return hashed(b"wc", text_bytes(str(value.type)), walk.sequence(value.to_pylist()))
    return hashed(b"wa", text_bytes(str(value.type)), walk.encode(len(value)), _arrow_data(walk, value))


def _arrow_data(walk: Walk, value: Any) -> bytes:
    types = sys.modules["pyarrow"].types
    if hasattr(value, "storage"):
        value = value.storage
    kind = value.type
    if types.is_null(kind):
        return b"0"
    if types.is_dictionary(kind):
        return hashed(b"wd", _arrow_values(walk, value.indices), _arrow_values(walk, value.dictionary))
    validity = b""
    if value.null_count:
        validity = b"#" + xxh3_128_digest(_flat(value.is_valid().cast("uint8"), 1))
        value = value.drop_null()
    if types.is_boolean(kind):
        return hashed(b"wb", validity, xxh3_128_digest(_flat(value.cast("uint8"), 1)))
    if types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind):
        return hashed(b"wv", validity, *_arrow_texts(value, "large" in str(kind)))
    if types.is_primitive(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        return hashed(b"wp", validity, xxh3_128_digest(_flat(value, kind.bit_width // 8)))
    if types.is_struct(kind):
        return hashed(b"wt", validity, *(_arrow_values(walk, field) for field in value.flatten()))
    return hashed(b"wl", validity, walk.sequence(value.to_pylist()))


def _flat(value: Any, width: int) -> memoryview:
    """Return the bytes of the elements of an array without missing ones."""
    buffer = value.buffers()[1]
    if buffer is None:
        return memoryview(b"")
    return memoryview(buffer).cast("B")[value.offset * width : (value.offset + len(value)) * width]


def _arrow_texts(value: Any, large: bool) -> tuple[bytes, bytes]:
    """Return digests of lengths and bytes; offsets themselves depend on how an array was sliced."""
    if not len(value):
        return b"", b""
    import pyarrow.compute as compute

    lengths = compute.call_function("binary_length", [value])
    _, offsets, data = value.buffers()
    marks = memoryview(offsets).cast("B").cast("q" if large else "i")
    first, last = marks[value.offset], marks[value.offset + len(value)]
    content = memoryview(data).cast("B")[first:last] if data is not None else b""
    return xxh3_128_digest(_flat(lengths, 8 if large else 4)), xxh3_128_digest(content)


def _arrow_table(walk: Walk, value: Any) -> bytes:
    metadata = walk.encode(dict(value.schema.metadata or {}))
    columns = [_arrow_values(walk, column) for column in value.columns]
    return hashed(b"wz", type(value).__name__.encode(), walk.sequence(value.schema.names), metadata, *columns)


def _arrow_scalar(walk: Walk, value: Any) -> bytes:
    return hashed(b"ws", text_bytes(str(value.type)), walk.encode(value.as_py()))


# --- Polars -------------------------------------------------------------------------------------------------------


def _polars_series(walk: Walk, value: Any) -> bytes:
    head = text_bytes(value.name), text_bytes(repr(value.dtype)), walk.encode(len(value))
    if repr(value.dtype).startswith(("Object", "Categorical", "Enum")):
        return hashed(b"po", *head, walk.sequence(value.to_list()))
    return hashed(b"ps", *head, _arrow_values(walk, value.to_arrow()))


def _polars_frame(walk: Walk, value: Any) -> bytes:
    return hashed(b"pl", *(_polars_series(walk, column) for column in value.get_columns()))


# --- SciPy --------------------------------------------------------------------------------------------------------


def _sparse(walk: Walk, value: Any) -> bytes:
    """Encode a sparse matrix by its sorted entries; how it was put together does not count."""
    kind = type(value).__name__
    numpy = sys.modules["numpy"]
    entries = value.tocoo().copy()
    entries.sum_duplicates()
    coordinates = getattr(entries, "coords", None) or (entries.row, entries.col)
    order = numpy.lexsort(tuple(reversed(coordinates)))
    places = [_array(walk, axis[order].astype("<i8")) for axis in coordinates]
    return hashed(
        b"sp", kind.encode(), walk.encode(tuple(map(int, value.shape))), _array(walk, entries.data[order]), *places
    )


_INDEXES = "Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex PeriodIndex IntervalIndex CategoricalIndex".split()
_SPARSE = [f"{layout}_{kind}" for layout in "coo csr csc bsr dia dok lil".split() for kind in ("matrix", "array")]


def _pandas_dtype(walk: Walk, value: Any) -> bytes:
    if type(value).__name__ == "CategoricalDtype":
        categories = b"" if value.categories is None else _index(walk, value.categories)
        return hashed(b"rc", categories, walk.encode(value.ordered))
    return hashed(b"rp", type(value).__name__.encode(), text_bytes(repr(value)))


def _fields(tag: bytes, *names: str) -> Callable[[Walk, Any], bytes]:
    return lambda walk, value: hashed(tag, *(walk.attribute(value, name) for name in names))


HANDLERS: dict[str, Callable[[Walk, Any], bytes]] = {
    "numpy.ndarray": _array,
    "numpy.memmap": _subarray,
    "numpy.matrix": _subarray,
    "numpy.recarray": _subarray,
    "numpy.MaskedArray": _masked,
    "numpy.ufunc": _ufunc,
    "pandas.Series": _series,
    "pandas.DataFrame": _frame,
    **{f"pandas.{name}": _index for name in _INDEXES},
    "pandas.Timestamp": _timestamp,
    "pandas.Timedelta": _timedelta,
    "pandas.NaTType": lambda walk, value: b"rNaT",
    "pandas.NAType": lambda walk, value: b"rNA",
    "pandas.Period": _fields(b"rq", "ordinal", "freqstr"),
    "pandas.Interval": _fields(b"rv", "left", "right", "closed"),
    "pyarrow.Table": _arrow_table,
    "pyarrow.RecordBatch": _arrow_table,
    "pyarrow.ChunkedArray": _arrow_values,
    "polars.Series": _polars_series,
    "polars.DataFrame": _polars_frame,
    **{f"scipy.{name}": _sparse for name in _SPARSE},
}
"""Handlers of exactly these types, by top-level package and name (inner modules differ between versions)."""


def _figure(walk: Walk, value: Any) -> bytes:
    """Refuse at once: every part of a figure refers to all of it, and to callbacks that mean nothing elsewhere."""
    raise Undigestable("", f"{type(value).__name__}: it is part of a figure, which changes while it is drawn")


INHERITED: dict[str, Callable[[Walk, Any], bytes]] = {
    "matplotlib.Artist": _figure,
    "numpy.generic": _generic,
    "numpy.dtype": lambda walk, value: hashed(b"nt", _dtype(walk, value)),
    "pandas.ExtensionArray": lambda walk, value: hashed(b"px", _pandas_values(walk, value)),
    "pandas.ExtensionDtype": _pandas_dtype,
    "pyarrow.Array": _arrow_values,
    "pyarrow.Scalar": _arrow_scalar,
    "pyarrow.DataType": lambda walk, value: hashed(b"wy", text_bytes(str(value))),
}
"""Handlers that also fit the library's own subclasses of these."""
