"""Settings: where values come from, which source wins, and what bad ones say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nbflow import session, settings
from nbflow.errors import DefinitionError, SettingsError
from nbflow.settings import Settings, get_global_settings, load_settings, set_global_settings

FIELDS = [field.name for field in dataclasses.fields(Settings)]


def write(folder: Path, text: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    return load_settings(environ=environ or {}, start=folder, **overrides)


def test_defaults(tmp_path: Path) -> None:
    """Without any source the defaults hold."""
    found = load(tmp_path)
    assert found == Settings()
    assert (found.backend, found.progress, found.wrap_errors, found.force) == ("inline", "auto", False, False)
    assert found.max_backend_threads >= 1


def test_precedence(tmp_path: Path) -> None:
    """Arguments win over the environment, which wins over pyproject.toml."""
    write(tmp_path, "[tool.nbflow]\nbackend = 'file'\nprogress = 'text'\nmax_records = 7\n")
    environ = {"NBFLOW_BACKEND": "environment", "NBFLOW_PROGRESS": "html"}
    found = load(tmp_path, environ, backend="argument")
    assert (found.backend, found.progress, found.max_records) == ("argument", "html", 7)


def test_none_is_not_given(tmp_path: Path) -> None:
    """An argument of None leaves the other sources alone."""
    assert load(tmp_path, {"NBFLOW_BACKEND": "environment"}, backend=None).backend == "environment"


def test_nearest_file_counts(tmp_path: Path) -> None:
    """The nearest pyproject.toml upwards is read, and only that one."""
    write(tmp_path, "[tool.nbflow]\nbackend = 'far'\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert load(inner).backend == "far"
    write(tmp_path / "a", "[project]\nname = 'x'\n")
    assert load(inner).backend == "inline"


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_an_environment_name(field: str, tmp_path: Path) -> None:
    """`NBFLOW_<FIELD>` sets each field."""
    texts = {
        "max_backend_threads": ("3", 3),
        "max_parallel_processes": ("3", 3),
        "cache_ttl": ("60", 60.0),
        "cache_max_bytes": ("10", 10),
        "cache_max_age_s": ("10", 10.0),
        "cache_memory_bytes": ("10", 10),
        "cache_readonly": ("yes", True),
        "cache_compress": ("zlib", "zlib"),
        "load_plugins": ("off", False),
        "mutation_guard": ("off", False),
        "cache_shared_options": ('{"anon": true}', {"anon": True}),
        "cache_shared_readonly": ("yes", True),
        "cache_trust": ("team, keys/ci.key", ("team", "keys/ci.key")),
        "allow_outside_keys": ("yes", True),
        "dataset_versions": ("3", 3),
        "tqdm": ("on", True),
        "progress": ("off", "off"),
        "wrap_errors": ("1", True),
        "force": ("on", True),
        "max_records": ("0", 0),
        "max_worker_losses": ("0", 0),
        "loop_bridge": ("thread", "thread"),
        "history": ("off", "off"),
    }
    text, value = texts.get(field, ("word", "word"))
    assert getattr(load(tmp_path, {f"NBFLOW_{field.upper()}": text}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("backend", "", "use a non-empty string"),
        ("backend", 3, "use a non-empty string"),
        ("max_backend_threads", 0, "use a whole number ≥ 1"),
        ("max_backend_threads", "many", "use a whole number ≥ 1"),
        ("max_backend_threads", 1.5, "use a whole number ≥ 1"),
        ("max_backend_threads", True, "use a whole number ≥ 1"),
        ("max_parallel_processes", -1, "use a whole number ≥ 1"),
        ("max_records", float("inf"), "use a whole number ≥ 0"),
        ("cache_shared", 3, "use a path or a URL"),
        ("cache_shared_options", "[1]", "use a table"),
        ("cache_trust", 3, "use a list of non-empty strings"),
        ("cache_ttl", -1, "use seconds ≥ 0"),
        ("cache_ttl", "soon", "use seconds ≥ 0"),
        ("cache_ttl", float("nan"), "use seconds ≥ 0"),
        ("cache_ttl", True, "use seconds ≥ 0"),
        ("cache_max_age_s", [1], "use seconds ≥ 0"),
        ("cache_max_bytes", -5, "use a whole number ≥ 0"),
        ("cache_store", 3, "use a path or a URL"),
        ("dataset_store", True, "use a path or a URL"),
        ("home", 3, "use a path or a URL"),
        ("progress", "loud", "use one of auto, widget, html, text, off"),
        ("wrap_errors", "maybe", "use 1 or 0, true or false"),
        ("force", 2, "use 1 or 0, true or false"),
        ("loop_bridge", "nest", "use one of auto, thread"),
    ],
)
def test_bad_values_name_their_source(field: str, value: Any, advice: str, tmp_path: Path) -> None:
    """A bad value is one line that names source and value, and says what would be good."""

    def said(**how: Any) -> str:
        with pytest.raises(SettingsError) as caught:
            load(tmp_path, **how)
        assert caught.value.field == field  # type: ignore[attr-defined]
        return str(caught.value)

    argument = said(**{field: value})
    assert argument.startswith(f"argument {field}: {value!r} is not a good value for {field}: ")
    assert advice in argument
    assert "\n" not in argument
    if isinstance(value, str):
        assert said(environ={f"NBFLOW_{field.upper()}": value}).startswith(
            f"environment variable NBFLOW_{field.upper()}: "
        )
    text = {True: "true"}.get(value) if value is True else repr(value)
    file = write(tmp_path, f"[tool.nbflow]\n{field} = {text}\n")
    assert said().startswith(f"[tool.nbflow] {field} in {file}: {value!r}" if value == value else "[tool.nbflow]")


@pytest.mark.parametrize(
    ("text", "said"), [("[tool.nbflow]\nx = ", "cannot be read"), ("[tool]\nnbflow = 3", "must be a table")]
)
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    file = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_unknown_fields(tmp_path: Path) -> None:
    """An unknown field is an error that lists the known ones, from the file as from arguments."""
    with pytest.raises(SettingsError, match=r"bakcend: there is no such setting; did you mean backend\? Known: "):
        load(tmp_path, bakcend="thread")
    write(tmp_path, "[tool.nbflow]\nbakcend = 'thread'\n")
    with pytest.raises(SettingsError, match=r"\[tool.nbflow\] bakcend in .*pyproject.toml: there is no such setting"):
        load(tmp_path)


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    """A bundle and its key are named as seen from pyproject.toml; names of keys stay names."""
    write(
        tmp_path,
        "[tool.nbflow]\ncache_shared = 'warm.zip'\ncache_trust = ['warm.key', 'team']\ncache_shared_key = 'team'\n",
    )
    (tmp_path / "sub").mkdir()
    found = load(tmp_path / "sub")
    assert found.cache_shared == str(tmp_path / "warm.zip")
    assert found.cache_trust == (str(tmp_path / "warm.key"), "team")
    assert found.cache_shared_key == "team"
    write(tmp_path, "[tool.nbflow]\ncache_shared = 's3://bucket/cache'\n")
    assert load(tmp_path).cache_shared == "s3://bucket/cache"


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_true_words(word: str, tmp_path: Path) -> None:
    """Switches understand the usual words in any case."""
    assert load(tmp_path, {"NBFLOW_FORCE": word}).force is True
    assert load(tmp_path, {"NBFLOW_FORCE": {"1": "0", "true": "False", "YES": "no"}.get(word, "OFF")}).force is False


@pytest.mark.parametrize("text", ["", "none", "None"])
def test_unsetting(text: str, tmp_path: Path) -> None:
    """An optional field can be unset by the environment."""
    write(tmp_path, "[tool.nbflow]\ncache_ttl = 5\n")
    assert load(tmp_path, {"NBFLOW_CACHE_TTL": text}).cache_ttl is None


def test_paths_become_text(tmp_path: Path) -> None:
    """Paths may be given as paths; a store object is kept as it is."""
    found = Settings(home=tmp_path, dataset_store=tmp_path)  # type: ignore[arg-type]
    assert (found.home, found.dataset_store) == (str(tmp_path), str(tmp_path))
    assert found.home_path == tmp_path


def test_home_is_beside_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home of its own everything is kept in `.nbflow` in the working directory."""
    monkeypatch.chdir(tmp_path)
    assert Settings().home_path == tmp_path / ".nbflow"


