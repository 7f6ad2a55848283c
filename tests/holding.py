"""How many bytes of numpy's arrays are held at a moment."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def counted_arrays() -> Iterator[Callable[[], int]]:
    """Gives a function that says how many bytes of arrays made since are alive.

    Python's other memory is left out, since garbage, caches and threads of whatever ran before come and go in it.
    """
    only = [tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)]
    tracemalloc.start()
    try:
        yield lambda: sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(only).traces)
    finally:
        tracemalloc.stop()
