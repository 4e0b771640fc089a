"""Kernels for the tests of this folder; their imports are warm, except in tests that are marked `cold`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _harness() -> Any:
    name = "nbflow_kernel_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("harness.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[name]


def _is_cold(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("cold") is not None


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A kernel for all tests of a file; they use names of their own and do not restart it."""
    with _harness().Kernel(tmp_path_factory.mktemp("kernel"), cold=_is_cold(request)) as kernel:
        yield kernel


@pytest.fixture
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A kernel for one test, which may restart it."""
    with _harness().Kernel(tmp_path, cold=_is_cold(request)) as kernel:
        yield kernel


@pytest.fixture
def start_kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start kernels with options; all end with the test."""
    started: list[Any] = []

    def start(**options: Any) -> Any:
        started.append(_harness().Kernel(tmp_path, **{"cold": _is_cold(request), **options}))
        return started[-1]

    yield start
    for kernel in started:
        kernel.close()


@pytest.fixture(scope="module")
def start_kernel_once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """Start kernels with options, in folders of their own; all end with the module's tests."""
    started: list[Any] = []

    def start(**options: Any) -> Any:
        started.append(_harness().Kernel(tmp_path_factory.mktemp("kernel"), **{"cold": _is_cold(request), **options}))
        return started[-1]

    yield start
    for kernel in started:
        kernel.close()