def test_frozen() -> None:
    """Settings cannot be changed, only replaced; the replacement is checked as well."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().backend = "thread"  # type: ignore[misc]
    with pytest.raises(SettingsError):
        settings.with_overrides(Settings(), max_records=-1)
    with pytest.raises(TypeError, match=r"Settings has no cache_tll; did you mean cache_ttl\? It has: backend"):
        Settings(cache_tll=3)  # type: ignore[call-arg]
    assert settings.with_overrides(Settings(), backend="thread").backend == "thread"


def test_global_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read once, can be replaced, and are read again after a reset."""
    monkeypatch.setenv("NBFLOW_BACKEND", "thread")
    set_global_settings(None)
    first = get_global_settings()
    assert first.backend == "thread"
    monkeypatch.setenv("NBFLOW_BACKEND", "inline")
    assert get_global_settings() is first
    mine = Settings(max_records=3)
    set_global_settings(mine)
    with session() as context:
        assert context.settings is mine
    set_global_settings(None)
    assert get_global_settings().backend == "inline"


def test_what_is_no_settings_object() -> None:
    """Something else is refused where settings are wanted."""
    with pytest.raises(SettingsError, match="'fast' is not a Settings object; build one with"):
        set_global_settings("fast")  # type: ignore[arg-type]
    with (
        pytest.raises(DefinitionError, match="settings='fast' is not a Settings object; use"),
        session(settings="fast"),
    ):  # type: ignore[arg-type]
        pass
