"""The shared tier: results of a team, of CI or of a bundle, under any URL.

It is asked after the local store, and what it has is kept there; what is computed here is sent in the background. Only
results sealed by a key that the user trusts are opened (see `keyring`), and whatever is wrong is a miss. After some
faults in a row the tier is left alone for a while, so that a lost network costs a moment and not every call.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._util import format_duration, one_line
from nbflow.cache.blob import Damaged
from nbflow.cache.breaker import Breaker
from nbflow.cache.database import watch_forks
from nbflow.cache.envelope import blob_name, envelope_name, is_key, open_envelope, pack_up, sealed_by, with_info
from nbflow.cache.keyring import OWN, NamedKey, Trust, find_key, short_id
from nbflow.cache.remote import Place
from nbflow.cache.seal import FILE, Loaded, unseal, unwrap
from nbflow.cache.sender import DELAYS_S, Sender
from nbflow.cache.sweep import Swept, sweep
from nbflow.errors import CacheError

if TYPE_CHECKING:
    from nbflow.cache.disk import DiskTier

__all__ = ["SharedTier", "last_trouble"]

_NOTES = "shared.json"
_REASONS = 1024  # keys whose reason is remembered
# Trying again would change nothing about these.
_HOPELESS = (CacheError, ImportError, NotImplementedError)
_REFUSED = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, *_HOPELESS)


class _Paused(Exception):
    """Nothing is sent while the tier is left alone."""


class SharedTier:
    """Results under a URL; safe from any thread. None of its methods raises, but for its making and `prune`.

    Pickles as its address. Nothing is opened or imported before the first key is asked for.

    Args:
        url: A folder, a URL that fsspec knows, or a bundle (path or URL of a zip file, which is only read).
        options: Options of the file system, as fsspec takes them.
        trust: Keys whose results are opened: names in the key ring, paths of key files; None for the whole ring.
        key: Name or file of the key that seals what is sent; None for the user's own.
        readonly: Send nothing.
        tell: Called with one sentence, at most once for each kind of trouble, from any thread.
        clock: Where time comes from.
        flush_s: Seconds that `close` waits for what is still to be sent.
        delays_s: Seconds to wait before each further try to send.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        trust: Iterable[str] | None = None,
        key: str | None = None,
        readonly: bool = False,
        tell: Callable[[str], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        flush_s: float = 5.0,
        delays_s: tuple[float, ...] = DELAYS_S,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "options": None if options is None else dict(options),
            "trust": None if trust is None else tuple(trust),
            "key": key,
            "readonly": readonly,
            "flush_s": flush_s,
            "delays_s": delays_s,
        }
        self._place = Place(url, options)
        self.url = self._place.url
        self.readonly = readonly or self._place.readonly
        self._tell = tell
        self._told: set[str] = set()
        self._clock = clock
        self._breaker = Breaker(clock)
        self._sender = Sender(
            self._send, self._not_sent, lambda error: isinstance(error, (*_REFUSED, _Paused)), delays_s
        )
        self._lock = threading.Lock()
        self._trust: Trust | None = None
        self._seal: NamedKey | None = None
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._reasons: OrderedDict[str, str] = OrderedDict()
        self._left_alone: set[str] = set()  # keys under which somebody else's result is, which we cannot read
        self._broken: set[str] = set()  # keys whose files are to be written anew
        self._last_fault = ""
        self._folder: Path | None = None
        watch_forks(self)

    def before_fork(self) -> None:
        """Do nothing: what waits to be sent stays the parent's."""

    def after_fork(self) -> None:
        """Let go, in a forked child, of a lock that another thread of the parent may have held."""
        self._lock = threading.Lock()

    # -- reading

    def fetch(self, key: str, ttl: float | None) -> Loaded | None:
        """Return the trusted result under `key`, with its facts, or None; blocks while it is looked for.

        Args:
            key: Digest of the key.
            ttl: Seconds after which it is too old; None for its own limit.
        """
        if not is_key(key) or not self._breaker.lets_through():
            return None
        self._reasons.pop(key, None)
        try:
            loaded = self._look(key, ttl)
        except FileNotFoundError:
            loaded = None
        except Damaged as fault:
            self._broken.add(key)
            self._missed(key, "damaged", f"the shared result was not used: {fault}")
            loaded = None
        except Exception as error:
            self._fault(key, error)
            return None
        self._breaker.worked()
        self._counts["misses" if loaded is None else "hits"] += 1
        return loaded

    def _look(self, key: str, ttl: float | None) -> Loaded | None:
        data = self._place.read(envelope_name(key))
        sealer = sealed_by(data)
        known = self._trusted().get(sealer) or self._trusted(anew=True).get(sealer)
        if known is None:
            self._refuse(key, sealer)
            return None
        self._left_alone.discard(key)
        facts, sealed = open_envelope(known.signer, key, data)
        record = unseal(known.signer, key, sealed)
        limit = record.ttl if ttl is None else ttl
        if limit is not None and self._clock.wall() - record.created > limit:
            self._missed(key, "expired", f"the shared result is older than {format_duration(limit)}")
            return None
        if record.kind != FILE:
            return with_info(key, unwrap(known.signer, key, sealed), facts)
        try:
            with self._place.fetched(blob_name(known.id, record.result.hex()), facts["size"]) as view:
                return with_info(key, unwrap(known.signer, key, sealed, view), facts)
        except FileNotFoundError:
            raise Damaged("its blob is gone") from None

    def _refuse(self, key: str, key_id: str) -> None:
        self._refused[key_id] += 1
        self._left_alone.add(key)
        reason = (
            f"sealed by key {short_id(key_id)} that you do not trust; ask its owner for the key file and run "
            "`nbflow cache key add FILE`"
        )
        self._missed(key, "refused", f"the shared result was {reason}")
        self._say(f"refused {key_id}", f"Results in {self.url} were not used: they were {reason}.")

    def _trusted(self, *, anew: bool = False) -> Trust:
        """Return the keys to trust; read anew where a key may have been added since."""
        trust = self._trust
        if trust is None or anew:
            with self._lock:
                trust = self._trust = Trust(self._arguments["trust"])
            if (named := self._arguments["key"]) is not None:
                try:
                    trust.add(find_key(named))
                except CacheError as error:
                    trust.missing.append(str(error))
            for reason in trust.missing:
                self._say(reason, f"Results in {self.url} that this key sealed are not used. {reason}")
        return trust

    def why(self, key: str) -> str | None:
        """Return why the last `fetch` of `key` found nothing, where it is not just that there is none."""
        return self._reasons.get(key)

    # -- writing

    def offer(self, key: str, disk: DiskTier) -> None:
        """Have the new result under `key` sent, some time soon; comes back at once.

        Args:
            key: Digest of the key.
            disk: The local tier that has it.
        """
        if self.readonly or not is_key(key):
            return
        self._folder = disk.folder
        if key in self._left_alone or not self._breaker.is_closed():
            self._counts["dropped"] += 1
            return
        self._sender.put(key, disk)

    def _send(self, key: str, disk: DiskTier) -> None:
        if not self._breaker.lets_through():
            raise _Paused("the shared cache is left alone for now")
        loaded = disk.export(key)
        if loaded is None:  # evicted or cleared meanwhile
            return
        if self._seal is None:
            self._seal = find_key(self._arguments["key"] or OWN, make=self._arguments["key"] is None)
        envelope, parcel = pack_up(self._seal, loaded)
        if parcel.blob:
            name = blob_name(self._seal.id, parcel.name)
            if key in self._broken or not self._place.has(name):
                self._place.write(name, parcel.blob)
        self._place.write(envelope_name(key), [envelope])  # last, so that whoever finds it finds all of it
        self._broken.discard(key)
        self._counts["sent"] += 1
        self._breaker.worked()
        if self._counts["dropped"]:
            self._note("")

    def _not_sent(self, key: str, error: Exception | None) -> None:
        self._counts["dropped"] += 1
        remedy = "they are in the local cache, and are offered again when they are computed again"
        if error is None:
            text = "there was no time or room left to send them"
        elif isinstance(error, _Paused):
            text = str(error)
        elif isinstance(error, _REFUSED):  # says nothing about whether reading works
            text = one_line(error)
            self.readonly = True
            remedy = "nothing more is sent from here; set cache_shared_readonly = true if that is as it should be"
        else:
            text = one_line(error)
            self._fault(key, error)
        self._say("not sent", f"Some results were not sent to {self.url}: {text}; {remedy}.")
        self._note(text)

    # -- faults

    def _fault(self, key: str, error: Exception) -> None:
        self._counts["faults"] += 1
        self._last_fault = one_line(error)
        self._missed(key, "", f"the shared cache could not be asked ({self._last_fault})")
        if self._breaker.failed(at_once=isinstance(error, (*_HOPELESS, TimeoutError))):
            self._say(
                "paused",
                f"The shared cache {self.url} does not work ({self._last_fault}); it is left alone for "
                f"{format_duration(self._breaker.pause_s)}, and asked again from time to time.",
            )

    def _missed(self, key: str, what: str, reason: str) -> None:
        if what:
            self._counts[what] += 1
        with self._lock:
            self._reasons[key] = reason
            while len(self._reasons) > _REASONS:
                self._reasons.popitem(last=False)

    def _say(self, kind: str, message: str) -> None:
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        if self._tell is not None:
            self._tell(message)

    def _note(self, fault: str) -> None:
        """Leave word for `nbflow doctor` beside the local store; removed when sending works again."""
        if self._folder is None:
            return
        path = self._folder / _NOTES
        try:
            if fault:
                facts = {"url": self.url, "dropped": self._counts["dropped"], "fault": fault}
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                beside.write_text(json.dumps(facts), encoding="utf-8")
                os.replace(beside, path)
            else:
                path.unlink(missing_ok=True)
        except OSError:  # it is only a note
            return

    # -- knowing

    def stats(self) -> dict[str, Any]:
        """Return counts: hits, misses, what was sent, what waits, and what went wrong."""
        counts = {
            name: self._counts[name]
            for name in ("hits", "misses", "sent", "dropped", "faults", "damaged", "expired", "refused")
        }
        return {
            "url": self.url,
            "readonly": self.readonly,
            **counts,
            "refused_keys": dict(self._refused),
            "waiting": len(self._sender),
            "paused": not self._breaker.is_closed(),
            "last_fault": self._last_fault,
        }

    def check(self) -> str | None:
        """Ask for a key that nobody has; return what is wrong in words, or None where the place answers."""
        try:
            self._place.read(envelope_name("0" * 32))
        except FileNotFoundError:
            return None
        except Exception as error:
            return one_line(error)
        return None

    # -- upkeep

    def prune(self, max_bytes: int | None = None, *, older_s: float | None = None, dry_run: bool = False) -> Swept:
        """Remove results from the place, for everybody; blocks until that is done.

        What is past its own limit goes, and what was left over by a writer that was killed; other files than nbflow's
        stay. Whoever needs one of these results computes it again.

        Args:
            max_bytes: Keep at most so much: results that were computed first go first.
            older_s: Remove what was computed more than so many seconds ago too.
            dry_run: Only say what would be removed.

        Returns:
            How many results and bytes were removed, and are left.

        Raises:
            CacheError: The place is only read here, or what the file system says is wrong with it.
        """
        if self.readonly and not dry_run:
            raise CacheError(
                f"Nothing was removed from {self.url}, because it is only read here; remove results from where "
                "cache_shared_readonly is not set."
            )
        try:
            return sweep(self._place, self._clock.wall(), max_bytes, older_s, dry_run)
        except Exception as error:
            raise CacheError(f"The shared cache {self.url} could not be pruned: {one_line(error)}.") from error

    def close(self) -> None:
        """Send what is waiting, for a bounded time; it can be used again."""
        self._sender.close(self._arguments["flush_s"])

    def __repr__(self) -> str:
        return f"SharedTier({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self._arguments)


def _reopen(url: str, arguments: dict[str, Any]) -> SharedTier:
    return SharedTier(url, **arguments)


def last_trouble(folder: Path) -> dict[str, Any] | None:
    """Return what could not be sent lately from the local store in a folder: url, dropped, fault; None if all was."""
    try:
        facts = json.loads((folder / _NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
