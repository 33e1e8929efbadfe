"""Which number format is the fastest sound one on this machine: measured once a process, not guessed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.layers import attend

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOUND = 0.02  # largest relative error of a product that still counts as sound; bfloat16 rounds to 0.004
GAIN = 1.15  # a shorter format must be so much faster before its rounding is accepted
_AGREED: dict[str, dict[str, Any]] = {}  # by device: what `adopt` was given


def resolve_dtype(name: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """The number format called `name`; ``auto`` is the fastest sound one on the device.

    >>> resolve_dtype("bfloat16")
    torch.bfloat16

    Raises `InputError` for any other name.
    """
    if isinstance(name, torch.dtype) and name in DTYPES.values():
        return name
    if name == "auto":
        return fastest_dtype(device)
    if name not in DTYPES:
        raise InputError(f"dtype {str(name)!r} is unknown; give auto, float32, bfloat16 or float16.")
    return DTYPES[str(name)]


def fastest_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """The number format in which this device multiplies matrices of Whisper's shapes fastest, and soundly.

    >>> fastest_dtype("cpu") in (torch.float32, torch.bfloat16)
    True

    float32 against bfloat16, on accelerators also float16. A format whose products are off by more than 2 %,
    or that the device does not have, is left out. Takes about a tenth of a second, once a process.
    """
    if agreed := _AGREED.get(str(device)):
        return DTYPES[agreed["dtype"]]
    return _fastest_dtype(str(device))


def choices(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What was measured on this device, as JSON values for `adopt`.

    >>> sorted(choices("cpu"))
    ['device', 'dtype', 'fused', 'short']
    """
    dtype = fastest_dtype(device)
    name = str(dtype).removeprefix("torch.")
    fused, short = fused_attention(device, dtype), short_memory(device, dtype)
    return {"device": str(device), "dtype": name, "fused": fused, "short": short}


def adopt(choices: dict[str, Any]) -> None:
    """Take over another process's `choices`, so that both compute the same to the last bit."""
    _AGREED[choices["device"]] = choices


def _agreed(device: str | torch.device, dtype: torch.dtype, name: str) -> bool | None:
    found = _AGREED.get(str(device), {})
    return found[name] if DTYPES.get(found.get("dtype", "")) == dtype else None


def fused_attention(device: str | torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's fused attention beats attention in blocks (`engine.attend`) for an encoder's shapes.

    >>> fused_attention("cpu", torch.float32)
    True

    Always so on accelerators, and in float32; measured for 16-bit numbers on CPUs, where it depends on which
    matrix instructions there are. Takes about a tenth of a second, once a process.
    """
    if torch.device(device).type != "cpu" or dtype == torch.float32:
        return True
    agreed = _agreed(device, dtype, "fused")
    return _fused_attention(str(device), dtype) if agreed is None else agreed


def short_memory(device: str | torch.device, dtype: torch.dtype) -> bool:
    """Whether a decoder reads what it heard faster in 16 bits than in float32, one query against 1500 frames.

    >>> short_memory("cpu", torch.float32)
    False

    Always so on accelerators in a 16-bit format; measured on CPUs, a tenth of a second, once a process.
    """
    if dtype == torch.float32:
        return False
    agreed = _agreed(device, dtype, "short")
    if agreed is not None:
        return agreed
    return torch.device(device).type != "cpu" or _short_memory(str(device), dtype)


@lru_cache
def _fastest_dtype(device: str) -> torch.dtype:
    x = torch.randn(1500, 512, device=device, generator=_generator(device))
    weight = torch.randn(512, 512, device=device, generator=_generator(device)) / 512**0.5
    exact = F.linear(x, weight)
    best, limit = torch.float32, _seconds(lambda: F.linear(x, weight), device) / GAIN
    for dtype in (torch.bfloat16,) if device.startswith("cpu") else (torch.bfloat16, torch.float16):
        try:
            short = x.to(dtype), weight.to(dtype)
            error = (F.linear(*short).float() - exact).norm() / exact.norm()
            if not error < SOUND:  # also if it is not a number
                continue
            seconds = _seconds(partial(F.linear, *short), device)
        except RuntimeError:  # the device does not have this format
            continue
        if seconds < limit:
            best, limit = dtype, seconds
    return best


@lru_cache
def _fused_attention(device: str, dtype: torch.dtype) -> bool:
    q, k, v = torch.randn(3, 1, 2, 1500, 64, device=device, generator=_generator(device)).to(dtype)
    fused, blocks = (_seconds(partial(attend, q, k, v, f), device) for f in (True, False))
    return fused < blocks


@lru_cache
def _short_memory(device: str, dtype: torch.dtype) -> bool:
    # Larger than a core's own cache, as the memory of a batch is.
    q, k, v = (torch.randn(8, 6, n, 64, generator=_generator(device)) for n in (1, 1500, 1500))
    rows = v.transpose(2, 3).contiguous().flatten(0, 1)
    short_q, short_k, short_v = (x.to(dtype) for x in (q, k, v))

    def long() -> Tensor:
        weights = (k.flatten(0, 1) @ q.flatten(0, 1).transpose(1, 2)).softmax(1)
        return rows @ weights

    def short() -> Tensor:
        return F.scaled_dot_product_attention(short_q, short_k, short_v, scale=1.0)

    return _seconds(short, device) < _seconds(long, device)


def release(device: torch.device) -> None:
    """Give an accelerator's memory that nothing uses any more back, at the end of a stage: the next one's pieces are of
    other sizes, and torch would keep both.

    >>> release(torch.device("cpu"))
    """
    if device.type != "cpu":
        gc.collect()  # hooks and closures make cycles, and these hold tensors
        getattr(torch, device.type).empty_cache()


def _generator(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def _seconds(run: Callable[[], object], device: str, rounds: int = 5) -> float:
    """The shortest of some runs, after one to warm up; on a CPU the time of one thread that does it all alone.

    That is how `transcribe` works there, and a busy machine does not disturb a thread's own clock.
    """
    cpu = torch.device(device).type == "cpu"
    clock = time.thread_time if cpu else time.perf_counter

    def measure() -> float:
        times = []
        with torch.inference_mode():
            for _ in range(rounds + 1):
                start = clock()
                run()
                _wait(device)
                times.append(clock() - start)
        return min(times[1:])

    if not cpu:
        return measure()
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1, "probe", torch.set_num_threads, (1,)) as pool:
            return pool.submit(measure).result()
    finally:
        torch.set_num_threads(threads)  # what the thread set is in part the process's


def _wait(device: str) -> None:
    kind = torch.device(device).type
    if kind in ("cuda", "mps", "xpu"):
        getattr(torch, kind).synchronize()
