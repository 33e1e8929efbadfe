"""What another allocator of memory is worth to a tune: the step of one, with the system's own and with others in turn.

    python benchmarks/allocator.py [LIBRARY ...] [--json] [--model base] [--encoder 0.45] [--steps 20] [--rounds 3]

LIBRARY: a shared library that takes over malloc where it is loaded first (LD_PRELOAD, so Linux): its name where the
loader finds it, else its path. By default tcmalloc's and jemalloc's, those of them that are installed. Each round
runs every way in a process of its own, one after the other, so that a machine whose speed drifts is alike for all;
seconds of a step whose windows the original has answered before, the median of the last half of the steps, and the
ratio to the system's own in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from tempfile import TemporaryDirectory

from _speech import SPEECH, corpora

import adaptwin_widgets as aw

UTTERANCES = 24  # of each set: few windows, which are all known after a few steps
KNOWN = ("tcmalloc_minimal", "jemalloc")
SYSTEM = "the system's own"
WORK = """
import json, statistics, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from _speech import corpora
import adaptwin_widgets as aw
folder, name, speech, utterances, steps = sys.argv[2:]
train = [corpus[: int(utterances)] for corpus in corpora("train", Path(speech)).values()]
times = []
aw.tune(
    aw.load(folder), teacher=aw.load(name), speech=train, steps=int(steps),
    settings=aw.Settings(check_every=int(steps)), on_progress=lambda progress: times.append(time.perf_counter()),
)
seconds = [after - before for before, after in zip(times, times[1:])]
print(json.dumps(statistics.median(seconds[len(seconds) // 2 :])))
"""


def first(library: str | None) -> dict[str, str]:
    """The environment in which a process loads this library before all others."""
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return plain | ({"LD_PRELOAD": library} if library else {})


def seconds_a_step(library: str | None, *arguments: str) -> float:
    """Of a tune in a process of its own that loads this library first."""
    command = [sys.executable, "-c", WORK, str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, env=first(library), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", default=[name for name in map(find_library, KNOWN) if name])
    parser.add_argument("--model", default="base")
    parser.add_argument("--encoder", type=float, default=0.45)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    for library in chosen.library:
        # The loader would go on without it, with a word about it.
        done = subprocess.run([sys.executable, "-c", ""], env=first(library), stderr=subprocess.PIPE, text=True)
        if done.stderr:
            parser.error(f"{library} cannot be loaded first ({done.stderr.strip()}); give a library's path.")
    if not chosen.library:
        said = "Neither tcmalloc nor jemalloc is installed (Debian, Ubuntu: libtcmalloc-minimal4, libjemalloc2)."
        print(said, file=sys.stderr)  # what is printed with --json stays one object
    train = [corpus[:UTTERANCES] for corpus in corpora("train", chosen.speech).values()]
    ways: dict[str, str | None] = {SYSTEM: None} | {Path(library).name: library for library in chosen.library}
    found: dict[str, list[float]] = {way: [] for way in ways}
    with TemporaryDirectory() as folder:
        recipe = aw.Recipe(aw.load(chosen.model), train, allocation="energy", windows=8)  # sizes alone make the time
        recipe.compress(recipe.plan(encoder=chosen.encoder)).save_pretrained(folder)
        told = (folder, chosen.model, str(chosen.speech.resolve()), str(UTTERANCES), str(chosen.steps))
        for _ in range(chosen.rounds):
            for way, library in ways.items():
                found[way].append(seconds_a_step(library, *told))
    if chosen.json:
        print(json.dumps({"model": chosen.model, "encoder": chosen.encoder, "seconds": found}))
        return
    for way, seconds in found.items():
        ratios = [own / other for own, other in zip(found[SYSTEM], seconds, strict=True)]
        each = " ".join(f"{s:.2f}" for s in seconds)
        faster = f"{statistics.median(ratios):.2f} times as fast"
        print(f"{way:32}{statistics.median(seconds):6.2f} s a step ({each}), {faster}")


if __name__ == "__main__":
    main()
