"""Doing the next thing while this one is in use: in order, one ahead and no more, errors where they belong."""

import threading
from collections.abc import Iterator

import pytest

from data.ahead import ahead


def test_everything_comes_in_order_and_one_is_made_ahead() -> None:
    begun: list[int] = []
    second = threading.Event()

    def make(item: int) -> int:
        begun.append(item)
        if item == 1:
            second.set()
        return 10 * item

    made = ahead(make, range(6))
    assert next(made) == 0
    assert second.wait(5) and begun == [0, 1]  # the next one, though nobody has asked for it, and none beyond
    assert list(made) == [10, 20, 30, 40, 50]
    assert list(ahead(make, [])) == []


def test_an_error_comes_in_its_place() -> None:
    made = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(made), next(made)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_what_was_made_is_not_lost_with_an_error_of_the_items() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("the planner failed")

    made = ahead(lambda item: 10 * item, items())
    assert [next(made), next(made)] == [10, 20]
    with pytest.raises(RuntimeError, match="the planner failed"):
        next(made)
