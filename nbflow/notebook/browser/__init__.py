"""The dataset browser: the datasets of a session as a table, with previews, versions, differences.

`Browser` answers what the front end asks, one request at a time in a thread of its own, so that a slow store does not
block the kernel. A display also holds the same table as HTML and text, which stay alone when the browser is closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from nbflow._util import one_line
from nbflow.datasets import DatasetInfo
from nbflow.datasets.diff import diff_values
from nbflow.library import Datasets, age_words, shape_words, size_words
from nbflow.notebook.browser.preview import preview
from nbflow.notebook.explore.view import is_live
from nbflow.notebook.frontend import widget_class
from nbflow.notebook.panel.faces import Screen
from nbflow.notebook.panel.widget import MIME

__all__ = ["Browser", "show"]

LISTED = 500
PREVIEW_BYTES = 256 * 1024**2
_HERE = Path(__file__).parent


def show(state: Any, datasets: Datasets) -> None:
    """Show datasets where the user is now.

    Args:
        state: The shell's state.
        datasets: The datasets.
    """
    browser = Browser(state.shell, datasets)
    state.shown.replace("datasets", browser)
    browser.show()


class Browser:
    """What answers one view of datasets.

    Args:
        shell: The IPython shell.
        datasets: The datasets.

    Safe from any thread.
    """

    def __init__(self, shell: Any, datasets: Datasets) -> None:
        self._datasets = datasets
        self._shell = shell
        self._screen = Screen(shell.display_pub.publish)
        self._widget: Any = None
        self._display = ""
        self._asked: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loaded: tuple[Any, Any] = (None, None)

    def show(self) -> None:
        """Display it: as a widget where somebody can use it, else as a table."""
        if is_live(self._shell, self._datasets.session.settings.progress):
            self._widget = _widget_class()(head=_head(self._datasets.store.base_path))
            self._widget.on_msg(lambda widget, content, buffers: self.heard(content))
        self._display = self._screen.new(self._bundle())

    def close(self) -> None:
        """Leave the table as HTML in the place of the widget; idempotent."""
        widget, self._widget = self._widget, None
        if widget is None:
            return
        self._asked.put(None)
        self._screen.update(self._display, self._bundle())
        layout = widget.layout
        widget.close()
        layout.close()

    def heard(self, content: dict[str, Any]) -> None:
        """Take a request of the front end; it is answered from a thread that ends when nothing is asked any more."""
        self._asked.put(content)
        if self._thread is None or not self._thread.is_alive():
            run = copy_context().run
            self._thread = threading.Thread(target=run, args=(self._work,), name="nbflow-browser", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (content := self._asked.get()) is not None:
            answer = self.answer(content)
            widget = self._widget
            if widget is not None and widget.comm is not None:
                widget.send(answer)

    def answer(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a request is answered with; a failure is an answer, too."""
        found: dict[str, Any] = {"number": content.get("number"), "kind": content.get("kind")}
        try:
            acts = {
                "list": self._list,
                "preview": self._preview,
                "versions": self._versions,
                "diff": self._diff,
                "delete": self._delete,
            }
            return found | acts[str(content.get("kind"))](content)
        except Exception as error:
            return found | {"error": one_line(error, 600)}

    def _list(self, content: Mapping[str, Any]) -> dict[str, Any]:
        words = str(content.get("filter") or "").casefold().split()
        now = time.time()
        every = [each for each in self._datasets.catalog() if all(word in _haystack(each) for word in words)]
        column = str(content.get("sort") or "key")
        backwards = bool(content.get("backwards"))
        if column in _ORDERS:
            every.sort(key=_ORDERS[column], reverse=backwards)
        rows = [_row(each, now, self._datasets.prefix) for each in every[:LISTED]]
        return {"rows": rows, "total": len(every), **_head(self._datasets.store.base_path)}

    def _preview(self, content: Mapping[str, Any]) -> dict[str, Any]:
        key, version = str(content["key"]), content.get("version")
        info = self._datasets.info(key)
        if info.size_bytes > PREVIEW_BYTES:
            size = size_words(info.size_bytes)
            return {"kind": "preview", "page": {"kind": "text", "text": f"({size}: load it to look at it)", "pages": 1}}
        place = (key, version, info.saved, info.size_bytes)
        if self._loaded[0] != place:
            value = self._datasets.store.load(self._datasets.prefix + key, version=version)
            self._loaded = (place, value)
        return {"page": preview(self._loaded[1], int(content.get("page") or 0)), "snippet": self._snippet(key, version)}

    def _snippet(self, key: str, version: Any) -> str:
        of = "" if version is None else f", version={version!r}"
        return f"load_dataset({self._datasets.prefix + key!r}{of})"

    def _versions(self, content: Mapping[str, Any]) -> dict[str, Any]:
        now = time.time()
        return {
            "versions": [
                {
                    "id": each.id,
                    "age": age_words(each.saved, now),
                    "when": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.saved)),
                    "size": size_words(each.size_bytes),
                    "type": each.type,
                    "shape": shape_words(each.shape),
                    "origin": str(each.origin),
                }
                for each in self._datasets.versions(str(content["key"]))
            ]
        }

    def _diff(self, content: Mapping[str, Any]) -> dict[str, Any]:
        store, key = self._datasets.store, self._datasets.prefix + str(content["key"])
        old, new = (store.load(key, version=str(content[side])) for side in ("old", "new"))
        return {"lines": list(diff_values(old, new).lines)}

    def _delete(self, content: Mapping[str, Any]) -> dict[str, Any]:
        self._datasets.delete(str(content["key"]))
        self._loaded = (None, None)
        return {"key": content["key"]}

    def _bundle(self) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/html": self._datasets._repr_html_(), "text/plain": repr(self._datasets)}
        if self._widget is not None:
            bundle[MIME] = {"version_major": 2, "version_minor": 1, "model_id": self._widget.model_id}
        return bundle


_ORDERS: dict[str, Any] = {
    "type": lambda info: (info.type or info.format or "", info.key),
    "size": lambda info: (info.size_bytes, info.key),
    "age": lambda info: (-(info.saved or 0.0), info.key),
    "versions": lambda info: (info.versions, info.key),
    "key": lambda info: info.key,
}


def _head(base: str) -> dict[str, str]:
    """Return where datasets lie: `base` as people read it, relative to the working directory if inside, and `path`."""
    if "://" in base or not Path(base).is_relative_to(Path.cwd()):
        return {"base": base, "path": base}
    inside = Path(base).relative_to(Path.cwd()).as_posix()
    return {"base": "./" if inside == "." else f"{inside}/", "path": base}


def _haystack(info: DatasetInfo) -> str:
    return f"{info.key} {info.type} {info.format} {info.origin}".casefold()


def _row(info: DatasetInfo, now: float, prefix: str) -> dict[str, Any]:
    return {
        "key": info.key.removeprefix(prefix),
        "type": (info.type or info.format or "").rpartition(".")[2],
        "shape": shape_words(info.shape),
        "size": size_words(info.size_bytes),
        "age": age_words(info.saved, now),
        "versions": info.versions,
        "origin": "changed by another program" if info.changed else str(info.origin),
    }


@cache
def _widget_class() -> Any:
    about = "The front end's model of a dataset browser."
    return widget_class("BrowserWidget", about, _HERE, ["browser.js"], ["browser.css"], synced="head")
