"""The end of a call is recorded and told, whatever strikes in the middle of it."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow import session, task
from nbflow.runtime import current
from nbflow.runtime.current import Call
from nbflow.testing import EventRecorder


@pytest.mark.parametrize("where", ["forget", "active", "close"])
def test_an_interrupt_in_the_bookkeeping_loses_no_record(
    where: str, recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that strikes while a call's end is noted reaches the user; the record and the event are there."""

    @task(retries=1)
    def plain(n: int) -> int:
        return n

    struck: list[str] = []

    def strike() -> None:
        if not struck:
            struck.append(where)
            raise KeyboardInterrupt

    with session(observers=[recorder]) as context:
        if where == "forget":
            forget = Call.forget
            monkeypatch.setattr(Call, "forget", lambda call: (forget(call), strike()))
        elif where == "close":
            close = Call.close
            monkeypatch.setattr(Call, "close", lambda call, *how: (close(call, *how), strike())[0])
        else:

            class Active(dict[int, Any]):
                def pop(self, *key: Any) -> Any:
                    strike()
                    return super().pop(*key)

            context.active = Active()
        with pytest.raises(KeyboardInterrupt):
            plain(1)
        assert struck
        assert [(record.name, record.state) for record in context.records] == [("plain", current.COMPLETED)]
        assert not context.active
    ends = [type(event).__name__ for event in recorder.events if event.name == "plain"]
    assert ends.count("TaskCompleted") == 1
    assert not any(name in ends for name in ("TaskCancelled", "TaskFailed"))
