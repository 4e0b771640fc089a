"""What a cell needs and leaves of the random generators that all code shares."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from typing import Any

import pytest

from nbflow.notebook.chance import Draws, Seeding, find_seeding, place_of, random_states, set_random_states

np = pytest.importorskip("numpy")

NAMES: dict[str, Any] = {"random": random, "np": np, "own": np.random.RandomState(1), "n": 3}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    states = random_states()
    yield
    set_random_states(states)


def seeding(text: str) -> Seeding | None:
    """Return what sets a seed in the last statement of a text."""
    body = ast.parse(text).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}

    def expand(call: ast.Call) -> list[ast.stmt] | None:
        return ast.parse(call.args[0].value).body if ast.unparse(call.func) == "magic" else None  # type: ignore[attr-defined]

    return find_seeding(body[-1], functions, expand)


@pytest.mark.parametrize(
    ("text", "generator"),
    [
        ("random.seed(0)", "random"),
        ("random.setstate(n)", "random"),
        ("np.random.seed(n)", "numpy"),
        ("np.random.seed(seed=int(1e6))", "numpy"),
        ("np.random.set_state(n)", "numpy"),
        ("set_seed(42)", None),
        ("seed_everything()", None),
        ("own.seed(3)", None),
        ("if n:\n  random.seed(0)", None),
        ("with n:\n  import os\n  m = 1\n  random.seed(0)\n  random.random()", None),
        ("try:\n  random.seed(0)\nfinally:\n  pass", None),
        ("def f():\n  'doc'\n  random.seed(0)\nf()", None),
        ("magic('random.seed(0)')", None),
    ],
)
def test_statements_that_set_a_seed_first(text: str, generator: str | None) -> None:
    """Calls of the generators' own functions, of functions that are named so, and code that begins with such a call."""
    found = seeding(text)
    assert found is not None
    assert found.generator(NAMES) == generator


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "random.random()",
        "fit(seed=0)",
        "random.seed(random.random())",
        "np.random.seed(hash(draw()))",
        "if random.random():\n  random.seed(0)",
        "with draw():\n  random.seed(0)",
        "if n:\n  x = draw()\n  random.seed(0)",
        "def f():\n  draw()\n  random.seed(0)\nf()",
        "def f():\n  f()\n  random.seed(0)\nf()",
        "def f():\n  def g(x=draw()): pass\n  random.seed(0)\nf()",
        "def f():\n  @draw\n  def g(): pass\n  random.seed(0)\nf()",
        "def f():\n  for x in numbers: pass\n  random.seed(0)\nf()",
        "random.seed([x for x in numbers][0])",
        "def f():\n  random.seed()\nf()",
        "magic('draw(); random.seed(0)')",
        "def f():\n  random.seed(0)",
    ],
)
def test_statements_that_may_draw_first(text: str) -> None:
    """Whatever may draw before it sets a seed, or sets none, depends on what was there."""
    assert seeding(text) is None


def run(text: str, fresh: dict[str, Any] | None = None) -> Draws:
    """Run statements as a cell does."""
    names = dict(NAMES)
    draws = Draws("", {} if fresh is None else fresh, known=False)
    for statement in ast.parse(text).body:
        found = find_seeding(statement, {}, lambda call: None)
        if found is not None:
            draws.look()
            generator = found.generator(names)
        exec(compile(ast.Module([statement], []), "<cell>", "exec"), names)
        if found is not None:
            draws.seeded(found, generator)
    return draws


@pytest.mark.parametrize(
    ("text", "left", "needed"),
    [
        ("n + 1", set(), set()),
        ("random.random()", {"random"}, {"random"}),
        ("random.seed(0); random.random()", {"random"}, set()),
        ("random.random(); random.seed(0)", {"random"}, {"random"}),
        ("random.seed(0); np.random.rand()", {"random", "numpy"}, {"numpy"}),
        ("np.random.seed(0); np.random.rand(); random.seed(1)", {"random", "numpy"}, set()),
        ("random.seed()", {"random"}, {"random"}),
        ("state = random.getstate(); random.random(); random.setstate(state)", {"random"}, {"random"}),
    ],
)
def test_what_is_drawn_before_a_seed_is_needed(text: str, left: set[str], needed: set[str]) -> None:
    """What a cell leaves are the states that it changed; what it needs, those that it drew from and had not set."""
    before = random_states()
    draws = run(text)
    assert set(draws.left(seeds=True)) == left
    assert draws.needed == {name: before[name] for name in needed}


