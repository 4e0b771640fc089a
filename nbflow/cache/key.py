"""The key of a call: code, arguments and declared versions, digested.

`KeyBuilder` collects parts; what cannot be digested makes the key a session key instead of an error. `FunctionKeyer`
is the keyer of one task: it digests nothing before its first call, digests the code again only when something that
the code refers to has changed, and recognises a repeated call with simple arguments in about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from xxhash import xxh3_128_hexdigest

from nbflow._typing import TYPE_CHECKING, Any, CacheHash, NamedTuple
from nbflow._util import lazy, one_line
from nbflow.cache import state
from nbflow.cache.digest import LEAVES, register
from nbflow.cache.fingerprint import Snapshot, content_bytes, digest, fingerprint, snapshot
from nbflow.cache.parts import (
    KEY_FORMAT,
    CacheKey,
    Fingerprint,
    KeyPart,
    Undigestable,
    combine,
    part_bytes,
    part_head,
    short_text,
)
from nbflow.cache.places import set_where
from nbflow.cache.source import Shelf

if TYPE_CHECKING:
    from nbflow.cache import identity
else:
    identity = lazy("nbflow.cache.identity")  # what has content is not told apart by identity

__all__ = [
    "CacheKey",
    "Fingerprint",
    "FunctionKeyer",
    "KeyBuilder",
    "KeyPart",
    "LateKey",
    "Undigestable",
    "content_key",
    "digest",
    "fingerprint",
    "register",
    "set_where",
]

_new = tuple.__new__  # of a named tuple in a third of the time
_PLAIN = frozenset({int, str, bool, type(None), bytes})  # equal values of one of these types are the same value
_NUMBERS = _PLAIN | {float}
_OF_CALL = frozenset({"argument", "version"})  # kinds of parts that are not of the code
_MEMO = 4096  # calls with arguments of the same types that are recognised at once
_KINDS = 64  # combinations of types for which calls are recognised
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
            leaf = LEAVES.get(type(value))
            data = leaf(value) if leaf is not None else content_bytes(value)
        except Exception as error:
            data = self._session_bytes(kind, name, value, error)
        digest = xxh3_128_hexdigest(data)
        self._parts.append(_new(KeyPart, (kind, name, digest, short_text(value), "")))
        self._chunks.append(part_bytes(kind, name, digest))

    def _session_bytes(self, kind: str, name: str, value: Any, error: Exception) -> bytes:
        path = error.path if isinstance(error, Undigestable) else ""
        reason = error.reason if isinstance(error, Undigestable) else one_line(error)
        self._notes.append(f"{kind} `{name}`{path} cannot be digested ({reason}): kept for this session only")
        return _for_session(value)

    def add_digest(self, kind: str, name: str, digest: str, text: str = "", where: str = "") -> None:
        """Add a part whose digest is known already."""
        self._add(KeyPart(kind, name, digest, text, where))

    def add_code(self, found: Fingerprint, chunk: bytes | None = None) -> None:
        """Add all parts of a fingerprint; they count together by its digest, of which `chunk` is made."""
        self._parts.extend(found.parts)
        self._chunks.append(chunk or part_bytes("code", "", found.digest))
        self._notes.extend(found.notes)

    def _add(self, part: KeyPart) -> None:
        self._parts.append(part)
        self._chunks.append(part_bytes(part.kind, part.name, part.digest))

    def build(self) -> CacheKey:
        """Return the key of the parts so far."""
        scope = "session" if self._notes else "disk"
        return _new(CacheKey, (combine(self._chunks), self._task, scope, tuple(self._parts), tuple(self._notes)))


def _for_session(value: Any) -> bytes:
    """Digest what can be digested of `value`, and take the rest by identity."""
    try:
        return b"session" + content_bytes(value, identity.identity_token)
    except Exception:  # its own methods fail: nothing of it can be used
        return b"session" + identity.identity_token(value)


class LateKey(NamedTuple):
    """The key of a call of which the digest is known, and the parts are made when somebody asks for them.

    Attributes:
        digest: As in the key.
        form: What it shares with other calls of the same code.
        inputs: The arguments by parameter name; none of them can change.
    """

    digest: str
    form: _Form
    inputs: Mapping[str, Any]

    def __call__(self) -> CacheKey:
        """Return the key."""
        digest, form, inputs = self
        parts = list(form.common.parts)
        parts[form.place : form.place] = [
            _new(KeyPart, ("argument", name, _digest_of(inputs[name]), short_text(inputs[name]), ""))
            for name in inputs
            if name not in form.ignored
        ]
        return _new(CacheKey, (digest, form.common.task, "disk", tuple(parts), ()))


class _Form(NamedTuple):
    """What the keys of a task have in common: all their bytes but for the digests of arguments, and the other parts."""

    code: Snapshot
    begin: bytes
    rest: tuple[tuple[str, bytes], ...]  # the parameters that count, each with the bytes behind its digest
    common: CacheKey  # of a call without arguments
    place: int  # where among its parts those of the arguments are
    ignored: frozenset[str]


def _digest_of(value: Any) -> str:
    """Digest a value of a type in `LEAVES`."""
    return xxh3_128_hexdigest(LEAVES[type(value)](value))


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

    __slots__ = (
        "_asked",
        "_bind",
        "_custom",
        "_depends",
        "_form",
        "_func",
        "_ignore",
        "_name",
        "_snapshot",
        "_version",
    )

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
        self._asked: Snapshot | None = None
        self._form: _Form | None = None

    @property
    def declared(self) -> tuple[Any, ...]:
        """What the user says that the result depends on: the version, if there is one, and all in `depends`."""
        return self._depends if self._version is None else (self._version, *self._depends)

    @property
    def state_names(self) -> frozenset[str]:
        """Captured names that are left out of the key because the function itself changes them."""
        known = self._snapshot
        return known.state if known is not None else frozenset()

    @property
    def captures(self) -> bool:
        """Whether the code refers to values that a run may change."""
        code = self._snapshot
        return code is not None and code.captures and self._custom is None

    def settle(self, key: CacheKey, store: Any) -> CacheKey:
        """Return the key to save a result under, now that the function has run on this thread and nothing else has.

        Captured values that have changed since the key was made are the function's state: from now on they are left
        out of its keys, in this process and (by a small entry in `store`) in later ones.

        Args:
            key: What `key` returned before the run.
            store: The `CacheStore` that the result is about to be saved in.

        Returns:
            The same key, or what it would have been had we known; the same when in doubt.
        """
        code = self._snapshot
        if code is None or not self.captures or key.scope != "disk":
            return key
        before = {part.name: part.digest for part in key.parts if part.kind not in _OF_CALL}
        changed = frozenset(name for name, now in code.captured().items() if before.get(name, now) != now)
        if not changed:
            return key
        state.learn(code.frame, changed)
        self._snapshot = None
        if key.scope == "disk":
            state.record(store, code.frame, self._name)
        return self._without_state(key)

    def _without_state(self, key: CacheKey) -> CacheKey:
        """Return a key as made before the run, but for the parts that are state."""
        before = {(part.kind, part.name): part for part in key.parts}
        fresh = self._code().fingerprint.parts
        parts = [before.get((part.kind, part.name)) for part in fresh]
        kept = [part for part in parts if part is not None]
        if len(kept) < len(fresh):
            return key  # the run has also brought in code that was not there before
        builder = KeyBuilder(self._name)
        builder.add_code(Fingerprint(combine([part_bytes(*part[:3]) for part in kept]), tuple(kept)))
        for part in key.parts:
            if part.kind in _OF_CALL:
                builder.add_digest(*part)
        return builder.build()

    def quick(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the digest of a call that was seen before, or None when only `key` can tell.

        Takes about a microsecond: compares by identity everything that the code refers to, then looks up the arguments
        by type and value.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            32 hex digits; none ("") where the code is what it was and the call was not seen before.
        """
        known = self._snapshot
        if known is None or not known.cheap or not known.holds():
            return None
        kinds: Any = tuple(map(type, args))
        call: Any = args
        if kwargs or not _PLAIN.issuperset(kinds):
            kinds, call = None, _typed_call(kinds, args, kwargs)
        seen = known.memo.get(kinds)
        return "" if seen is None else seen.get(call, "")

    def key(
        self,
        inputs: Mapping[str, Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        store: Any = None,
        *,
        unchanged: bool = False,
    ) -> CacheKey:
        """Return the key of a call; never raises.

        Args:
            inputs: Arguments by parameter name, defaults filled in; None to bind `args` and `kwargs` here.
            args: Positional arguments as given, to recognise the call next time.
            kwargs: Keyword arguments as given.
            store: A `CacheStore` to read from what earlier sessions found out about this function; it is asked once
                for each version: what its code says, and, if it has captured something mutable, what of that is state.
            unchanged: Whether `quick` has just found the code to be what it was.

        Returns:
            The key; of scope "session", with a note, where something could not be digested.
        """
        kwargs = kwargs or {}
        try:
            if inputs is None:
                inputs = self._bind(*args, **kwargs) if self._bind is not None else {**kwargs, "args": args}
            if self._custom is not None:
                return self._custom_key(self._custom, inputs)
            code = self._snapshot if unchanged else None
            if code is None:
                code = self._code(store)
            if code is not self._asked and store is not None:
                code = self._recalled(code, store)
        except Exception as error:
            return self._failed(f"the key could not be made ({one_line(error)})")
        key = self._made_of(code, inputs)
        if key.scope == "disk":
            self._remember(code, args, kwargs, key.digest)
        return key

    def _made_of(self, code: Snapshot, inputs: Mapping[str, Any]) -> CacheKey:
        builder = KeyBuilder(self._name)
        builder.add_code(code.fingerprint, code.chunk)
        for name, value in inputs.items():
            if name not in self._ignore:
                builder.add("argument", name, value)
        if self._version is not None:
            builder.add("version", "version", self._version)
        return builder.build()

    def late_key(self, inputs: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LateKey | None:
        """Return the key that `key` would, for a third of the time; None where only `key` can tell.

        `quick` has just found the code to be what it was.

        Args:
            inputs: Arguments by parameter name, defaults filled in; all of types in `LEAVES` that cannot change.
            args: Positional arguments as given, to recognise the call next time.
            kwargs: Keyword arguments as given.
        """
        code, form = self._snapshot, self._form
        if code is None or code is not self._asked:  # not the code that a store was asked about
            return None
        if form is None or form.code is not code:
            form = self._form = self._form_of(code, inputs)
            if form is None:
                return None
        data = form.begin
        for name, after in form.rest:
            value = inputs[name]
            data += xxh3_128_hexdigest(LEAVES[type(value)](value)).encode() + after  # as `_digest_of`, for less
        digest = xxh3_128_hexdigest(data)
        self._remember(code, args, kwargs, digest)
        return _new(LateKey, (digest, form, inputs))

    def _form_of(self, code: Snapshot, inputs: Mapping[str, Any]) -> _Form | None:
        """Return what disk keys of this code have in common, in the order in which `combine` takes the parts."""
        common = self._made_of(code, {})
        if self._custom is not None or common.scope != "disk":
            return None
        chunks = [(code.chunk, "")]
        place = len(code.fingerprint.parts)
        chunks += [(part_bytes(*part[:3]), "") for part in common.parts[place:]]
        chunks += [(part_head("argument", name), name) for name in inputs if name not in self._ignore]
        pieces = [("", KEY_FORMAT)]
        for chunk, name in sorted(chunks):
            last, before = pieces.pop()
            pieces.append((last, before + chunk))
            if name:
                pieces.append((name, b""))
        return _Form(code, pieces[0][1], tuple(pieces[1:]), common, place, self._ignore)

    def _code(self, store: Any = None) -> Snapshot:
        known = self._snapshot
        if known is None or not known.holds():
            notes = getattr(store, "notes", None)  # stores in memory, and those of other make, have none
            shelf = None if notes is None else Shelf(notes)
            known = self._snapshot = snapshot(self._func, self._depends, shelf)
        return known

    def _recalled(self, code: Snapshot, store: Any) -> Snapshot:
        """Return the code as it is seen with what earlier sessions found to be its state."""
        if code.captures and state.recall(store, code.frame, self._name):
            self._snapshot = None
            code = self._code(store)
        self._asked = code
        return code

    def _remember(self, code: Snapshot, args: tuple[Any, ...], kwargs: Mapping[str, Any], digest: str) -> None:
        kinds: Any = tuple(map(type, args))
        call: Any = args
        if kwargs or not _PLAIN.issuperset(kinds):
            kinds, call = None, _typed_call(kinds, args, kwargs)
            if call is None:
                return
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, (str, bytes)) and len(value) > _LONG:
                return
        seen = code.memo.get(kinds)
        if seen is None:
            if len(code.memo) >= _KINDS:
                code.memo.clear()
            seen = code.memo.setdefault(kinds, {})
        elif len(seen) >= _MEMO:
            seen.clear()
        seen[call] = digest

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
        builder.add_digest("code", self._name, xxh3_128_hexdigest(identity.identity_token(iter(()))))
        key = builder.build()
        return CacheKey(key.digest, key.task, "session", key.parts, (f"{why}: kept for this session only",))


def _typed_call(kinds: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return arguments as something that is equal only for the same types and values, or None."""
    if not kwargs and _NUMBERS.issuperset(kinds) and 0.0 not in args:  # 0.0 == -0.0
        return (kinds, args)
    out: list[Any] = [len(args)]
    for value in (*args, *kwargs.values()):
        typed = _typed(value)
        if typed is None:
            return None
        out.append(typed)
    return (*out, *kwargs)


def _typed(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN or (kind is float and value != 0.0):
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
