"""The key of a call: code, arguments and declared versions, digested.

`KeyBuilder` collects parts; what cannot be digested makes the key a session key instead of an error. `FunctionKeyer`
is the keyer of one task: it digests nothing before its first call, digests the code again only when something that
the code refers to has changed, and recognises a repeated call with simple arguments in about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xxhash import xxh3_128_hexdigest

from nbflow._typing import CacheHash
from nbflow._util import one_line
from nbflow.cache.digest import register
from nbflow.cache.fingerprint import Snapshot, content_bytes, digest, fingerprint, snapshot
from nbflow.cache.identity import identity_token
from nbflow.cache.parts import (
    CacheKey,
    Fingerprint,
    KeyPart,
    Undigestable,
    combine,
    part_bytes,
    short_text,
)
from nbflow.cache.places import set_where

__all__ = [
    "CacheKey",
    "Fingerprint",
    "FunctionKeyer",
    "KeyBuilder",
    "KeyPart",
    "Undigestable",
    "content_key",
    "digest",
    "fingerprint",
    "register",
    "set_where",
]

_PLAIN = frozenset({int, str, bool, type(None), bytes})  # equal values of one of these types are the same value
_MEMO = 4096  # calls that are recognised at once
_LONG = 1024  # characters of an argument up to which its call is remembered


class KeyBuilder:
    """Collects the parts of one key; not to be shared between threads.

    Args:
        task: Name of the task (template unfilled) or cell.
    """

    __slots__ = ("_chunks", "_notes", "_parts", "_task")

    def __init__(self, task: str) -> None:
        self._task = task
        self._chunks: list[bytes] = []
        self._parts: list[KeyPart] = []
        self._notes: list[str] = []

    def add(self, kind: str, name: str, value: Any) -> None:
        """Add a value by content; one that cannot be digested makes this a session key. Never raises.

        Args:
            kind: Kind of the part, see `KeyPart`.
            name: Name that the user knows it by.
            value: Anything.
        """
        try:
            data = content_bytes(value)
        except Exception as error:
            path = error.path if isinstance(error, Undigestable) else ""
            reason = error.reason if isinstance(error, Undigestable) else one_line(error)
            self._notes.append(f"{kind} `{name}`{path} cannot be digested ({reason}): kept for this session only")
            data = _for_session(value)
        self._add(KeyPart(kind, name, xxh3_128_hexdigest(data), short_text(value)))

    def add_digest(self, kind: str, name: str, digest: str, text: str = "", where: str = "") -> None:
        """Add a part whose digest is known already."""
        self._add(KeyPart(kind, name, digest, text, where))

    def add_code(self, found: Fingerprint) -> None:
        """Add all parts of a fingerprint."""
        for part in found.parts:
            self._add(part)
        self._notes.extend(found.notes)

    def _add(self, part: KeyPart) -> None:
        self._parts.append(part)
        self._chunks.append(part_bytes(part.kind, part.name, part.digest))

    def build(self) -> CacheKey:
        """Return the key of the parts so far."""
        scope = "session" if self._notes else "disk"
        return CacheKey(combine(self._chunks), self._task, scope, tuple(self._parts), tuple(self._notes))


def _for_session(value: Any) -> bytes:
    """Digest what can be digested of `value`, and take the rest by identity."""
    try:
        return b"session" + content_bytes(value, identity_token)
    except Exception:  # its own methods fail: nothing of it can be used
        return b"session" + identity_token(value)


class FunctionKeyer:
    """Makes the keys of one task's calls; safe from any thread.

    Args:
        func: The function.
        name: Name of the task, template unfilled.
        version: Anything that the user changes to have everything recomputed.
        ignore: Parameters that do not count.
        depends: Further functions, classes, modules or values that the result depends on.
        custom: The user's own hash, `custom(func, inputs) -> str`; its text replaces all of the above.
        bind: Takes a call's arguments and returns them by parameter name with defaults filled in.
    """

    __slots__ = ("_bind", "_custom", "_depends", "_func", "_ignore", "_name", "_snapshot", "_state", "_version")

    def __init__(
        self,
        func: Callable[..., Any],
        *,
        name: str,
        version: Any = None,
        ignore: Iterable[str] = (),
        depends: Iterable[Any] = (),
        custom: CacheHash | None = None,
        bind: Callable[..., Mapping[str, Any]] | None = None,
    ) -> None:
        self._func = func
        self._name = name
        self._version = version
        self._ignore = frozenset((ignore,) if isinstance(ignore, str) else ignore)
        self._depends = tuple(depends) if isinstance(depends, (list, tuple, set, frozenset)) else (depends,)
        self._custom = custom
        self._bind = bind
        self._snapshot: Snapshot | None = None
        self._state: frozenset[str] = frozenset()

    @property
    def state_names(self) -> frozenset[str]:
        """Captured names that are left out of the key because the function itself changes them."""
        known = self._snapshot
        return known.state | self._state if known is not None else self._state

    def quick(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the digest of a call that was seen before, or None when only `key` can tell.

        Takes about a microsecond: compares by identity everything that the code refers to, then looks up the arguments
        by type and value.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            32 hex digits, or None.
        """
        known = self._snapshot
        if known is None or not known.holds_cheaply():
            return None
        kinds = tuple(map(type, args))
        if kwargs or not _PLAIN.issuperset(kinds):
            call = _typed_call(args, kwargs)
            return known.memo.get(call) if call is not None else None
        return known.memo.get((kinds, args))

    def key(
        self,
        inputs: Mapping[str, Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> CacheKey:
        """Return the key of a call; never raises.

        Args:
            inputs: Arguments by parameter name, defaults filled in; None to bind `args` and `kwargs` here.
            args: Positional arguments as given, to recognise the call next time.
            kwargs: Keyword arguments as given.

        Returns:
            The key; of scope "session", with a note, where something could not be digested.
        """
        kwargs = kwargs or {}
        try:
            if inputs is None:
                inputs = self._bind(*args, **kwargs) if self._bind is not None else {**kwargs, "args": args}
            if self._custom is not None:
                return self._custom_key(self._custom, inputs)
            code = self._code()
        except Exception as error:
            return self._failed(f"the key could not be made ({one_line(error)})")
        builder = _Calls(self._name, code)
        for name, value in inputs.items():
            if name not in self._ignore:
                builder.add("argument", name, value)
        if self._version is not None:
            builder.add("version", "version", self._version)
        key = builder.build()
        if key.scope == "disk":
            self._remember(code, args, kwargs, key.digest)
        return key

    def _code(self) -> Snapshot:
        known = self._snapshot
        if known is None or not known.holds():
            known = self._snapshot = snapshot(self._func, self._depends)
        return known

    def _remember(self, code: Snapshot, args: tuple[Any, ...], kwargs: Mapping[str, Any], digest: str) -> None:
        kinds = tuple(map(type, args))
        plain = not kwargs and _PLAIN.issuperset(kinds)
        call = (kinds, args) if plain else _typed_call(args, kwargs)
        if call is None or any(
            len(value) > _LONG for value in (*args, *kwargs.values()) if isinstance(value, (str, bytes))
        ):
            return
        if len(code.memo) >= _MEMO:
            code.memo.clear()
        code.memo[call] = digest

    def _custom_key(self, custom: CacheHash, inputs: Mapping[str, Any]) -> CacheKey:
        try:
            text = custom(self._func, inputs)
        except Exception as error:
            return self._failed(f"its cache hash failed ({one_line(error)})")
        if not isinstance(text, str):
            return self._failed(f"its cache hash returned {type(text).__name__} instead of a string")
        builder = KeyBuilder(self._name)
        builder.add("input", "task", self._name)
        builder.add("input", "hash", text)
        return builder.build()

    def _failed(self, why: str) -> CacheKey:
        """Return a key that no other call will ever have."""
        builder = KeyBuilder(self._name)
        builder.add_digest("code", self._name, xxh3_128_hexdigest(identity_token(iter(()))))
        key = builder.build()
        return CacheKey(key.digest, key.task, "session", key.parts, (f"{why}: kept for this session only",))


class _Calls(KeyBuilder):
    """A builder that begins with the parts of a snapshot."""

    __slots__ = ()

    def __init__(self, task: str, code: Snapshot) -> None:
        super().__init__(task)
        self._chunks = list(code.chunks)
        self._parts = list(code.fingerprint.parts)
        self._notes = list(code.fingerprint.notes)


def _typed_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return arguments as something that is equal only for the same types and values, or None."""
    out: list[Any] = [len(args)]
    for value in (*args, *kwargs.values()):
        typed = _typed(value)
        if typed is None:
            return None
        out.append(typed)
    return (*out, *kwargs)


def _typed(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN or (kind is float and value != 0.0):  # 0.0 == -0.0
        return (kind, value)
    if kind is tuple:
        members = [_typed(member) for member in value]
        return None if None in members else (kind, *members)
    return None


def content_key(func: Callable[..., Any], inputs: Mapping[str, Any]) -> str:
    """Return the key of calling `func` with `inputs`, as the default keyer makes it.

    Args:
        func: The function.
        inputs: Arguments by parameter name.

    Returns:
        32 lower-case hex digits.
    """
    return FunctionKeyer(func, name=getattr(func, "__name__", "task")).key(inputs).digest
