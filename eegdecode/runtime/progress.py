"""Progress of long work: one bar on a terminal, plain lines elsewhere; both with rate and time left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import ray
from tqdm import tqdm

T = TypeVar("T")

PLAIN_EVERY_S = 5.0


def say(line: str) -> None:
    """Print one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Progress:
    """Counts finished units of `total` and shows them.

    Parameters
    ----------
    label
        What is being done.
    total
        Number of units.
    unit
        Name of one unit, in the plural.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._start = self._said = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}") if sys.stderr.isatty() else None

    def add(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` is shown behind them."""
        self.done += n
        if self._bar is not None:
            self._bar.set_postfix_str(note)
            self._bar.update(n)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY_S or self.done >= self.total:
            self._said = now
            seconds = max(now - self._start, 1e-9)
            rate = self.done / seconds
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            say(
                f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {left:.0f} s left"
                + (f", {note}" if note else "")
            )

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def gather(futures: Iterable["ray.ObjectRef[T]"], label: str, unit: str) -> list[T]:
    """Wait for Ray futures, showing how many are done, and return their values in the order given."""
    futures = list(futures)
    progress = Progress(label, len(futures), unit)
    for _ in _as_they_finish(futures):
        progress.add()
    progress.close()
    values: list[T] = ray.get(futures)
    return values


def _as_they_finish(futures: list["ray.ObjectRef[T]"]) -> Iterator["ray.ObjectRef[T]"]:
    waiting = list(futures)
    while waiting:
        finished, waiting = ray.wait(waiting, num_returns=1)
        ray.get(finished)  # raises here, with the worker's own message, instead of after all the others
        yield from finished
