"""Differences of keys in words, the entry to compare with, and how they are shown."""

from __future__ import annotations

import pickle
from typing import Any

from nbflow.cache.explain import Explanation, Reasons, differences, explain_miss, nearest, telling
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import CacheKey, KeyPart


def part(kind: str, name: str, value: Any, text: str = "", where: str = "") -> KeyPart:
    return KeyPart(kind, name, str(value), text, where)


def entry(key: str, *parts: KeyPart, created: float = 0.0) -> EntryInfo:
    return EntryInfo(key, "f", None, created, created, 1.0, 10, None, parts)


def words(before: list[KeyPart], now: list[KeyPart]) -> list[str]:
    return differences(now, before)


def test_each_kind_has_its_words() -> None:
    """Names, old and new values, shapes, and the cell that made the difference."""
    cases = [
        (part("code", "f", 1), part("code", "f", 2, where="cell 4"), "code changed (cell 4)"),
        (part("helper", "clean", 1), part("helper", "clean", 2, where="cell 3"), "helper `clean` changed (cell 3)"),
        (part("global", "R", 1, "0.19"), part("global", "R", 2, "0.07", "cell 2"), "global `R` 0.19 → 0.07 (cell 2)"),
        (part("argument", "x", 1, "1"), part("argument", "x", 2, "1.0"), "argument `x` 1 → 1.0"),
        (
            part("argument", "df", 1, "DataFrame 336776×19"),
            part("argument", "df", 2, "DataFrame 336770×19"),
            "argument `df` DataFrame 336776×19 → 336770×19",
        ),
        (
            part("argument", "df", 1, "DataFrame 3×2"),
            part("argument", "df", 2, "DataFrame 3×2"),
            "argument `df` changed (DataFrame 3×2, other values)",
        ),
        (
            part("input", "df", 1, "DataFrame 3×2"),
            part("input", "df", 2, "DataFrame 3×2", "cell 2"),
            "input `df` changed (DataFrame 3×2, other values; cell 2)",
        ),
        (
            part("argument", "df", 1, "list of 3"),
            part("argument", "df", 2, "DataFrame 3×2"),
            "argument `df` list of 3 → DataFrame 3×2",
        ),
        (part("version", "version", 1, "'1'"), part("version", "version", 2, "'2'"), "version '1' → '2'"),
        (part("module", "pandas", 1, "2.2"), part("module", "pandas", 2, "2.3"), "module `pandas` 2.2 → 2.3"),
        (part("class", "Model", 1), part("class", "Model", 2), "class `Model` changed"),
    ]
    for before, now, expected in cases:
        assert words([before], [now]) == [expected]
        assert words([before], [before]) == []


def test_the_most_telling_comes_first() -> None:
    """Version, code, what it refers to, arguments; changed before new before gone."""
    before = [
        part("argument", "x", 1, "1"),
        part("global", "R", 1, "1"),
        part("helper", "old", 1),
        part("code", "f", 1),
    ]
    now = [part("argument", "x", 2, "2"), part("global", "R", 2, "2"), part("helper", "new", 1), part("code", "f", 2)]
    now.append(part("version", "version", 3, "3"))
    assert words(before, now) == [
        "code changed",
        "global `R` 1 → 2",
        "argument `x` 1 → 2",
        "version 3 is new",
        "helper `new` is new",
        "helper `old` is gone",
    ]


def test_the_same_call_before_an_edit_is_nearest() -> None:
    """An entry of the same arguments tells more than one of the same code, though both differ in one part."""
    now = CacheKey("now", "f", parts=(part("code", "f", 2), part("argument", "x", 1, "1")))
    others = [
        entry("edited", part("code", "f", 1), part("argument", "x", 1, "1"), created=1.0),
        entry("other item", part("code", "f", 2), part("argument", "x", 9, "9"), created=2.0),
    ]
    found = nearest(now, others)
    assert found is not None
    assert found.key == "edited"
    assert explain_miss(now, others) == "code changed"
    assert explain_miss(now, others[1:]) == "argument `x` 9 → 1"
    assert explain_miss(now, []) == "never run before"


def test_the_entry_itself_and_equal_ones_say_nothing() -> None:
    """An entry that does not differ is not the nearest: it was evicted, and cannot explain itself."""
    now = CacheKey("now", "f", parts=(part("code", "f", 1),))
    assert nearest(now, [entry("now", part("code", "f", 2)), entry("same", part("code", "f", 1))]) is None


def test_another_call_is_no_change_to_tell_of() -> None:
    """A table of what ran tells of edits, not of a first call or of one with other arguments."""
    other = [part("code", "f", 1), part("argument", "n", 1, "1")]
    call = [part("code", "f", 1), part("argument", "n", 2, "2")]
    edit = [part("code", "f", 2), part("argument", "n", 2, "2")]
    assert telling(Reasons(words(other, call))) == ""
    assert telling(Reasons(words(other, edit))) == "code changed; argument `n` 1 → 2"
    assert telling(explain_miss(CacheKey("k", "f", "persistent", tuple(call), []), [])) == ""
    assert telling(None) == ""


def test_reasons_are_short_and_whole() -> None:
    """The text has three of them, `each` all; both survive pickling."""
    reasons = Reasons(["a", "b", "c", "d", "e"])
    assert reasons == "a; b; c; and 2 more"
    again = pickle.loads(pickle.dumps(reasons))
    assert (again, again.each) == (reasons, ("a", "b", "c", "d", "e"))


class Printer:
    """Stands in for IPython's pretty printer."""

    def __init__(self) -> None:
        self.out = ""

    def text(self, text: str) -> None:
        self.out += text

    def break_(self) -> None:
        self.out += "\n"


def test_an_explanation_is_text_and_a_list() -> None:
    """One line as text; in a notebook a list where there are several reasons, without a way in for markup."""
    one = Explanation("f would run", ["code changed"])
    assert one == "f would run: code changed."
    assert one._repr_html_() == "<div><b>f would run</b>: code changed.</div>"
    many = Explanation("f would run", ["helper `<b>` changed", "global `R` 1 → 2"])
    assert many == "f would run: helper `<b>` changed; global `R` 1 → 2."
    assert "<li>helper <code>&lt;b&gt;</code> changed</li>" in many._repr_html_()
    printer = Printer()
    many._repr_pretty_(printer, False)
    assert printer.out == "f would run:\n  • helper `<b>` changed\n  • global `R` 1 → 2"
    assert Explanation("all is well") == "all is well."
    again = pickle.loads(pickle.dumps(many))
    assert (again, again.verdict, again.reasons) == (many, many.verdict, many.reasons)
