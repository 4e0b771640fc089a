"""The shared tier: what one user computes another one finds, if they trust each other, whatever goes wrong between."""

from __future__ import annotations

import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from nbflow.cache.envelope import envelope_name
from nbflow.cache.keyring import add_key, find_key, make_key
from nbflow.cache.parts import CacheKey, KeyPart
from nbflow.cache.remote import Place
from nbflow.cache.shared import SharedTier, last_trouble
from nbflow.cache.store import CACHE_MISS, CacheStore
from nbflow.testing import FakeClock

LARGE = random.Random(7).randbytes(100 * 1024)  # which nothing compresses
NAMES = [f"{number:032x}" for number in range(1, 9)]


def key(name: str, **arguments: Any) -> CacheKey:
    parts = tuple(KeyPart("argument", each, str(value), str(value)) for each, value in arguments.items())
    return CacheKey(name, "f", parts=parts)


class Users:
    """Makes stores of several users; each has a home and a key ring of their own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self.url = str(folder / "shared")
        self.told: list[str] = []
        self.stores: list[CacheStore] = []

    def be(self, name: str) -> None:
        """Be another user from now on."""
        self.patch.setenv("NBFLOW_KEY_FILE", str(self.folder / name / "key"))

    def store(self, name: str, home: str | None = None, **options: Any) -> CacheStore:
        """Return a store of that user, who has come to work."""
        self.be(name)
        options = {"tell": self.told.append, "delays_s": (), **options}
        store = CacheStore(
            self.folder / name / (home or "cache"), shared=SharedTier(options.pop("url", self.url), **options)
        )
        self.stores.append(store)
        return store


def tier(store: CacheStore) -> SharedTier:
    assert isinstance(store.shared, SharedTier)
    return store.shared


def files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Users]:
    users = Users(tmp_path, monkeypatch)
    users.be("ann")
    users.be("bob")
    yield users
    for store in users.stores:
        store.close()


@pytest.fixture
def team(users: Users) -> Users:
    """Two users with a key in common."""
    users.be("ann")
    made = make_key("team")
    users.be("bob")
    add_key(made.path)
    return users


@pytest.mark.parametrize("place", ["folder", "memory"])
@pytest.mark.parametrize("value", [5, "text", [1, {"a": 2}], LARGE, [LARGE, bytearray(LARGE)]])
def test_what_one_computes_another_finds(team: Users, place: str, value: Any) -> None:
    """Small and large results travel with cost, time, cell and key parts, and are kept on the disk of the finder."""
    if place == "memory":
        team.url = f"memory://{team.folder.name}"
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0], x=1), value, cost_s=2.5, cell="cell 3")
    ann.close()
    assert tier(ann).stats()["sent"] == 1
    bob = team.store("bob")
    found = bob.fetch(key(NAMES[0], x=1))
    assert found is not None
    assert found.value == value
    assert found.saved_s == 2.5
    (entry,) = bob.entries()
    assert (entry.task, entry.cell, entry.cost_s, entry.tier) == ("f", "cell 3", 2.5, "disk")
    assert entry.parts == key("", x=1).parts
    bob.close()
    alone = CacheStore(team.folder / "bob" / "cache")
    assert alone.get(NAMES[0]) == value  # under bob's own key
    alone.close()
    assert team.told == []


def test_arrays_travel_as_buffers(team: Users) -> None:
    """An array comes back as one that can be written, without changing what is stored."""
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0]), numpy.arange(100_000.0))
    ann.close()
    bob = team.store("bob")
    found = bob.get(key(NAMES[0]))
    assert (found == numpy.arange(100_000.0)).all()
    found[0] = -1.0
    bob.close()
    assert CacheStore(bob.location).get(key(NAMES[0]))[0] == 0.0
    blob = files(f"{team.url}/blobs")[0]
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"x")
    assert team.store("bob", "other").get(key(NAMES[0])) is CACHE_MISS
    assert "its data were changed" in str(team.stores[-1].explain(key(NAMES[0])))


def test_nothing_is_touched_before_it_is_needed(team: Users) -> None:
    """Neither making a store nor closing it opens or makes anything."""
    team.store("ann", key="team").close()
    assert not Path(team.url).exists()


def test_equal_results_are_one_blob(team: Users) -> None:
    """A second key with the same result adds an envelope only."""
    ann = team.store("ann", key="team")
    for name in NAMES[:3]:
        ann.save(key(name), LARGE)
    ann.close()
    names = [path.relative_to(team.url).parts[0] for path in files(team.url)]
    assert sorted(names) == ["blobs", "keys", "keys", "keys"]


def test_what_a_stranger_sealed_is_refused_and_explained(users: Users) -> None:
    """It is counted, said once, named with what to do, and left as it is."""
    ann = users.store("ann")
    ann.save(key(NAMES[0]), [1])
    ann.save(key(NAMES[1]), [2])
    ann.close()
    before = [path.read_bytes() for path in files(users.url)]
    bob = users.store("bob")
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    assert bob.get(key(NAMES[1])) is CACHE_MISS
    users.be("ann")
    own = find_key("own").id
    reason = bob.explain(key(NAMES[0]))
    assert reason is not None
    assert f"sealed by key {own[:8]}… that you do not trust" in reason
    assert "nbflow cache key add" in reason
    assert tier(bob).stats()["refused_keys"] == {own: 2}
    assert len(users.told) == 1
    users.be("bob")
    bob.save(key(NAMES[0]), [3])
    bob.close()
    assert [path.read_bytes() for path in files(users.url)] == before
    assert bob.get(key(NAMES[0])) == [3]


def test_a_key_that_is_added_later_counts_at_once(users: Users) -> None:
    """Nobody has to open a new session after `key add`."""
    users.be("ann")
    made = make_key("team")
    ann = users.store("ann", key="team")
    ann.save(key(NAMES[0]), [1])
    ann.close()
    bob = users.store("bob")
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    add_key(made.path)
    assert bob.get(key(NAMES[0])) == [1]


def test_trust_can_be_narrowed(team: Users) -> None:
    """A list of keys replaces the ring."""
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0]), [1])
    ann.close()
    assert team.store("bob", trust=["own"]).get(key(NAMES[0])) is CACHE_MISS
    assert team.store("bob", "other", trust=["team"]).get(key(NAMES[0])) == [1]


class Trap:
    """Opening this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("padding", [b"", LARGE])
