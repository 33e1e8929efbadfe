"""Threads that each work for themselves, on a window or a batch of their own.

Threads that share every product wait for each other after each, which costs more than it brings where products are
small, and most where other programs want the same processors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


def how_many(device: torch.device, tasks: int) -> int:
    """How many threads share so many tasks: all of torch's on a CPU, one elsewhere."""
    return min(torch.get_num_threads(), tasks) if device.type == "cpu" else 1


@contextmanager
def workers(device: torch.device, tasks: int) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads for the work, and their number; on a CPU torch's threads are shared among them.

    >>> with workers(torch.device("cpu"), tasks=1) as (pool, number):
    ...     number, pool.submit(torch.get_num_threads).result() == torch.get_num_threads()
    (1, True)
    """
    threads, number = torch.get_num_threads(), how_many(device, tasks)
    begun = threading.Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the process's number at its first look: not after the next line
        torch.set_num_threads(max(1, threads // number))
        begun.wait()

    pool = ThreadPoolExecutor(number, "aw-work", begin)
    try:
        try:
            for _ in range(number):
                pool.submit(int)  # starts a thread each, for none gets further than the barrier
            begun.wait()
        except BaseException:
            begun.abort()  # not all could be started: those that wait are let go
            raise
        torch.set_num_threads(threads)  # what the workers set is in part the process's
        yield pool, number
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
