"""A real kernel for tests: started by jupyter_client, fed cell by cell, its outputs collected by cell.

`Kernel` runs a kernel in a folder of its own, so that nothing is shared with other tests but the code. `run` waits for
the kernel's own word that it is idle, never for time; every wait has a limit, so that a kernel that hangs fails.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tests.kernel import warm

__all__ = ["COUNT", "Kernel", "Result", "ran"]

COUNT = "open('ran.txt', 'a').write('{}\\n')"
"""A statement by which a body tells `ran` that it ran."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LIMIT_S = 60.0


@dataclass
class Result:
    """What one cell put out, in order, and how it ended."""

    status: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    execution_count: int | None = None

    @property
    def stdout(self) -> str:
        """All that went to stdout."""
        return "".join(each["text"] for each in self.outputs if each["type"] == "stdout")

    @property
    def stderr(self) -> str:
        """All that went to stderr."""
        return "".join(each["text"] for each in self.outputs if each["type"] == "stderr")

    @property
    def result(self) -> str | None:
        """The text of `Out[n]`, or None."""
        found = [each["data"]["text/plain"] for each in self.outputs if each["type"] == "execute_result"]
        return found[-1] if found else None

    @property
    def displays(self) -> list[str]:
        """The texts of what was shown, without nbflow's own badges and panels."""
        return [each["data"].get("text/plain", "") for each in self.plain if each["type"] == "display_data"]

    @property
    def badges(self) -> list[str]:
        """The texts of nbflow's badges."""
        shown = [each for each in self.outputs if each["type"] == "display_data"]
        return [each["data"]["text/plain"] for each in shown if each["metadata"].get("nbflow", {}).get("badge")]

    @property
    def plain(self) -> list[dict[str, Any]]:
        """The outputs without nbflow's own; consecutive text of one stream is one output."""
        joined: list[dict[str, Any]] = []
        for each in self.outputs:
            if each.get("metadata", {}).get("nbflow"):
                continue
            if joined and "text" in each and joined[-1]["type"] == each["type"]:
                joined[-1] = {**each, "text": joined[-1]["text"] + each["text"]}
            else:
                joined.append({name: value for name, value in each.items() if name != "transient"})
        return joined

    @property
    def traceback(self) -> str:
        """The traceback without colours, or ""."""
        return "\n".join(_COLOURS.sub("", "\n".join(e["traceback"])) for e in self.outputs if e["type"] == "error")


