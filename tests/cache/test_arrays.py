"""Arrays and frames of other people's classes, and tensors: their data, their class, and what they add."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbflow.cache import digest


class Quantity(np.ndarray[Any, Any]):
    """An array with a unit, the way NumPy's manual has it."""

    unit: str | None

    def __array_finalize__(self, other: Any) -> None:
        """Take the unit along."""
        self.unit = getattr(other, "unit", None)


class Survey(pd.DataFrame):
    """A frame with an attribute of its own."""

    _metadata = ["place"]  # noqa: RUF012 - as pandas wants it

    @property
    def _constructor(self) -> Any:
        return Survey


def quantity(unit: str | None, data: Any) -> Quantity:
    """Return an array with a unit."""
    made: Quantity = np.asarray(data).view(Quantity)
    made.unit = unit
    return made


def survey(place: str) -> Survey:
    """Return a frame with a place."""
    made = Survey({"a": [1, 2]})
    made.place = place
    return made


def test_attributes_of_array_classes_count() -> None:
    """NumPy forgets what a class adds when it pickles an array; a key must not."""
    values = [
        quantity("m", [1, 2]),
        quantity("s", [1, 2]),
        quantity(None, [1, 2]),
        quantity("m", [1, 3]),
        np.array([1, 2]),
    ]
    assert len(set(map(digest, values))) == len(values)
    grid = np.arange(6).reshape(2, 3)
    assert digest(quantity("m", np.asfortranarray(grid))) == digest(quantity("m", grid))


def test_attributes_of_frame_classes_count() -> None:
    """A class that builds on a frame is known by its data and what it adds, not by how its data are laid out."""
    values = [survey("here"), survey("there"), pd.DataFrame({"a": [1, 2]})]
    assert len(set(map(digest, values))) == len(values)
    joined = Survey(pd.concat([survey("here"), survey("here")], ignore_index=True)[:2])
    joined.place = "here"
    assert digest(joined) == digest(survey("here"))


def test_flags_of_frames_count() -> None:
    """A frame that refuses equal labels raises where another does not."""
    frame = pd.DataFrame({"a": [1]})
    assert digest(frame) != digest(frame.set_flags(allows_duplicate_labels=False))
    assert digest(frame["a"]) != digest(frame["a"].set_flags(allows_duplicate_labels=False))


def test_object_arrays_are_their_members() -> None:
    """Texts that are long or few, mixed with missing ones of all kinds, have the digest of the same members."""
    texts: list[Any] = [f"text {number}" for number in range(5000)]
    found = {digest(np.array(texts, dtype=object))}
    assert digest(np.array([*texts, "more"], dtype=object)[:-1]) in found
    for missing in (None, float("nan"), pd.NA, pd.NaT, "None", np.str_("text 7"), "text\0", "\ud800"):
        found.add(digest(np.array([*texts[:7], missing, *texts[8:]], dtype=object)))
    assert len(found) == 9


def test_tensors_count_by_content() -> None:
    """Type, shape, gradient and elements of a tensor count, its layout does not."""
    torch: Any = pytest.importorskip("torch")
    grid = torch.arange(6.0).reshape(2, 3)
    values = [
        *(grid, grid.T, grid.double(), grid.bfloat16(), grid + 1, grid.reshape(6), grid.numpy()),
        *(grid.clone().requires_grad_(), torch.nn.Parameter(grid), grid.to_sparse(), grid.to_sparse_csr()),
        *(torch.empty(0), torch.empty(0, 3), torch.tensor(1.0), torch.tensor([1j]), torch.tensor([1j]).conj()),
        *(torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    ]
    assert len(set(map(digest, values))) == len(values)
    assert digest(grid.T.contiguous().T) == digest(grid)
    assert digest(torch.arange(10.0)[2:4]) == digest(torch.tensor([2.0, 3.0]))

    def layer(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.nn.Linear(2, 2)

    assert digest(layer(1)) == digest(layer(1)) != digest(layer(2))
