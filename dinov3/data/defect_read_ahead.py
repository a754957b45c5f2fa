"""Reading files while something else is done with those read before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``read`` of each item, in their order. ``workers`` threads work ahead of who takes the results, by ``ahead``
    items at most; with 0, this thread reads each when it is asked for.

    Threads do, as decoding and resizing hold Python's lock for little of their time.
    """
    workers = min(workers, os.cpu_count() or 1)
    if not workers:
        yield from map(read, items)
        return
    items, waiting = iter(items), deque[Future[Result]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    try:
        waiting.extend(pool.submit(read, item) for item in islice(items, max(ahead, workers)))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(read, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
