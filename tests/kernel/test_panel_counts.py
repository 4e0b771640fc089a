"""What the panel sends and leaves behind, counted at a real kernel whose front end runs widgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WIDGET = "application/vnd.jupyter.widget-view+json"
SETUP = """
import time
import nbflow

@nbflow.task
def same(n):
    return n

@nbflow.task
def wait(seconds):
    time.sleep(seconds)
"""


class FrontEnd:
    """Runs cells as JupyterLab does: it answers questions, says hello to widgets, and counts what comes.

    Attributes:
        sent: When the kernel sent it (wall-clock seconds), type and size of each message of the last cell that
            belongs to a widget or a display.
        comms: Ids of the comms that are open.
        outputs: What the last cell leaves in the notebook.
    """

    def __init__(self, kernel: Any) -> None:
        self._client = kernel.client
        self.comms: set[str] = set()
        self.sent: list[tuple[float, str, int]] = []
        self.outputs: dict[str, Any] = {}

    def run(self, code: str) -> None:
        """Run a cell to its end."""
        self.sent, self.outputs = [], {}
        number = self._client.execute(code, allow_stdin=True)
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != number:
                if kind == "comm_close":  # of a panel under an earlier cell
                    self.comms.discard(content["comm_id"])
                continue
            if kind == "status" and content["execution_state"] == "idle":
                break
            assert kind != "error", content
            self._take(kind, content, message["header"]["date"].timestamp())
        self._client.get_shell_msg(timeout=60)

    def _take(self, kind: str, content: dict[str, Any], when: float) -> None:
        if kind in ("comm_open", "comm_msg", "comm_close", "display_data", "update_display_data"):
            self.sent.append((when, kind, len(json.dumps(content))))
        if kind == "comm_open":
            self.comms.add(content["comm_id"])
            if "_esm" in content["data"].get("state", {}):
                self._send(content["comm_id"], {"kind": "hello"})
        elif kind == "comm_close":
            self.comms.discard(content["comm_id"])
        elif kind in ("display_data", "update_display_data"):
            self.outputs[content["transient"]["display_id"]] = content["data"]

    def _send(self, comm: str, content: dict[str, Any]) -> None:
        data = {"method": "custom", "content": content}
        message = self._client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self._client.shell_channel.send(message)


@pytest.fixture
def front(start_kernel: Callable[..., Any]) -> FrontEnd:
    """Return a front end with widgets."""
    kernel = start_kernel(env={"NBFLOW_PROGRESS": "auto"})
    end = FrontEnd(kernel)
    end.run(SETUP)
    return end


def steady(sent: list[tuple[float, str, int]], seconds: float) -> tuple[float, float]:
    """Return messages and bytes a second, without the opening of the widget (its script travels once) and the end."""
    flow = [each for each in sent if each[1] == "comm_msg"]
    return len(flow) / seconds, sum(size for _, _, size in flow) / seconds


def test_messages_are_few_at_any_rate_and_none_while_nothing_changes(front: FrontEnd) -> None:
    """Very many calls and a map send at most twelve small messages a second; a task that sleeps sends almost none."""
    front.run(
        "stop = time.monotonic() + 3\nn = 0\nwhile time.monotonic() < stop:\n    same(n); n += 1\n"
        "nbflow.map_tasks(same, range(50_000), backend='thread'); wait(0.1)"
    )
    took = front.sent[-1][0] - front.sent[0][0]
    messages, size = steady(front.sent, max(took, 1.0))
    assert 1 <= messages <= 12
    assert size <= 3000
    front.run("wait(4)")
    assert sum(kind == "comm_msg" for _, kind, _ in front.sent) <= 6, "it begins, and a snapshot follows"
    assert 1 <= sum(kind == "update_display_data" for _, kind, _ in front.sent) <= 2, (
        "its end; before, if a hello is late"
    )


def test_reruns_leave_no_comm_and_no_growth(front: FrontEnd) -> None:
    """A cell that is run again and again leaves as much as the first time: a small static bundle, and no open comm."""
    sizes = []
    for number in range(101):
        # The first panel appears by itself; the others are asked for, which does not take the time until it would.
        appears = "wait(0.4)" if number == 0 else "_ = nbflow.panel()"
        front.run(f"nbflow.map_tasks(same, range(500), backend='thread'); {appears}")
        assert any(kind == "comm_open" for _, kind, _ in front.sent)
        sizes.append(sum(len(json.dumps(data)) for data in front.outputs.values()))
        assert not any(WIDGET in data for data in front.outputs.values())
    front.run("nbflow.map_tasks(same, range(10_000), backend='thread'); _ = nbflow.panel()")
    sizes.append(sum(len(json.dumps(data)) for data in front.outputs.values()))
    assert front.comms == set()
    assert max(sizes) <= 20_000
    assert max(sizes[1:101]) <= sizes[1] + 100
    for _ in range(5):
        front.run("_ = nbflow.panel()")
    assert len(front.comms) <= 2, "the one that is shown again is alive, with its layout"
