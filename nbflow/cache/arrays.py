"""Digests of arrays and tables: NumPy, pandas, SciPy sparse matrices, PyTorch; see `columns` for Arrow and Polars.

Buffers are hashed where they are, at the speed of memory; what surrounds them (dtype, shape, names, index, time zone)
is part of the digest. Memory layout, chunks, padding, unused categories' order of storage and bytes under a missing
value are not. None of these libraries is imported here: a handler is only called with a value of its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from xxhash import xxh3_128_digest

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import package_of
from nbflow.cache.columns import COLUMNS, COLUMNS_INHERITED, arrow_values
from nbflow.cache.packed import packed_texts
from nbflow.cache.parts import PACKED_FROM, Undigestable, hashed, text_bytes
from nbflow.cache.standard import fields

if TYPE_CHECKING:
    from nbflow.cache.digest import Walk

__all__ = ["DATA", "HANDLERS", "INHERITED", "SUBCLASSED"]


# --- NumPy --------------------------------------------------------------------------------------------------------


def _dtype(walk: Walk, dtype: Any, layout: bool = False) -> bytes:
    """Encode a dtype: names, titles and types of fields, units, byte order, metadata, and a scalar type of others.

    Args:
        walk: Encodes what is in it.
        dtype: That of an array, or one that is a value itself.
        layout: Whether offsets, padding and alignment count: they do for who reads bytes with it.
    """
    extra = b"" if not dtype.metadata else b"m" + walk.encode(dict(dtype.metadata))
    kind = dtype.type
    if kind.__module__ != "numpy" or kind.__name__ == "record":  # bfloat16 and float8 look like plain bytes
        extra += b"t" + text_bytes(f"{kind.__module__}.{kind.__qualname__}")
    if dtype.names is not None:
        members = []
        for name in dtype.names:
            inner, offset, *title = dtype.fields[name]
            place = walk.encode(offset) if layout else b""
            members.append(text_bytes(name) + _dtype(walk, inner, layout) + place + b"".join(map(walk.encode, title)))
        if layout:
            extra += walk.encode((dtype.itemsize, dtype.isalignedstruct))
        return hashed(b"ds", *members, extra) if extra else hashed(b"ds", *members)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return hashed(b"dx", _dtype(walk, base, layout), walk.encode(tuple(shape)), *([extra] if extra else []))
    if dtype.kind == "T":
        return hashed(b"dT", text_bytes(repr(dtype)))
    return hashed(b"dn", text_bytes(dtype.str), *([extra] if extra else []))


def _array(walk: Walk, value: Any) -> bytes:
    return hashed(b"na", walk.encode(value.shape), _dtype(walk, value.dtype), array_data(walk, value))


def array_data(walk: Walk, value: Any) -> bytes:
    """Encode the elements of an array in C order, whatever its layout."""
    dtype = value.dtype
    if dtype.names is not None:  # by field: the padding between them is not content
        return hashed(b"fd", *(array_data(walk, value[name]) for name in dtype.names))
    if dtype.hasobject or dtype.kind == "T":
        return _objects(walk, value.ravel())
    if dtype.char in "gG":  # long double: some of its bytes are padding
        return walk.sequence([repr(item) for item in value.ravel()])
    if not value.flags.c_contiguous:
        value = sys.modules["numpy"].ascontiguousarray(value)
    return b"#" + xxh3_128_digest(value.reshape(-1).view("u1"))


def _objects(walk: Walk, value: Any) -> bytes:
    """Encode a flat array of objects as the list of them would be."""
    count = len(value)
    if count >= PACKED_FROM and type(value[0]) is str:
        texts = packed_texts(lambda part: value[part].tolist(), count)
        if texts is not None:
            return texts
    return walk.sequence(value.tolist())


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
    """Encode a ufunc by the name that its library gave it; one that wraps other code cannot be looked into."""
    for home in ("numpy", "scipy.special"):
        name = str(value.__name__)
        if getattr(sys.modules.get(home), name, None) is value:
            return hashed(b"uf", text_bytes(home), text_bytes(name))
    raise Undigestable("", f"{type(value).__name__} {name!r}: it hides the function that it was made of")


# --- pandas -------------------------------------------------------------------------------------------------------


def _pandas_values(walk: Walk, values: Any) -> bytes:
    """Encode one column: an ndarray or an extension array."""
    kind = type(values).__name__
    dtype = values.dtype
    if kind == "ndarray":
        return _array(walk, values)
    if package_of(type(values)) != "pandas":
        return _foreign_values(walk, values)
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
        return hashed(b"pw", head, arrow_values(walk, values.__arrow_array__()))
    if kind == "SparseArray":
        return hashed(
            b"pz",
            head,
            walk.encode((len(values), values.fill_value)),
            _array(walk, values.sp_index.indices),
            _array(walk, values.sp_values),
        )
    return hashed(b"pe", head, walk.code(type(values)), walk.sequence([*values]))


def _foreign_values(walk: Walk, values: Any) -> bytes:
    """Encode a column of somebody else's class: its members, and what the array says beside them (a projection).

    That is what the class itself would pickle, where it says so; else all attributes but arrays, which hold the
    members in some layout, and caches.
    """
    kind, dtype = type(values), values.dtype
    classes = [base for base in kind.__mro__ if package_of(base) not in ("pandas", "builtins")]
    if any(name in vars(base) for base in classes for name in ("__getstate__", "__reduce__", "__reduce_ex__")):
        rest = walk.reduced(values)
    else:
        rest = walk.pairs(
            [
                (name, item)
                for name, item in getattr(values, "__dict__", {}).items()
                if not (item is dtype or "cache" in name or hasattr(type(item), "__array__"))
            ],
            ".{}",
        )
    head = text_bytes(f"{kind.__name__} {dtype}")
    described = [walk.attribute(dtype, name) for name in getattr(dtype, "_metadata", ())]  # what `==` looks at
    return hashed(b"pf", head, walk.code(kind), hashed(b"pd", *described), walk.sequence([*values]), rest)


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
    unique = b"" if value.flags.allows_duplicate_labels else b"u"
    return (walk.encode(value.attrs) if value.attrs else b"") + unique


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


# --- PyTorch ------------------------------------------------------------------------------------------------------


def _tensor(walk: Walk, value: Any) -> bytes:
    """Encode a tensor: where it is, whether gradients flow through it, and its elements in C order."""
    torch = sys.modules["torch"]
    head = (type(value).__name__, str(value.dtype), str(value.device), value.requires_grad, tuple(value.shape))
    plain = value.detach()
    if plain.is_quantized or plain.is_meta or plain.is_nested:
        return hashed(b"tr", walk.encode(head), walk.reduced(value))
    if plain.layout is not torch.strided:
        plain = plain.to_sparse_coo().coalesce()
        return hashed(
            b"ty",
            walk.encode((*head, str(value.layout))),
            _tensor(walk, plain.indices()),
            _tensor(walk, plain.values()),
        )
    flat = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy() if len(flat) else b""
    return hashed(b"te", walk.encode(head), b"#" + xxh3_128_digest(data))


def _foreign_tensor(walk: Walk, value: Any) -> bytes:
    torch = sys.modules["torch"]
    plain = value.as_subclass(torch.Tensor)
    return hashed(b"tf", walk.code(type(value)), _tensor(walk, plain), walk.encode(dict(vars(value))))


# --- classes of others that build on these ------------------------------------------------------------------------


def _foreign_array(walk: Walk, value: Any) -> bytes:
    plain = value.view(sys.modules["numpy"].ndarray)
    return hashed(b"nS", walk.code(type(value)), _array(walk, plain), walk.encode(dict(getattr(value, "__dict__", {}))))


_PANDAS_OWN = frozenset({"_mgr", "_item_cache", "_attrs", "_flags", "_name", "_cache"})


def _foreign_pandas(base: Callable[[Walk, Any], bytes]) -> Callable[[Walk, Any], bytes]:
    def handle(walk: Walk, value: Any) -> bytes:
        added = {name: item for name, item in vars(value).items() if name not in _PANDAS_OWN}
        return hashed(b"pS", walk.code(type(value)), base(walk, value), walk.encode(added))

    return handle


_INDEXES = "Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex PeriodIndex IntervalIndex CategoricalIndex".split()
_SPARSE = [f"{layout}_{kind}" for layout in "coo csr csc bsr dia dok lil".split() for kind in ("matrix", "array")]


def _pandas_dtype(walk: Walk, value: Any) -> bytes:
    if type(value).__name__ == "CategoricalDtype":
        categories = b"" if value.categories is None else _index(walk, value.categories)
        return hashed(b"rc", categories, walk.encode(value.ordered))
    return hashed(b"rp", type(value).__name__.encode(), text_bytes(repr(value)))


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
    "pandas.Period": fields(b"rq", "ordinal", "freqstr"),
    "pandas.Interval": fields(b"rv", "left", "right", "closed"),
    **{f"scipy.{name}": _sparse for name in _SPARSE},
    "torch.Tensor": _tensor,
    "torch.Parameter": _tensor,
    "torch.Generator": lambda walk, value: hashed(
        b"tg", walk.encode(str(value.device)), walk.encode(value.get_state())
    ),
    **COLUMNS,
}
"""Handlers of exactly these types, by top-level package and name (inner modules differ between versions)."""


def _figure(walk: Walk, value: Any) -> bytes:
    """Refuse at once: every part of a figure refers to all of it, and to callbacks that mean nothing elsewhere."""
    raise Undigestable("", f"{type(value).__name__}: it is part of a figure, which changes while it is drawn")


INHERITED: dict[str, Callable[[Walk, Any], bytes]] = {
    "matplotlib.Artist": _figure,
    "numpy.generic": _generic,
    "numpy.dtype": lambda walk, value: hashed(b"nt", _dtype(walk, value, layout=True)),
    "pandas.ExtensionArray": lambda walk, value: hashed(b"px", _pandas_values(walk, value)),
    "pandas.ExtensionDtype": _pandas_dtype,
    **COLUMNS_INHERITED,
}
"""Handlers that also fit the library's own subclasses of these."""

SUBCLASSED: dict[str, Callable[[Walk, Any], bytes]] = {
    "numpy.ndarray": _foreign_array,
    "pandas.DataFrame": _foreign_pandas(_frame),
    "pandas.Series": _foreign_pandas(_series),
    "torch.Tensor": _foreign_tensor,
}
"""Handlers of subclasses that others wrote: data as in the base, with the class and the attributes that it adds."""

DATA = frozenset({*HANDLERS.values(), *INHERITED.values(), *SUBCLASSED.values()} - {_figure})
"""Handlers of data, even for code that stores into them."""
