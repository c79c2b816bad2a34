"""Servers that this process starts and surely stops: free ports, waiting until one answers, and ending its tree."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

# Below the range from which the kernel takes ports of outgoing connections, so that none of them comes between.
_PORTS = range(20000, 30000)
_PR_SET_PDEATHSIG = 1


def free_ports(n: int) -> list[int]:
    """Return `n` different TCP ports that nobody listens on now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, k=len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            ports.append(port)
        if len(ports) == n:
            return ports
    raise RuntimeError(f"{n} free ports between {_PORTS.start} and {_PORTS.stop} are needed, got {len(ports)}.")


@contextmanager
def server(
    name: str, command: Sequence[str], env: Mapping[str, str], log: Path, healthy: Callable[[], bool], timeout_s: float
) -> Iterator[None]:
    """Run a server while the block lasts, from the moment it answers; then end it and everything it started.

    It ends with this block, with SIGTERM and SIGINT (which become exceptions), and with this process when that is
    killed (it hangs on the thread that called, so call it from one that stays).

    Parameters
    ----------
    log
        File that takes what the server prints; its last lines are quoted when it does not come up.

    Raises
    ------
    RuntimeError
        It ended by itself or did not answer within `timeout_s`.
    """
    tree: dict[int, psutil.Process] = {}
    with _sigterm_raises(), log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us first, and we end it in order
            preexec_fn=_die_with_parent,
        )
        try:
            deadline = time.monotonic() + timeout_s
            while not healthy():
                if process.poll() is not None or time.monotonic() > deadline:
                    ended = process.returncode is not None
                    why = f"ended with {process.returncode}" if ended else f"did not answer within {timeout_s:g} s"
                    raise RuntimeError(
                        f"{name} {why}. The end of {log}:\n{last_lines(log.read_text(errors='replace'))}"
                    )
                time.sleep(0.1)
            yield
        finally:
            _remember(process.pid, tree)
            _end(process, tree)


def last_lines(text: str, n: int = 20) -> str:
    """Return the last `n` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-n:])


def _remember(pid: int, tree: dict[int, psutil.Process]) -> None:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        tree.update({p.pid: p for p in [parent, *parent.children(recursive=True)]})


def _end(process: "subprocess.Popen[bytes]", tree: dict[int, psutil.Process]) -> None:
    # The head asks its children to go; who is left after that is killed, by the very processes noted before
    # (psutil compares start times, so a number that was given to someone else is left alone).
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    others = [p for p in tree.values() if p.pid != process.pid]
    _, left = psutil.wait_procs(others, timeout=3)
    for survivor in left:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(left, timeout=3)
    if process.poll() is None:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    with suppress(OSError, AttributeError):  # Linux only; elsewhere the block alone ends it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def environment(values: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    """Set variables of this process, and take some away, while the block lasts."""
    before = {name: os.environ.get(name) for name in (*values, *without)}
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