def test_what_is_not_trusted_is_never_unpickled(users: Users, tmp_path: Path, padding: bytes) -> None:
    """Planted by a stranger, renamed to look like a friend's, or moved from another key: a miss, and nothing runs."""
    trap = tmp_path / "sprung"
    mallory = users.store("mallory")
    mallory.save(key(NAMES[0]), (Trap(trap), padding))
    mallory.close()
    bob = users.store("bob")
    bob.save(key(NAMES[1]), ["mine", padding])
    bob.close()
    own = find_key("own").id
    planted = Path(users.url, envelope_name(NAMES[0]))
    data = planted.read_bytes()
    again = users.store("bob", "again")
    assert again.get(key(NAMES[0])) is CACHE_MISS
    users.be("mallory")
    forged = data.replace(bytes.fromhex(find_key("own").id), bytes.fromhex(own))
    assert forged != data
    planted.write_bytes(forged)
    users.be("bob")
    assert again.get(key(NAMES[0])) is CACHE_MISS
    assert "its seal is broken" in str(again.explain(key(NAMES[0])))
    planted.write_bytes(Path(users.url, envelope_name(NAMES[1])).read_bytes())
    assert again.get(key(NAMES[0])) is CACHE_MISS
    assert not trap.exists()
    assert again.get(key(NAMES[1])) == ["mine", padding]