class Kernel:
    """A kernel in `folder`.

    Args:
        folder: Its working directory.
        env: Environment variables to add.
        load: Whether to load nbflow at each start.
        cold: Whether to start Python anew, with nothing imported; else the kernel's imports may be warm.
    """

    def __init__(
        self, folder: Path, *, env: dict[str, str] | None = None, load: bool = True, cold: bool = False
    ) -> None:
        self.folder = folder
        self._cold = cold
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH", "")])])
        own = {
            "PYTHONPATH": paths,
            "IPYTHONDIR": str(folder / "ipython"),
            "NBFLOW_HOME": str(folder / ".nbflow"),
            "NBFLOW_PROGRESS": "off",
        }
        self._env = {**os.environ, **own, **(env or {})}
        self._load = load
        self._results: dict[str, Result] = {}
        # Sockets in a folder of its own: a port can be free when it is chosen, and then no more.
        self._sockets = tempfile.TemporaryDirectory(prefix="kernel-") if os.name == "posix" else None
        self._start()

    def _start(self) -> None:
        where = {"transport": "ipc", "ip": f"{self._sockets.name}/socket"} if self._sockets else {}
        self.manager = KernelManager(kernel_name="python3", **where)
        spec: Any = self.manager.kernel_spec
        spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        if not self._cold:
            spec.metadata["kernel_provisioner"] = {"provisioner_name": warm.register()}
        self.manager.start_kernel(cwd=str(self.folder), env=self._env)
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels(hb=False)
        self.client.wait_for_ready(timeout=_LIMIT_S)
        if self._load:
            loaded = self.run("%load_ext nbflow")
            assert loaded.status == "ok", loaded

    def run(
        self,
        code: str,
        *,
        when: Callable[[Result], bool] | None = None,
        then: Callable[[], None] = lambda: None,
        cell_id: str | None = None,
        store: bool = True,
    ) -> Result:
        """Execute one cell and return what it put out.

        Args:
            code: The cell.
            when: Asked after every output; once true, `then` is called (once).
            then: What to do then, such as `self.interrupt`.
            cell_id: The front end's id of the cell.
            store: Whether the cell goes into the history.
        """
        content = {"code": code, "silent": False, "store_history": store, "user_expressions": {}, "allow_stdin": False}
        message = self.client.session.msg("execute_request", {**content, "stop_on_error": True})
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        self.client.shell_channel.send(message)
        wanted = message["header"]["msg_id"]
        result = self._results[wanted] = Result()
        deadline = time.monotonic() + _LIMIT_S
        while True:
            reply = self.client.get_iopub_msg(timeout=max(deadline - time.monotonic(), 0.1))
            kind, body = reply["msg_type"], reply["content"]
            if reply["parent_header"].get("msg_id") != wanted:
                self._collect_late(reply)
                continue
            if kind == "status" and body["execution_state"] == "idle":
                break
            self._collect(result, kind, body)
            if when is not None and when(result):
                when = None
                then()
        while True:
            answer = self.client.get_shell_msg(timeout=max(deadline - time.monotonic(), 0.1))
            if answer["parent_header"].get("msg_id") == wanted:
                break
        result.status = answer["content"]["status"]
        result.execution_count = answer["content"].get("execution_count")
        return result

    def _collect_late(self, reply: dict[str, Any]) -> None:
        """Add what a cell puts out after it has ended to its result."""
        result = self._results.get(reply["parent_header"].get("msg_id", ""))
        if result is not None and reply["msg_type"] != "status":
            self._collect(result, reply["msg_type"], reply["content"])

    def wait(self, met: Callable[[], bool]) -> None:
        """Take in what cells put out after they have ended, until a condition on their results is met."""
        deadline = time.monotonic() + _LIMIT_S
        while not met():
            self._collect_late(self.client.get_iopub_msg(timeout=max(deadline - time.monotonic(), 0.1)))

    @staticmethod
    def _collect(result: Result, kind: str, body: dict[str, Any]) -> None:
        if kind == "stream":
            result.outputs.append({"type": body["name"], "text": body["text"]})
        elif kind in ("display_data", "execute_result"):
            result.outputs.append(
                {"type": kind, **{n: body[n] for n in ("data", "metadata", "transient") if n in body}}
            )
        elif kind == "update_display_data":
            for each in result.outputs:
                if each.get("transient", {}).get("display_id") == body["transient"]["display_id"]:
                    each["data"], each["metadata"] = body["data"], body["metadata"]
        elif kind == "clear_output":
            result.outputs.clear()
        elif kind == "error":
            result.outputs.append({"type": "error", **body})

    def ok(self, code: str, **options: Any) -> Result:
        """Execute a cell that must not fail."""
        result = self.run(code, **options)
        assert result.status == "ok", result.traceback or result.outputs
        return result

    def value(self, expression: str) -> Any:
        """Return the value of an expression, by its repr."""
        shown = self.ok(f"print(repr(({expression})))", store=False).stdout
        return eval(shown, {"nan": float("nan")})

    def complete(self, code: str) -> list[str]:
        """Return what the kernel offers to complete at the end of `code`."""
        reply = self.client.complete(code, len(code), reply=True, timeout=_LIMIT_S)
        return list(reply["content"]["matches"])

    def interrupt(self) -> None:
        """Send SIGINT to the kernel's process group, as the stop button does."""
        provisioner: Any = self.manager.provisioner
        os.killpg(os.getpgid(provisioner.pid), signal.SIGINT)

    def restart(self) -> None:
        """Restart the kernel; the cache on disk stays."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self._connect()

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        if self._sockets:
            self._sockets.cleanup()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def ran(kernel: Kernel) -> list[str]:
    """What the bodies wrote about themselves, then forgotten."""
    file = kernel.folder / "ran.txt"
    lines = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines
