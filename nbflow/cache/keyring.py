"""Named keys under which results are shared, and the question whose results may be opened.

A shared result says by which key it was sealed; it is opened only where that very key is at hand and trusted. Keys are
secrets in small text files: those of the *ring* lie beside the user's own key, others are named by their path. Python
itself has no public-key signatures, so whoever can check a seal can also make one: a key is for people (or machines)
who may run code as each other anyway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbflow.cache.trust import KEY_BYTES, Signer, key_file, make_signer, own_secret, publish
from nbflow.errors import CacheError

__all__ = ["OWN", "NamedKey", "Trust", "add_key", "find_key", "make_key", "ring", "ring_folder", "short_id"]

OWN = "own"
_LINE = re.compile(r"nbflow-key-1:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?P<secret>[0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = """\
# A key of nbflow. Whoever has it can make cached results that are opened by all who trust it,
# and opening a result can run code: hand it to people whose code you would run, and to nobody else.
"""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A key that seals shared results.

    Args:
        name: What people call it; "own" for the user's own.
        id: 16 hex digits that name it in what it sealed, and tell nothing about it.
        signer: Makes and checks seals.
        path: Its file.
    """

    name: str
    id: str
    signer: Signer
    path: Path


def short_id(key_id: str) -> str:
    """Return the beginning of an id, as people read it."""
    return f"{key_id[:8]}…"


def ring_folder() -> Path:
    """Return where the keys of the ring are, or will be."""
    return key_file().parent / "keys"


def make_key(name: str, path: Path | None = None) -> NamedKey:
    """Make a new key.

    Args:
        name: What to call it: letters, digits, `.`, `_`, `-`.
        path: Its file; None to put it into the ring.

    Raises:
        CacheError: The name is none, there is such a key already, or its file cannot be written.
    """
    _check_name(name)
    return _write(path or _ring_file(name), name, os.urandom(KEY_BYTES))


def add_key(file: Path, name: str | None = None) -> NamedKey:
    """Put a key that somebody handed over into the ring; what it sealed is trusted from now on.

    Args:
        file: The key file.
        name: What to call it; None for the name in the file.

    Raises:
        CacheError: The file holds no key, or another key of that name is there.
    """
    found, secret = _read(file)
    name = name or found.name
    _check_name(name)
    place = _ring_file(name)
    if place.exists():
        if _read(place)[0].id != found.id:
            raise CacheError(f"There is another key called {name!r} in {place}; choose another name with --name.")
        return _read(place)[0]
    return _write(place, name, secret)


def ring() -> list[NamedKey]:
    """Return the keys of the ring by name; files that hold no key are left out."""
    folder = ring_folder()
    found = []
    for path in sorted(folder.glob("*.key")) if folder.is_dir() else ():
        try:
            found.append(_read(path)[0])
        except CacheError:
            continue
    return found


def find_key(name: str, *, make: bool = False) -> NamedKey:
    """Return a key.

    Args:
        name: "own", a name in the ring, or the path of a key file (with a separator, or ending in `.key`).
        make: Make the file of a path, or the user's own key, where there is none.

    Raises:
        CacheError: There is no such key.
    """
    if name == OWN:
        if make:
            make_signer()
        own = _own_key()
        if own is None:
            raise CacheError(f"You have no key yet ({key_file()}); it is made when the first result is cached.")
        return own
    if not (os.sep in name or "/" in name or name.endswith(".key")):
        place = _ring_file(name)
        if not place.exists():
            known = ", ".join(key.name for key in ring()) or "none"
            raise CacheError(
                f"There is no key called {name!r}; known: {known}. Make it with `nbflow cache key new {name}`, or add "
                "the file that its owner gives you with `nbflow cache key add FILE`."
            )
        return _read(place)[0]
    path = Path(name).expanduser()
    if make and not path.exists():
        return make_key(_NAME_IN_PATH.sub("-", path.stem).strip("-.") or "key", path)
    return _read(path)[0]


_NAME_IN_PATH = re.compile(r"[^A-Za-z0-9._-]+")


class Trust:
    """The keys whose results are opened; the user's own is always one of them. Safe from any thread.

    Args:
        names: Names in the ring and paths of key files; None for the whole ring.

    Attributes:
        missing: What is wrong with the names that led to no key; their results are simply not trusted.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.missing: list[str] = []
        self._keys: dict[str, NamedKey] = {}
        if names is None:
            self._keys.update((key.id, key) for key in ring())
        for name in names or ():
            if name == OWN:
                continue
            try:
                self.add(find_key(name))
            except CacheError as error:
                self.missing.append(str(error))

    def get(self, key_id: str) -> NamedKey | None:
        """Return the trusted key of that id, or None."""
        found = self._keys.get(key_id)
        if found is None:
            own = _own_key()
            found = own if own is not None and own.id == key_id else None
        return found

    def add(self, key: NamedKey) -> None:
        """Trust one more key."""
        self._keys[key.id] = key

    def __iter__(self) -> Iterator[NamedKey]:
        return iter(self._keys.values())


def _own_key() -> NamedKey | None:
    secret = own_secret()
    return None if secret is None else _named(OWN, secret, key_file())


def _named(name: str, secret: bytes, path: Path) -> NamedKey:
    from hashlib import blake2b  # not needed before something is shared

    return NamedKey(name, blake2b(secret, digest_size=8, person=b"nbflow key id").hexdigest(), Signer(secret), path)


def _read(path: Path) -> tuple[NamedKey, bytes]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CacheError(f"The key file {path} cannot be read: {error}.") from None
    found = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    match = _LINE.fullmatch(found[0].strip()) if len(found) == 1 else None
    if match is None:
        raise CacheError(f"{path} is no key of nbflow; make one with `nbflow cache key new NAME`.")
    secret = bytes.fromhex(match["secret"])
    return _named(match["name"], secret, path), secret


def _write(path: Path, name: str, secret: bytes) -> NamedKey:
    key = _named(name, secret, path)
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        made = publish(path, f"{_HEADER}nbflow-key-1:{name}:{secret.hex()}\n".encode())
    except OSError as error:
        raise CacheError(f"The key file {path} cannot be made: {error}.") from None
    if not made:
        raise CacheError(f"There is a key in {path} already; remove it first if nobody needs what it sealed.")
    return key


def _ring_file(name: str) -> Path:
    return ring_folder() / f"{name}.key"


def _check_name(name: str) -> None:
    if name == OWN or _NAME.fullmatch(name) is None:
        raise CacheError(f"{name!r} is no name for a key; use letters, digits, '.', '_' and '-' (but not {OWN!r}).")
