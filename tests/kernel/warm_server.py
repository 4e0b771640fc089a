"""The server of warm Pythons: imports what kernels and commands import, and forks whenever it is asked to.

It starts no thread, no loop and no zmq context. A child gets the folder, environment, arguments, streams and session
that were asked for and its `sys.modules` holds nothing of all this before somebody imports it: what the server has
imported is set aside until then. The interpreter ends a child as any other process; the server ends with its owner, and
takes along what runs for those who have gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import types
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from typing import Any, cast

# What kernels and commands import; the order is that of dependence.
_IMPORTS = (
    "dateutil.rrule",
    "psutil",
    "jupyter_client.manager",
    "nbclient",
    "IPython",
    "debugpy",
    "ipykernel.kernelapp",
    "ipywidgets",
    "anywidget",
    "cloudpickle",
    "pluggy",
    "fsspec",
    "numpy",
    "numpy.random",
    "numpy.ma",
    "pyarrow",
    "pandas",
    "matplotlib",
    "matplotlib.figure",
    "matplotlib.pyplot",
    "nbflow",
    "nbflow.notebook.kernel",
    "nbflow.cli",
    "nbflow.cli.run",
    "nbflow.cli.runner",
)


class _Aside:
    """Modules that are imported but not in `sys.modules`; importing one brings all that came with it."""

    def __init__(self) -> None:
        self._modules: dict[str, dict[str, Any]] = {}
        self._needs: dict[str, list[str]] = {}
        self._home: dict[str, str] = {}
        self._attributes: dict[str, list[tuple[Any, str, Any]]] = {}
        self._brought: list[str] = []

    def put(self, root: str) -> None:
        """Import a module, and put it and what else came with it aside."""
        before, self._brought = set(sys.modules), []
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(root)
            if root in _PREPARE:
                _PREPARE[root]()
        brought, self._brought = self._brought, []
        others = set().union(*(self._modules[each] for each in brought))
        new = {name for name in sys.modules if name not in before | others and _is_foreign(name)}
        self._needs[root] = brought
        self._modules[root] = {name: sys.modules[name] for name in list(sys.modules) if name in new}
        self._home |= dict.fromkeys(new, root)
        self._attributes[root] = [each for each in map(_attribute, new) if each is not None]
        for each in (root, *brought):
            for parent, name, _ in self._attributes[each]:
                vars(parent).pop(name, None)
        for name in new | others:
            sys.modules.pop(name, None)

    def drop(self, name: str) -> None:
        """Forget a module, so that whoever imports it runs its code."""
        root = self._home.pop(name, None)
        if root is None:  # what it belongs to is not installed
            return
        del self._modules[root][name]
        self._attributes[root] = [each for each in self._attributes[root] if each[2].__name__ != name]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Say that it is here; importlib asks this first of all finders, also when a module is to be loaded again."""
        if name not in self._home or name in sys.modules:
            return None
        found = self._modules[self._home[name]][name]
        spec = ModuleSpec(name, cast(Loader, self), origin=getattr(found, "__file__", None))
        if hasattr(found, "__path__"):
            spec.submodule_search_locations = list(found.__path__)
        return spec

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return the module itself; importlib is about to give it another spec."""
        found = self._modules[self._home[spec.name]][spec.name]
        spec.loader_state = found.__spec__
        return found

    def exec_module(self, module: Any) -> None:
        """Undo what importlib did to the module, and bring what came with it."""
        name, module.__spec__ = module.__spec__.name, module.__spec__.loader_state
        self._bring(self._home[name])

    def _bring(self, root: str) -> None:
        if root in self._brought:
            return
        self._brought.append(root)
        for each in self._needs[root]:
            self._bring(each)
        for name, module in self._modules[root].items():
            sys.modules.setdefault(name, module)
        for parent, name, module in self._attributes[root]:
            setattr(parent, name, module)
        if root in _AFRESH:
            _AFRESH[root]()


def _attribute(name: str) -> tuple[Any, str, Any] | None:
    """Return where a package has this module as an attribute: the package, the name there, and the module."""
    home, _, last = name.rpartition(".")
    parent, module = sys.modules.get(home), sys.modules[name]
    return (parent, last, module) if parent is not None and vars(parent).get(last) is module else None


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] not in sys.stdlib_module_names


def _restart_clock() -> None:
    for name in ("nbflow._util", "nbflow.cache.loaded"):
        if name in sys.modules:
            vars(sys.modules[name])["STARTED"] = time.time()


def _choose_backend() -> None:
    if chosen := os.environ.get("MPLBACKEND"):
        sys.modules["matplotlib"].rcParams["backend"] = chosen


def _compile_schema() -> None:
    sys.modules["nbformat"].validate(sys.modules["nbformat.v4"].new_notebook())


# What modules do at their first use for all uses.
_PREPARE: dict[str, Callable[[], object]] = {"nbclient": _compile_schema}

# What modules take from the process that imports them; done again in a child.
_AFRESH: dict[str, Callable[[], object]] = {
    "numpy.random": lambda: sys.modules["numpy.random"].seed(),
    "matplotlib": _choose_backend,
    "matplotlib.pyplot": lambda: sys.modules["matplotlib.pyplot"].install_repl_displayhook(),
    "nbflow": _restart_clock,
    "nbflow.notebook.kernel": _restart_clock,
}


def _serve(path: str) -> dict[str, Any] | None:
    """Fork for whoever asks, until nobody holds our stdin; return the request in a child, and None at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(100)
    children: dict[socket.socket, set[int]] = {}
    os.write(1, b".")
    with selectors.DefaultSelector() as ready:
        for source in (0, listener):
            ready.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                client: Any = key.fileobj
                if client == 0:
                    for pid in set().union(*children.values()):
                        _end(pid)
                    return None
                if client is listener:
                    client, _ = listener.accept()
                    children[client] = set()
                    ready.register(client, selectors.EVENT_READ)
                elif (request := _request(client)) is None:
                    ready.unregister(client)
                    client.close()
                    for pid in children.pop(client):
                        _end(pid)
                elif "reap" in request:
                    children[client].discard(request["reap"])
                    _reply(client, os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1]))
                elif pid := os.fork():
                    for number in request["files"]:
                        os.close(number)
                    children[client].add(pid)
                    _reply(client, pid)
                else:
                    for each in (listener, *children):
                        each.close()
                    return request


