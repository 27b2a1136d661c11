"""Doing the next thing while this one is in use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`make` of every item, in order; a thread makes the next one while the one before is used, so two are held at once.
    What was made comes before an error of the items."""
    with ThreadPoolExecutor(1) as pool:
        ready, found = None, iter(items)
        while True:
            try:
                coming = pool.submit(make, next(found))
            except StopIteration:
                break
            except Exception:
                if ready is not None:
                    yield ready.result()
                raise
            if ready is not None:
                yield ready.result()
            ready = coming
        if ready is not None:
            yield ready.result()
