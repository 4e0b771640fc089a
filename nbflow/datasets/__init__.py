"""Named results in files that other programs can read.

A `DatasetStore` keeps values under keys, in the format that the extension of the key says. Formats are subclasses of
`AbstractDataset`; defining one, here or in a plugin, is all it takes to add it.
"""

# The built-in formats register themselves by being defined; none of them imports the library that it serves.
from nbflow.datasets import arrays as _arrays
from nbflow.datasets import images as _images
from nbflow.datasets import plain as _plain
from nbflow.datasets import tables as _tables
from nbflow.datasets import yaml as _yaml
from nbflow.datasets.base import AbstractDataset
from nbflow.datasets.catalog import DatasetInfo, Origin, Version
from nbflow.datasets.diff import Diff
from nbflow.datasets.store import DatasetStore

__all__ = ["AbstractDataset", "DatasetInfo", "DatasetStore", "Diff", "Origin", "Version"]

del _arrays, _images, _plain, _tables, _yaml