def _request(client: socket.socket) -> dict[str, Any] | None:
    """Read a request and its files; None if there will be no more of them."""
    try:
        data, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    except OSError:
        return None
    return {**json.loads(data), "files": files} if data else None


def _reply(client: socket.socket, answer: Any) -> None:
    with contextlib.suppress(OSError):  # it is gone; the next thing to be read is its end
        client.sendall(json.dumps(answer).encode())


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # nobody has waited for it yet, so it is still this process
    os.waitpid(pid, 0)


def _become(request: dict[str, Any], base: list[str]) -> None:
    """Make of this child what `python -m NAME …` is; `base` is the search path without what the environment adds."""
    if request.get("session"):
        os.setsid()
        request["env"]["JPY_PARENT_PID"] = str(os.getppid())  # with which a kernel ends
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    time.tzset()
    tempfile.tempdir = None
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [request["cwd"], *map(os.path.abspath, paths), *base]
    sys.path_importer_cache.clear()
    sys.argv[:] = ["-m", *request["arguments"][2:]]
    sys.orig_argv[:] = [sys.executable, *request["arguments"]]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    sys.modules["__main__"] = types.ModuleType("__main__")


if __name__ == "__main__":
    _this = sys.modules["__main__"]  # lives on when a child has another one
    _base = [each for each in sys.path[1:] if each]
    _aside = _Aside()
    sys.meta_path.insert(0, _aside)
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # builds a grammar for seconds; nbflow avoids it
    sys.path.insert(0, sys.argv[2])  # the nbflow that is tested, wherever another one is installed
    for _name in _IMPORTS:
        _aside.put(_name)
    del sys.path[0]
    del sys.modules["rfc3987_syntax"]
    _aside.drop("ipykernel.kernelapp")  # reads the environment when it is imported
    _forever = ctypes.py_object(_aside)
    ctypes.pythonapi.Py_IncRef(_forever)  # else each child would take it all apart at its end
    gc.collect()
    gc.freeze()  # else the first collection of a child copies all of this
    _asked = _serve(sys.argv[1])
    if _asked is None:
        shutil.rmtree(os.path.dirname(sys.argv[1]), ignore_errors=True)
    else:
        _become(_asked, _base)
        runpy._run_module_as_main(_asked["arguments"][1])  # type: ignore[attr-defined]
