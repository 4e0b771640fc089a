"""Bytes under keys: the contract of a driver, and the driver for files.

`Driver` is what a dataset store needs from a place that keeps bytes; `FileDriver` keeps them in a folder of this
machine or, by fsspec, anywhere else. Keys are relative names that cannot leave the folder unless it was told so.
"""

from nbflow.storage.base import Driver, FileFacts
from nbflow.storage.file import FileDriver
from nbflow.storage.keys import check_key

__all__ = ["Driver", "FileDriver", "FileFacts", "check_key"]