def test_a_seed_that_changes_nothing_still_counts() -> None:
    """A generator that is set to the very state that it has is left in that state, whatever state it finds later."""
    random.seed(0)
    draws = run("random.seed(0)")
    assert set(draws.left(seeds=True)) == {"random"}
    assert draws.needed == {}


def test_a_function_that_may_have_set_a_seed() -> None:
    """One that changed nothing may have set what was there, unless no seed can have made that."""
    NAMES["set_seed"] = lambda number: random.seed(number)
    random.seed(0)
    before = random_states()
    assert run("set_seed(0)").needed.keys() == {"random", "numpy"}
    assert run("set_seed(1)", fresh={"numpy": before["numpy"]}).needed == {}
    assert run("own.seed(3)", fresh=random_states()).left(seeds=True) == {}


def test_states_can_be_set_again() -> None:
    """Numbers go on from a state as they did."""
    before = random_states()
    numbers = random.random(), np.random.rand()
    set_random_states(before)
    assert (random.random(), np.random.rand()) == numbers


def numpy_state(place: int) -> dict[str, Any]:
    """Return states as they are when NumPy is loaded."""
    return {"numpy": ("MT19937", b"", place, 0, 0.0)}


@pytest.mark.parametrize(
    ("place", "seeds", "left", "needed"),
    [(624, False, False, False), (623, False, False, False), (624, True, True, False), (3, False, True, True)],
)
def test_a_generator_that_is_loaded_out_of_sight(
    monkeypatch: pytest.MonkeyPatch, place: int, seeds: bool, left: bool, needed: bool
) -> None:
    """One that was not there before counts as set where the text says so, and as drawn from where it stands apart."""
    states: list[dict[str, Any]] = [{}, numpy_state(place)]
    monkeypatch.setattr("nbflow.notebook.chance.random_states", lambda: states.pop(0))
    draws = Draws("", {}, known=False)
    assert bool(draws.left(seeds=seeds)) == left
    assert draws.needed == ({"numpy": None} if needed else {})


@pytest.mark.parametrize(
    ("text", "left", "needed"),
    [
        ("", set(), {}),
        ("randint(9)", {"numpy"}, {"numpy": None}),
        ("seed(1)", {"numpy"}, {}),
        ("randint(9); seed(1)", {"numpy"}, {"numpy": None}),
        ("randint(9); import", {"numpy"}, {"numpy": None}),
    ],
)
def test_a_generator_that_an_import_brings(
    monkeypatch: pytest.MonkeyPatch, text: str, left: set[str], needed: dict[str, Any]
) -> None:
    """It needs that none was there if it is drawn from, however little, and nothing if it is not or is set first."""
    there: list[str] = []
    monkeypatch.setattr("nbflow.notebook.chance.random_states", lambda: {name: random_states()[name] for name in there})
    draws = Draws("", {}, known=False)
    there.append("numpy")
    draws.imported()
    for call in filter(None, text.split("; ")):
        if call == "import":
            draws.imported()
            continue
        if call.startswith("seed"):
            draws.look()
        exec(f"np.random.{call}", {"np": np})
        if call.startswith("seed"):
            draws.seeded(Seeding(("np", "random", "seed"), False), "numpy")
    assert set(draws.left(seeds=True)) == left
    assert draws.needed == needed


def test_the_generator_of_pytorch() -> None:
    """That of the CPU is followed as the others are."""
    torch: Any = pytest.importorskip("torch")
    NAMES["torch"] = torch
    before = random_states()
    drawn = run("torch.rand(3)")
    assert drawn.left(seeds=True) == {"torch": random_states()["torch"]}
    assert drawn.needed == {"torch": before["torch"]}
    assert run("torch.seed()").needed.keys() == {"torch"}
    seeded = run("torch.manual_seed(0); numbers = torch.rand(3)")
    assert seeded.left(seeds=True).keys() == {"torch"}
    assert seeded.needed == {}
    states = random_states()
    numbers = torch.rand(3).tolist()
    set_random_states(states)
    assert torch.rand(3).tolist() == numbers


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (random.sample, ("random", "sample")),
        (np.random.rand, ("numpy.random", "rand")),
        (random._inst, ("random", "_inst")),  # type: ignore[attr-defined]
        (np.random.get_state.__self__, ("numpy.random.mtrand", "_rand")),
        (random.Random(1), None),
        (random.Random(1).sample, None),
        (np.random.RandomState(1).rand, None),
        ([].append, None),
    ],
)
def test_what_is_bound_to_a_generator_that_all_share(value: object, place: tuple[str, str] | None) -> None:
    """It is found under a name of its module; generators of one's own are not."""
    assert place_of(value) == place
