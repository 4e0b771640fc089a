"""Settings: a frozen dataclass filled from arguments, `NBFLOW_*`, `[tool.nbflow]`, and defaults, in that order.

Every field has an environment name, `NBFLOW_<FIELD>` in capitals, and a key of the same name in the `[tool.nbflow]`
table of the nearest `pyproject.toml` above the working directory. A bad value is an error that says which of these
sources it came from. Nothing is read before the first session, or the first call that needs a setting, asks for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from nbflow._frozen import Frozen
from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import perhaps
from nbflow.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Settings", "get_global_settings", "load_settings", "set_global_settings"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() in _TRUE:
        return True
    if str(value).strip().lower() in _FALSE:
        return False
    raise ValueError("use 1 or 0, true or false")


def _whole(low: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        try:
            number = low - 1 if isinstance(value, bool) else int(value)
            if number >= low and number == float(value):
                return number
        except (ValueError, TypeError, OverflowError):
            pass
        raise ValueError(f"use a whole number ≥ {low}")

    return parse


def _seconds(value: Any) -> float:
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        number = -1.0
    if not number >= 0:
        raise ValueError("use seconds ≥ 0")
    return number


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value in ("", "none", "None") else parse(value)


def _choice(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"use one of {', '.join(words)}")
        return str(value)

    return parse


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("use a non-empty string")
    return value


def _place(value: Any) -> Any:
    if not isinstance(value, (str, os.PathLike)) and not hasattr(value, "save"):
        raise ValueError("use a path or a URL, or a store")
    return str(value) if isinstance(value, os.PathLike) else value


def _names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("use a list of non-empty strings, or one string with commas")
    return tuple(name.strip() for name in names)


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        import json

        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise ValueError("use a table (in the environment: a JSON object)")
    return dict(value)


def _location(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ValueError("use a path or a URL")
    return os.fspath(value)


def _beside(file: str, value: Any, *, name: bool) -> Any:
    """Return a relative path as seen from the folder of `file`; where it may be a name, only what looks like a path."""
    if isinstance(value, (list, tuple)):
        return [_beside(file, each, name=name) for each in value]
    if not isinstance(value, str) or "://" in value or not value:
        return value
    if name and not ("/" in value or value.endswith(".key")):
        return value
    return os.path.join(os.path.dirname(file), os.path.expanduser(value))


class _Setting:
    """The default of a field (or what makes it), how its values are read, and what they are in `pyproject.toml`.

    There a "path", or a "name" or path, is relative to that file.
    """

    __slots__ = ("beside", "default", "parse")

    def __init__(self, default: Any, parse: Callable[[Any], Any], beside: str) -> None:
        self.default = default
        self.parse = parse
        self.beside = beside

    def initial(self) -> Any:
        """Return the value where nobody says anything."""
        return self.default() if callable(self.default) else self.default

    def __repr__(self) -> str:  # as signatures show it
        return "<factory>" if callable(self.default) else repr(self.default)


def _setting(default: Any, parse: Callable[[Any], Any], *, beside: str = "") -> Any:
    return _Setting(default, parse, beside)


class Settings(Frozen):
    """What a session falls back to.

    Attributes:
        backend: Backend of maps and submits that name none.
        max_backend_threads: Workers of the thread backend.
        max_parallel_processes: Workers of the process backend.
        dask_address: Address of the Dask scheduler to use, such as tcp://host:8786; None: the current client's, if any.
        home: Folder of everything nbflow keeps on disk; None: `.nbflow` in the working directory.
        cache_store: Where cached results live: a folder; None: `cache` in the home; "off": memory only.
        cache_ttl: Seconds after which entries expire, for tasks that name none.
        cache_max_bytes: Size budget of the cache on disk.
        cache_max_age_s: Age budget of the cache on disk, in seconds.
        cache_memory_bytes: Size budget of the memory tier.
        cache_compress: Compression of the cache on disk: auto (what is small and shrinks to less than half), off, or
            zlib or zstd (large buffers too, which then are not mapped but read).
        cache_readonly: Hand out cached results read-only, for tasks that do not say.
        cache_shared: A store further away: a folder, a URL that fsspec knows, or a bundle; None: none.
        cache_shared_options: Options of its file system, as fsspec takes them.
        cache_shared_key: The key that seals what is sent there: its name in the key ring, or its file; None: your own.
        cache_shared_readonly: Take results from there, but send none.
        cache_trust: Keys whose results are opened: names in the key ring, or key files; None: all in the key ring.
        dataset_store: Folder or URL of datasets.
        allow_outside_keys: Let dataset keys leave the store's folder.
        dataset_versions: Versions of each dataset that are kept, the current one included; 0 for plain files alone.
        progress: Face of the panel: auto, widget, html, text, or off.
        tqdm: Show bars of tqdm that tasks make as progress of these tasks, instead of drawing them.
        wrap_errors: Raise `TaskError` from the user's exception instead of the exception itself.
        force: Recompute every task and overwrite its cached result.
        max_records: Finished calls that a session remembers.
        history: Whether runs are noted in the home, so that times are known over restarts: auto (notebooks), on, off.
        event_log: File to which sessions write their events, as lines of JSON; None for none.
        load_plugins: Whether sessions get the hooks that installed packages bring (entry points `nbflow.hooks`).
        mutation_guard: Tell when a value that nbflow handed out was changed in place.
        max_worker_losses: How often a call whose worker process died is run again, on another one.
        loop_bridge: How synchronous code runs coroutines under a running loop: auto (patch the kernel's loop when
            first needed) or thread (a loop of our own in another thread).

    Raises:
        SettingsError: A value is wrong; the message names field and value.
    """

    backend: str = _setting("inline", _word)
    max_backend_threads: int = _setting(lambda: min(32, (os.cpu_count() or 1) + 4), _whole(1))
    max_parallel_processes: int = _setting(lambda: os.cpu_count() or 1, _whole(1))
    dask_address: str | None = _setting(None, _optional(_word))
    home: str | None = _setting(None, _optional(_place))
    cache_store: Any = _setting(None, _optional(_place))
    cache_ttl: float | None = _setting(None, _optional(_seconds))
    cache_max_bytes: int = _setting(2 * 1024**3, _whole(0))
    cache_max_age_s: float = _setting(90 * 86400.0, _seconds)
    cache_memory_bytes: int = _setting(256 * 1024**2, _whole(0))
    cache_compress: str = _setting("auto", _choice("auto", "off", "zlib", "zstd"))
    cache_readonly: bool = _setting(False, _bool)
    cache_shared: str | None = _setting(None, _optional(_location), beside="path")
    cache_shared_options: Mapping[str, Any] | None = _setting(None, _optional(_mapping))
    cache_shared_key: str | None = _setting(None, _optional(_word), beside="name")
    cache_shared_readonly: bool = _setting(False, _bool)
    cache_trust: tuple[str, ...] | None = _setting(None, _optional(_names), beside="name")
    dataset_store: Any = _setting(".", _place)
    allow_outside_keys: bool = _setting(False, _bool)
    dataset_versions: int = _setting(10, _whole(0))
    progress: str = _setting("auto", _choice("auto", "widget", "html", "text", "off"))
    tqdm: bool = _setting(False, _bool)
    wrap_errors: bool = _setting(False, _bool)
    force: bool = _setting(False, _bool)
    max_records: int = _setting(10_000, _whole(0))
    history: str = _setting("auto", _choice("auto", "on", "off"))
    event_log: str | None = _setting(None, _optional(_place))
    max_worker_losses: int = _setting(2, _whole(0))
    load_plugins: bool = _setting(True, _bool)
    mutation_guard: bool = _setting(True, _bool)
    loop_bridge: str = _setting("auto", _choice("auto", "thread"))

    def __post_init__(self) -> None:
        values = vars(self)
        for name, setting in _known.items():
            value = values[name]
            values[name] = setting.initial() if value is setting else _parse(setting, name, value, f"argument {name}")

    @property
    def home_path(self) -> Path:
        """Folder of everything nbflow keeps on disk (which may not exist yet)."""
        from pathlib import Path

        return Path(self._home())

    @property
    def cache_folder(self) -> str:
        """Folder of the cache where `cache_store` names none (which may not exist yet)."""
        return os.path.normpath(os.path.join(self._home(), "cache"))

    def _home(self) -> str:
        return os.path.expanduser(self.home) if self.home else os.path.join(os.getcwd(), ".nbflow")


_known: dict[str, _Setting] = dict(Settings._defaults)


def load_settings(
    *, environ: Mapping[str, str] | None = None, start: str | os.PathLike[str] | None = None, **overrides: Any
) -> Settings:
    """Build settings from arguments, environment and `pyproject.toml`.

    Args:
        environ: Environment to read; None for the process's own.
        start: Folder from which to look upwards for `pyproject.toml`; None for the working directory.
        **overrides: Values that win over all other sources; None means "not given".

    Returns:
        The settings.

    Raises:
        SettingsError: An unknown field, or a bad value; the message names the source.
    """
    values: dict[str, Any] = {}
    file, table = _pyproject(os.fspath(start) if start is not None else os.getcwd())
    for name, value in table.items():
        source = f"[tool.nbflow] {name} in {file}"
        if name not in _known:
            raise _unknown(name, source)
        if (beside := _known[name].beside) and file is not None:
            value = _beside(file, value, name=beside == "name")
        values[name] = _parse(_known[name], name, value, source)
    env = os.environ if environ is None else environ
    for name, setting in _known.items():
        if (text := env.get(f"NBFLOW_{name.upper()}")) is not None:
            values[name] = _parse(setting, name, text, f"environment variable NBFLOW_{name.upper()}")
    for name, value in overrides.items():
        if name not in _known:
            raise _unknown(name, name)
        if value is not None:
            values[name] = value
    return Settings(**values)


def _unknown(name: str, source: str) -> SettingsError:
    known = ", ".join(sorted(_known))
    return SettingsError(f"{source}: there is no such setting{perhaps(name, _known) or '.'} Known: {known}.")


def _parse(setting: _Setting, name: str, value: Any, source: str) -> Any:
    try:
        return setting.parse(value)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{source}: {value!r} is not a good value for {name}: {error}.", field=name) from None


def _pyproject(folder: str) -> tuple[str | None, dict[str, Any]]:
    """Return the nearest `pyproject.toml` upwards and its `[tool.nbflow]` table."""
    place, above = "", os.path.abspath(folder)
    while above != place:
        place, above = above, os.path.dirname(above)
        file = os.path.join(place, "pyproject.toml")
        if not os.path.isfile(file):
            continue
        try:
            with open(file, "rb") as stream:
                text = stream.read()
            if b"nbflow" not in text:  # most say nothing of us, and reading TOML takes longer than a hit
                return file, {}
            import tomllib

            data = tomllib.loads(text.decode())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}.") from None
        table = data.get("tool", {}).get("nbflow", {})
        if not isinstance(table, dict):
            raise SettingsError(f"[tool.nbflow] in {file} must be a table.")
        return file, table
    return None, {}


_lock = threading.Lock()
_global: Settings | None = None


def get_global_settings() -> Settings:
    """Return the settings that sessions fall back to, loading them on first use; safe from any thread."""
    global _global
    with _lock:
        if _global is None:
            _global = load_settings()
        return _global


def set_global_settings(settings: Settings | None) -> None:
    """Replace the settings that sessions fall back to; None reads the sources again at next use."""
    global _global
    if settings is not None and not isinstance(settings, Settings):
        raise SettingsError(f"{settings!r} is not a Settings object; build one with nbflow.settings.load_settings().")
    with _lock:
        _global = settings


def with_overrides(settings: Settings, **overrides: Any) -> Settings:
    """Return `settings` with some fields replaced, checked as always."""
    return settings.replace(**overrides)
