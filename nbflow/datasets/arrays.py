"""Formats of numpy arrays: `.npy` for one, `.npz` for several by name.

Dtype, shape and memory order are kept. Arrays of Python objects are refused, because their files would be pickles in
disguise; and so are subclasses such as masked arrays, whose extra parts the formats drop.
"""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import TYPE_CHECKING, Any

from nbflow.datasets.base import AbstractDataset

if TYPE_CHECKING:
    import numpy

__all__ = ["NpyDataset", "NpzDataset"]


class NpyDataset(AbstractDataset, format="npy", types="numpy.ndarray", extensions="npy"):
    """One array."""

    def serialize(self, value: numpy.ndarray[Any, Any]) -> bytes:
        """Return the file's bytes."""
        import numpy

        _check(value, "the value")
        buffer = BytesIO()
        numpy.save(buffer, value, allow_pickle=False)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> numpy.ndarray[Any, Any]:
        """Return the array."""
        import numpy

        array: numpy.ndarray[Any, Any] = numpy.load(BytesIO(data), allow_pickle=False)
        return array


class NpzDataset(AbstractDataset, format="npz", types=dict, extensions="npz", requires="numpy"):
    """A dictionary of arrays.

    Args:
        compressed: Whether the arrays are compressed, which is slow to write.
    """

    def __init__(self, compressed: bool = False) -> None:
        self.compressed = compressed

    def serialize(self, value: dict[str, numpy.ndarray[Any, Any]]) -> bytes:
        """Return the file's bytes."""
        from numpy.lib import format as npy

        for name, array in value.items():
            if not isinstance(name, str):
                raise TypeError(f"arrays have names in an .npz file, but one has the key {name!r}; use str(key)")
            _check(array, f"value[{name!r}]")
        buffer = BytesIO()
        packing = zipfile.ZIP_DEFLATED if self.compressed else zipfile.ZIP_STORED
        # Not by `numpy.savez`, whose own parameters ("file") are no possible names of arrays.
        with zipfile.ZipFile(buffer, "w", packing) as archive:
            for name, array in value.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, array, allow_pickle=False)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> dict[str, numpy.ndarray[Any, Any]]:
        """Return the arrays by name."""
        from numpy.lib import format as npy

        arrays = {}
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = npy.read_array(member, allow_pickle=False)
        return arrays


def _check(array: Any, where: str) -> None:
    """Raise for what the formats would not bring back as it is."""
    import numpy

    if type(array) not in (numpy.ndarray, numpy.memmap):
        raise TypeError(f"{where} is of type {type(array).__qualname__}; convert it by numpy.asarray(), or use .pkl")
    if array.dtype.hasobject:
        raise TypeError(f"{where} has dtype {array.dtype} with Python objects; convert it by astype(), or use .pkl")
