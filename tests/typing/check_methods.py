"""Checked by mypy and pyright, never run: tasks that are methods. Others see `Any` there, which completes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from nbflow import map_tasks, submit, task


class Model:
    """Methods can be tasks."""

    @task(cache=True)
    def fit(self, depth: int, rate: float = 0.1) -> list[float]:
        return [rate] * depth

    @task
    async def load(self, url: str) -> bytes:
        return url.encode()

    @task
    def steps(self, count: int) -> Iterator[int]:
        yield count


def methods() -> None:
    """On an instance a task takes what the method takes, without `self`."""
    model = Model()
    assert_type(model.fit(3, rate=0.5), list[float])
    assert_type(model.steps(3), Iterator[int])
    assert_type(Model.fit(model, 3), list[float])
    assert_type(map_tasks(model.fit, [1, 2]), list[list[float]])
    assert_type(submit(model.fit, 3).get(), list[float])
    model.fit("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    model.fit(model, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaits() -> None:
    """So does one that is awaited."""
    assert_type(await Model().load("u"), bytes)
