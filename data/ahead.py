"""Doing the next thing while this one is in use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`make` of every item, in order; a thread makes the next one while the one before is used, so two are held at once."""
    with ThreadPoolExecutor(1) as pool:
        ready = None
        for item in items:
            coming = pool.submit(make, item)
            if ready is not None:
                yield ready.result()
            ready = coming
        if ready is not None:
            yield ready.result()
