"""Where code lives: the standard library, an installed package, or a local file that may be edited at any time.

Code of installed packages is known by name and version. Everything else (notebooks, local modules, editable installs)
is known by what it says. nbflow itself counts as installed, wherever its files are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache

from nbflow._typing import Any
from nbflow._util import PACKAGE_ROOT

__all__ = ["file_signature", "is_local", "is_standard", "module_file", "package_version", "set_where", "where_of"]

_STDLIB = os.path.dirname(os.path.abspath(os.__file__))
_SITES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_where: Callable[[str], str | None] | None = None


def set_where(namer: Callable[[str], str | None] | None) -> None:
    """Register what to call a source file: `namer("/tmp/ipykernel_1/2.py")` may return "cell 4", or "" for none."""
    global _where
    _where = namer


def where_of(filename: str) -> str:
    """Return what people call the file: "cell 4", "clean.py", or "" where it has no name."""
    if _where is not None:
        try:
            if named := _where(filename):
                return named
        except Exception:  # the name is for people only
            return ""
    if not filename or filename.startswith("<") or "ipykernel_" in filename:
        return ""
    return os.path.basename(filename)


def is_standard(module: str) -> bool:
    """Whether a module belongs to Python itself."""
    return module.partition(".")[0] in sys.stdlib_module_names


@lru_cache(maxsize=4096)
def is_installed_file(filename: str) -> bool:
    """Whether a source file belongs to Python, to an installed package, or to nbflow."""
    if filename.startswith("<frozen"):
        return True
    path = os.path.abspath(filename)
    return any(site in path for site in _SITES) or path.startswith((_STDLIB + os.sep, PACKAGE_ROOT + os.sep))


def is_local(module: str, filename: str | None = None) -> bool:
    """Whether code of this module (in this file, where known) may be edited at any time.

    Args:
        module: Dotted name of the module whose globals the code uses.
        filename: Its source file; None to ask the module.
    """
    top = module.partition(".")[0]
    if top == "__main__" and filename is None:
        return True  # even where the program that started us is an installed one
    if top == "nbflow" or is_standard(module):
        return filename is not None and not filename.startswith("<") and not is_installed_file(filename)
    if filename is None:
        filename = module_file(module)
        if filename is None:
            return top not in sys.builtin_module_names and not _has_distribution(top)
    return not is_installed_file(filename)


def module_file(module: str) -> str | None:
    """Return the file of a module, found without importing anything."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    from importlib.machinery import PathFinder  # most modules that are asked for are loaded

    path: Any = None
    spec = None
    name = ""
    for step in module.split("."):
        name = f"{name}.{step}" if name else step
        try:
            spec = PathFinder.find_spec(name, path)
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec.origin if spec is not None else None


def file_signature(path: str) -> tuple[int, int, int] | None:
    """Return time of change (ns), size and inode of a file, or None where it cannot be asked."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=1024)
def _has_distribution(top: str) -> bool:
    return _distribution_version(top) is not None


@lru_cache(maxsize=1024)
def _distribution_version(top: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(top)
    except Exception:  # not found, or its metadata are broken
        pass
    names = metadata.packages_distributions().get(top, ())
    return ",".join(sorted(f"{name} {metadata.version(name)}" for name in set(names))) or None


@lru_cache(maxsize=1024)
def package_version(top: str) -> str:
    """Return the version of the distribution that a top-level package comes from, "" if unknown."""
    version = _distribution_version(top)
    if version is None:
        version = getattr(sys.modules.get(top), "__version__", "")
    return version if isinstance(version, str) else ""