def test_any_changed_byte_is_a_miss(team: Users) -> None:
    """Flipped bits and cut ends of envelope and blob are noticed, and mended by whoever computes next."""
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0]), LARGE)
    ann.close()
    for path in files(team.url):
        good = path.read_bytes()
        places = [*range(0, min(len(good), 200), 7), *range(200, len(good), 9001), len(good) - 1]
        damage = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in places]
        for number, bad in enumerate([*damage, b"", good[:-1], good + b"x"]):
            path.write_bytes(bad)
            bob = team.store("bob", f"{path.parent.parent.name}{number}")
            assert bob.get(key(NAMES[0])) is CACHE_MISS, (path, number)
            assert tier(bob).stats()["damaged"] + tier(bob).stats()["refused"] == 1
        path.write_bytes(good)
    path.write_bytes(good[:-1] + b"x")
    bob = team.store("bob", "mender", key="team")
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    assert "the shared result was not used" in str(bob.explain(key(NAMES[0])))
    bob.save(key(NAMES[0]), LARGE)
    bob.close()
    assert team.store("ann", "fresh").get(key(NAMES[0])) == LARGE


def test_a_missing_blob_is_a_miss(team: Users) -> None:
    """An envelope whose blob somebody deleted."""
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0]), LARGE)
    ann.close()
    files(f"{team.url}/blobs")[0].unlink()
    bob = team.store("bob")
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    assert "its blob is gone" in str(bob.explain(key(NAMES[0])))


def test_shared_results_expire(team: Users) -> None:
    """By the caller's limit and by their own, counted from when they were computed."""
    clock = FakeClock()
    ann = CacheStore(team.folder / "ann" / "cache", clock=clock, shared=SharedTier(team.url, clock=clock))
    team.be("ann")
    ann.save(key(NAMES[0]), [1], ttl=60.0)
    ann.save(key(NAMES[1]), [2])
    ann.close()
    clock.advance(61.0)
    again = CacheStore(team.folder / "ann" / "again", clock=clock, shared=SharedTier(team.url, clock=clock))
    assert again.get(key(NAMES[0])) is CACHE_MISS
    assert "older than 1 min" in str(again.explain(key(NAMES[0])))
    assert again.fetch(key(NAMES[1]), ttl=60.0) is None
    assert again.get(key(NAMES[1])) == [2]
    again.close()


def test_keys_that_are_no_digests_are_not_shared(team: Users) -> None:
    """A made-up key is no file name, and cannot lead out of the folder."""
    ann = team.store("ann", key="team")
    for name in ("../../x", "KEY", ""):
        ann.put(name, 1)
        assert ann.get(name) == 1
    ann.close()
    assert not Path(team.url).exists()


# --- faults -------------------------------------------------------------------------------------------------------


class Flaky(Place):
    """A place whose next operations fail."""

    def __init__(self, url: str, faults: int, error: type[Exception] = OSError) -> None:
        super().__init__(url)
        self.faults = faults
        self.error = error
        self.calls = 0

    def _trip(self) -> None:
        self.calls += 1
        if self.faults > 0:
            self.faults -= 1
            raise self.error("the line is dead")

    def read(self, name: str) -> bytes:
        self._trip()
        return super().read(name)

    def write(self, name: str, pieces: Any) -> None:
        self._trip()
        super().write(name, pieces)


def flaky(store: CacheStore, faults: int, error: type[Exception] = OSError) -> Flaky:
    place = Flaky(tier(store).url, faults, error)
    tier(store)._place = place
    return place


def test_sending_is_tried_again(team: Users) -> None:
    """After two faults the third try arrives, whole."""
    ann = team.store("ann", key="team", delays_s=(0.0, 0.0, 0.0))
    place = flaky(ann, 2)
    sent = threading.Event()
    original = tier(ann)._send

    def send(name: str, disk: Any) -> None:
        original(name, disk)
        sent.set()

    tier(ann)._sender._send = send
    ann.save(key(NAMES[0]), [1])
    assert sent.wait(60)
    ann.close()
    assert place.calls == 3
    assert team.told == []
    assert team.store("bob").get(key(NAMES[0])) == [1]


