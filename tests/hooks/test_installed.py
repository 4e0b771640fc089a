"""Plugins that installed packages bring by entry points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nbflow import session
from nbflow.hooks import installed_plugins, registry
from nbflow.settings import load_settings

PLUGIN = """\
from nbflow.hooks import hook_impl
class Plugin:
    opened = []
    @hook_impl
    def before_session_start(self, session_id):
        self.opened.append(session_id)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a package of that source and these entry points of our group, for one test."""

    def install(source: str, points: str) -> None:
        (tmp_path / "added_hooks.py").write_text(source, encoding="utf-8")
        info = tmp_path / "added_hooks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added-hooks\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[nbflow.hooks]\n{points}\n", encoding="utf-8")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_installed", None)
    yield install
    sys.modules.pop("added_hooks", None)


def test_a_class_named_by_an_entry_point_is_a_plugin_of_every_session(package: Any) -> None:
    """It is made once, without arguments; a setting keeps it out."""
    package(PLUGIN, "one = added_hooks:Plugin")
    with session() as context:
        opened = sys.modules["added_hooks"].Plugin.opened
        assert opened == [context.session_id]
    with session(settings=load_settings(load_plugins=False)):
        assert len(opened) == 1
    assert len(installed_plugins()) == 1


def test_one_that_cannot_be_loaded_is_left_out(package: Any) -> None:
    """A warning names it and says why; the others, and the session, go on."""
    package(PLUGIN, "bad = added_hooks:nothing\ngood = added_hooks:Plugin")
    with pytest.warns(RuntimeWarning, match=r"plugin 'bad' \(added_hooks:nothing\) cannot be loaded.*no attribute"):
        with session() as context:
            assert sys.modules["added_hooks"].Plugin.opened == [context.session_id]
