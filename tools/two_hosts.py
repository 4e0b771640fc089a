"""One map over two hosts, on one machine: two network namespaces that only a virtual cable connects.

    sudo python tools/two_hosts.py

The first namespace has the notebook's side and a Dask scheduler with one worker, the second has another worker that
reaches them by the network alone. Prints which host ran what, as JSON; exit code 0 if both did and every result, print
and shared value was right. Needs Linux, root, and `ip` (package iproute2). Takes both namespaces away at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

_HOSTS = (("nbflow-a", "10.213.77.1"), ("nbflow-b", "10.213.77.2"))  # names of namespaces, and their addresses
_PORT = 8786
_LIMIT_S = 60.0


def main() -> int:
    """Build the hosts, run the map in the first, and take them away."""
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 2
    with ExitStack() as stack:
        make_hosts(stack)
        first, address = _HOSTS[0]
        scheduler = f"tcp://{address}:{_PORT}"
        python = [sys.executable, "-m"]
        started = [
            start(stack, first, [*python, "distributed.cli.dask_scheduler", "--host", address, "--port", str(_PORT)])
        ]
        for name, own in _HOSTS:
            worker = [*python, "distributed.cli.dask_worker", scheduler, "--no-nanny", "--nthreads", "1"]
            options = ["--name", name, "--host", own, "--no-dashboard", "--memory-limit", "0"]
            started.append(start(stack, name, [*worker, *options]))
        command = inside(first, [sys.executable, os.path.abspath(__file__), "--map", scheduler])
        code = subprocess.run(command, check=False).returncode
        for log, process in started if code else ():
            log.seek(0)
            print(f"--- {process.args}, exit code {process.poll()}", log.read().decode(), sep="\n", file=sys.stderr)
        return code


def why_not() -> str | None:
    """Return what keeps this machine from having two hosts; None if nothing does."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None:
        return "two hosts need Linux and the command ip (package iproute2)"
    if os.geteuid() != 0:
        return "two hosts need root, to make network namespaces"
    probe = f"nbflow-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this system lets nobody make network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=False)
    return None


def make_hosts(stack: ExitStack) -> None:
    """Make two namespaces and a cable between them."""
    (first, _), (second, _) = _HOSTS
    for name, _ in _HOSTS:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # of a run that was killed
        ip("netns", "add", name)
        stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
    ip("-n", first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second)
    for name, address in _HOSTS:
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
        ip("-n", name, "link", "set", "cable", "up")
        ip("-n", name, "link", "set", "lo", "up")


def ip(*words: str) -> None:
    """Run a command of iproute2."""
    subprocess.run(["ip", *words], check=True)


def inside(host: str, command: list[str]) -> list[str]:
    """Return the command as it runs on a host."""
    return ["ip", "netns", "exec", host, *command]


def start(stack: ExitStack, host: str, command: list[str]) -> tuple[IO[bytes], subprocess.Popen[bytes]]:
    """Start a process on a host and return where it writes, and itself; it ends with the stack."""
    log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the stack
    stack.callback(log.close)
    process = subprocess.Popen(inside(host, command), stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return log, process


def run_map(scheduler: str) -> int:
    """Map over the cluster, as a notebook on the first host would."""
    import numpy

    from nbflow import map_tasks, session, task

    table = numpy.arange(1_000_000.0)  # travels once to each host

    @task
    def item(number: int, *, table: Any) -> tuple[str, float]:
        time.sleep(0.02)
        print(f"item {number}")
        return host_of_this_process(), float(table[number])

    with session(backend=scheduler) as context:
        workers = wait_for_workers(context.backends.get(scheduler))
        results = map_tasks(item, range(100), kwargs={"table": table}, chunksize=1)
    hosts = Counter(host for host, _ in results)
    right = [value for _, value in results] == list(range(100))
    print(json.dumps({"scheduler": scheduler, "workers": workers, "ran": dict(sorted(hosts.items())), "right": right}))
    return 0 if right and workers == len(_HOSTS) and set(hosts) == {name for name, _ in _HOSTS} else 1


def host_of_this_process() -> str:
    """Return the name of the network namespace that this process is in."""
    mine = os.stat("/proc/self/ns/net").st_ino
    return next((place.name for place in Path("/run/netns").iterdir() if place.stat().st_ino == mine), "outside")


def wait_for_workers(backend: Any) -> int:
    """Return the number of workers once both are there."""
    deadline = time.monotonic() + _LIMIT_S
    while backend.workers() < len(_HOSTS) and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(backend.workers())


if __name__ == "__main__":
    sys.exit(run_map(sys.argv[2]) if sys.argv[1:2] == ["--map"] else main())
