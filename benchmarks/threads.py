"""What the short spin of torch's threads is worth, on a quiet machine and beside another program.

    python benchmarks/threads.py [--json] [--repeats 9]

The package has threads that wait for each other give up their processor after a short spin (`adaptwin_widgets/
__init__.py`; GNU OpenMP, so Linux). Milliseconds of 200 layer norms and of 20 products with weights, as base's encoder
does them, with torch's own spin and with ours, alone and beside one process that keeps one processor busy; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

SPINS = {"torch's own": {}, "ours": {"GOMP_SPINCOUNT": "1000"}}
WORK = """
import json, statistics, sys, time
import torch
from torch.nn import functional as F
x, weight = torch.randn(1500, 512), torch.randn(2048, 512)
short = x.bfloat16(), weight.bfloat16()
def norms():
    for _ in range(200): F.layer_norm(x, (512,))
def products():
    for _ in range(20): F.linear(*short)
def milliseconds(work):
    work()
    times = []
    for _ in range(int(sys.argv[1])):
        began = time.perf_counter(); work(); times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)
print(json.dumps({"norms": milliseconds(norms), "products": milliseconds(products)}))
"""
BUSY = "while True: pass"


def measured(environment: dict[str, str], repeats: int) -> dict[str, float]:
    plain = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", WORK, str(repeats)]
    return json.loads(subprocess.run(command, env=plain | environment, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = []
    for place in ("alone", "beside a busy process"):
        other = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) if place != "alone" else None
        try:
            for spin, environment in SPINS.items():
                rows.append({"place": place, "spin": spin, **measured(environment, chosen.repeats)})
        finally:
            if other is not None:
                other.kill()
    if chosen.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['place']:24}{row['spin']:14}norms {row['norms']:8.1f} ms   products {row['products']:8.1f} ms")
    for own, ours in zip(rows[::2], rows[1::2], strict=True):
        ratios = "   ".join(f"{part} {own[part] / ours[part]:.2f}" for part in ("norms", "products"))
        print(f"{own['place']}, torch's own over ours: {ratios}")


if __name__ == "__main__":
    main()
