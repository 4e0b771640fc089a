"""What a piece of code visibly takes from outside, and what no cache key counts: clock, network, chance, environment.

`%flow why` names it where a result came from the cache, for whoever wonders why the time stands still. Only well-known
names are recognised, in the code itself and not in what it calls; a name too few is no harm, as nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import CodeType

from nbflow.cache.source import facts_of

__all__ = ["unseen"]

Chain = tuple[str, ...]
_CLOCKS = frozenset({"now", "utcnow", "today"})
_DRAWS = frozenset({"choice", "normal", "permutation", "rand", "randint", "randn", "random", "sample", "uniform"})
_CLIENTS = frozenset({"aiohttp", "httpx", "requests", "urllib3"})


def _clock(chain: Chain) -> bool:
    return (len(chain) > 1 and chain[-1] in _CLOCKS) or chain in (("time", "time"), ("time", "localtime"))


def _network(chain: Chain) -> bool:
    return chain[-1] in ("urlopen", "urlretrieve") or (len(chain) > 1 and chain[0] in _CLIENTS)


def _database(chain: Chain) -> bool:
    return chain[-1].startswith("read_sql")


def _chance(chain: Chain) -> bool:
    return len(chain) > 1 and chain[-2] == "random" and chain[-1] in _DRAWS


def _environment(chain: Chain) -> bool:
    return chain[:2] in (("os", "environ"), ("os", "getenv")) or chain[0] in ("environ", "getenv")


_KINDS: tuple[tuple[str, Callable[[Chain], bool]], ...] = (
    ("the clock", _clock),
    ("the network", _network),
    ("a database", _database),
    ("random numbers", _chance),
    ("the environment", _environment),
)


def unseen(codes: Iterable[CodeType | None], advice: str) -> list[str]:
    """Return a line for each kind of thing that the code asks for and that does not count for its results.

    Args:
        codes: The code.
        advice: What to do about it.
    """
    chains = [chain for code in codes if code is not None for chain in facts_of(code).chains]
    return list(_lines(chains, advice))


def _lines(chains: list[Chain], advice: str) -> Iterator[str]:
    seeded = any(chain[-1] == "seed" for chain in chains)
    for what, asks in _KINDS:
        if asks is _chance and seeded:
            continue
        found = next((chain for chain in chains if asks(chain)), None)
        if found is not None:
            yield f"{what} (`{'.'.join(found)}`) cannot count, so what was got there before is given again; {advice}"