def test_sending_is_given_up_with_a_note(team: Users) -> None:
    """The task's result stays; it is said once, counted, and left for `nbflow doctor` until sending works again."""
    ann = team.store("ann", key="team", delays_s=(0.0,))
    place = flaky(ann, 10**6)
    ann.save(key(NAMES[0]), [1])
    ann.save(key(NAMES[1]), [2])
    ann.close()
    assert ann.get(key(NAMES[0])) == [1]
    assert tier(ann).stats()["dropped"] == 2
    assert len(team.told) == 1
    assert "were not sent" in team.told[0]
    assert "the line is dead" in team.told[0]
    note = last_trouble(team.folder / "ann" / "cache")
    assert note is not None
    assert note["dropped"] == 2
    assert not Path(team.url).exists()
    place.faults = 0
    ann.save(key(NAMES[2]), [3])
    ann.close()
    assert last_trouble(team.folder / "ann" / "cache") is None


def test_a_place_that_cannot_be_written_is_left_at_that(team: Users) -> None:
    """No right to write: said once with the way out, and nothing more is sent; reading goes on."""
    ann = team.store("ann", key="team")
    ann.save(key(NAMES[0]), [1])
    ann.close()
    bob = team.store("bob", key="team", delays_s=(0.0, 0.0))
    place = flaky(bob, 10**6, PermissionError)
    bob.save(key(NAMES[1]), [2])
    bob.close()
    bob.save(key(NAMES[2]), [3])
    bob.close()
    assert place.calls == 1
    place.faults = 0
    assert "cache_shared_readonly" in "".join(team.told)
    assert bob.get(key(NAMES[0])) == [1]
    assert tier(bob).stats()["readonly"] is True


def test_readonly_sends_nothing(team: Users) -> None:
    """As asked for."""
    ann = team.store("ann", key="team", readonly=True)
    ann.save(key(NAMES[0]), [1])
    ann.close()
    assert not Path(team.url).exists()


def test_without_the_key_to_seal_nothing_is_sent(users: Users) -> None:
    """A newcomer who lacks the team's key works on, and is told what is missing."""
    bob = users.store("bob", key="team")
    assert bob.get(key(NAMES[0])) is CACHE_MISS
    bob.save(key(NAMES[0]), [1])
    bob.close()
    assert bob.get(key(NAMES[0])) == [1]
    assert any("nbflow cache key add FILE" in text for text in users.told)
    assert not Path(users.url).exists()


def test_a_dead_tier_is_left_alone_for_a_while(team: Users) -> None:
    """Three faults in a row end the asking, with one word; it is tried again after a pause, longer each time."""
    clock = FakeClock()
    bob = team.store("bob", clock=clock)
    place = flaky(bob, 5)
    for name in NAMES:
        assert bob.get(key(name)) is CACHE_MISS
    assert place.calls == 3
    assert "could not be asked (OSError: the line is dead)" in str(bob.explain(key(NAMES[0])))
    assert len(team.told) == 1
    assert "left alone for 30.0 s" in team.told[0]
    clock.advance(31.0)
    bob.get(key(NAMES[0])), bob.get(key(NAMES[1]))
    assert place.calls == 4
    clock.advance(31.0)
    bob.get(key(NAMES[0]))
    assert place.calls == 4
    clock.advance(30.0)
    bob.get(key(NAMES[0]))
    assert place.calls == 5
    clock.advance(130.0)
    bob.get(key(NAMES[0])), bob.get(key(NAMES[1]))
    assert place.calls == 7
    assert tier(bob).stats()["paused"] is False
    assert len(team.told) == 1


@pytest.mark.parametrize(
    ("url", "said"), [("no-such-thing://x", "no-such-thing"), ("missing.zip", "There is no bundle")]
)
def test_an_address_that_cannot_work_is_said_at_once(users: Users, tmp_path: Path, url: str, said: str) -> None:
    """A missing library or bundle costs one attempt, and tasks go on."""
    bob = users.store("bob", url=url if "://" in url else str(tmp_path / url))
    bob.save(key(NAMES[0]), [1])
    assert bob.get(key(NAMES[1])) is CACHE_MISS
    bob.close()
    assert said in "".join(users.told)
    assert tier(bob).check() is not None


