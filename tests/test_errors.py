"""The error tree."""

from __future__ import annotations

import copy
import pickle

import pytest

from nbflow import errors
from nbflow.errors import (
    DatasetNotFoundError,
    DefinitionError,
    NbflowError,
    ParameterError,
    TaskError,
    TaskTimeoutError,
)

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
def test_survives_pickling_and_copying(kind: type[NbflowError]) -> None:
    """Message, facts, notes and type are still there after pickling."""
    error = kind("what happened", task="t", timeout_s=1.5)
    error.add_note("nbflow: in task 't'")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == "what happened"
        assert (twin.task, twin.timeout_s) == ("t", 1.5)
        assert twin.__notes__ == ["nbflow: in task 't'"]


@pytest.mark.parametrize("kind", ALL)
def test_is_one_of_ours(kind: type[NbflowError]) -> None:
    """All errors derive from the one base, and may be empty."""
    assert issubclass(kind, NbflowError)
    assert str(kind()) == ""


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (DefinitionError, TypeError),
        (DefinitionError, ValueError),
        (errors.SettingsError, ValueError),
        (TaskError, RuntimeError),
        (ParameterError, TaskError),
        (ParameterError, TypeError),
        (TaskTimeoutError, TimeoutError),
        (errors.BackendError, RuntimeError),
        (DatasetNotFoundError, KeyError),
        (DatasetNotFoundError, errors.DatasetError),
        (errors.PendingError, RuntimeError),
        (errors.SessionError, RuntimeError),
    ],
)
def test_fits_a_builtin(kind: type[Exception], builtin: type[Exception]) -> None:
    """Who catches the builtin that fits catches ours."""
    assert issubclass(kind, builtin)


def test_key_errors_read_well() -> None:
    """A missing dataset shows its message, not the quoted key of `KeyError`."""
    assert str(DatasetNotFoundError("Nothing is saved under 'a'.")) == "Nothing is saved under 'a'."