def test_what_waits_is_sent_at_close_or_given_up(team: Users) -> None:
    """Closing waits for a bounded time; what is stuck then is counted."""
    go, stuck = threading.Event(), threading.Event()
    ann = team.store("ann", key="team", flush_s=0.05)
    original = tier(ann)._send

    def send(name: str, disk: Any) -> None:
        stuck.set()
        go.wait(60)
        original(name, disk)

    tier(ann)._sender._send = send
    ann.save(key(NAMES[0]), [1])
    assert stuck.wait(60)
    ann.save(key(NAMES[1]), [2])
    assert tier(ann).stats()["waiting"] == 2
    tier(ann).close()
    assert tier(ann).stats()["dropped"] == 2
    assert "no time or room" in team.told[0]
    go.set()


def test_the_queue_is_bounded(team: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is not sent, and counted."""
    monkeypatch.setattr("nbflow.cache.sender._WAITING", 2)
    go = threading.Event()
    ann = team.store("ann", key="team")
    tier(ann)._sender._send = lambda name, disk: go.wait(60) and None
    for name in NAMES[:5]:
        ann.save(key(name), [1])
    assert tier(ann).stats()["dropped"] == 3
    go.set()
    ann.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_its_own(team: Users) -> None:
    """What waits in the parent is the parent's; the child starts anew."""
    go, stuck = threading.Event(), threading.Event()
    ann = team.store("ann", key="team")
    original = tier(ann)._send

    def send(name: str, disk: Any) -> None:
        stuck.set()
        go.wait(60)
        original(name, disk)

    tier(ann)._sender._send = send
    ann.save(key(NAMES[0]), [1])
    assert stuck.wait(60)
    child = os.fork()
    if child == 0:
        try:
            tier(ann)._sender._send = original
            ann.save(key(NAMES[1]), [2])
            ann.close()
            os._exit(0 if tier(ann).stats()["sent"] == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    ann.close()
    bob = team.store("bob")
    assert [bob.get(key(name)) for name in NAMES[:2]] == [[1], [2]]


def test_many_threads_of_two_users(team: Users) -> None:
    """They fetch and save the same keys at once; everybody gets the right value, and nothing is told."""
    names = [f"{number:032x}" for number in range(40)]
    stores = [team.store("ann", key="team"), team.store("bob", key="team")]
    wrong: list[object] = []
    start = threading.Barrier(6)

    def work(store: CacheStore) -> None:
        start.wait(60)
        for number, name in enumerate(names):
            expected = [number] * (number * 500)
            found = store.get(key(name))
            if found is CACHE_MISS:
                store.save(key(name), expected)
            elif found != expected:
                wrong.append((name, found))

    threads = [threading.Thread(target=work, args=(stores[number % 2],)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert wrong == []
    assert team.told == []
    late = team.store("bob", "late")
    assert [late.get(key(name)) for name in names] == [[number] * (number * 500) for number in range(40)]


def test_it_travels_as_its_address(team: Users) -> None:
    """A worker opens the same tier; no secret is in the pickle."""
    ann = team.store("ann", key="team", options={"anon": True})
    data = pickle.dumps(ann)
    assert find_key("team").path.read_text().split(":")[-1].strip() not in data.decode("latin-1")
    again = pickle.loads(data)
    assert repr(again.shared) == repr(ann.shared) == f"SharedTier({team.url!r})"
    assert again.shared.readonly is False
    again.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_a_lock_is_held(team: Users) -> None:
    """A child that was forked while another thread of its parent was at work here asks as if nothing were."""
    store = team.store("ann")
    with tier(store)._lock:
        child = os.fork()
        if not child:
            tier(store)._missed("k", "", "reason")
            os._exit(0 if tier(store).why("k") == "reason" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
