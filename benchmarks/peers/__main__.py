"""The small encoders of the peers beside ours: same calibration speech, same counted size, same evaluation.

    python benchmarks/peers [--json] [--model tiny.en] [--encoder 0.15 0.3 0.45 0.6] [--minutes M] [--limit N]
                            [--held-out]

Each method is written from what is published of it (`methods.py`), AdaPTwin from its abstract and a summary alone.
Word errors on both dev sets with the paired difference to ours and its 95 % interval; negative would be better than
ours. --minutes tunes every encoder for so long on the same speech, as ours is or by the method's own recipe.
--held-out scores on a fifth of the train speech that calibration then does not see, for choosing; the dev sets are
for the report. int8 rounds the weights of the whole encoder instead, once, and stands in its own row with its bytes.
--keep FOLDER holds what every row's model wrote, so that a run that was stopped goes on, and a single method can be
measured again (delete its files).
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from linear import merged
from methods import METHODS, TUNED, Peers

import adaptwin_widgets as aw
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.score import Score, paired_difference, score_texts

sys.path.append(str(Path(__file__).parents[1]))
from _speech import SPEECH, corpora, held_out


def kept(
    file: Path | None, make: Callable[[], tuple[aw.Whisper, int]], scored: dict
) -> tuple[dict[str, Score], int, dict | None]:
    """The scores of a model, its encoder's parameters and what its tune did, from a file if they are there."""
    if file is None or not file.is_file():
        small, parameters = make()
        tuning = small.notes.get("tuning")
        scores = {name: aw.evaluate(merged(small), corpus, language="en") for name, corpus in scored.items()}
        if file is not None:
            texts = {n: [[h.reference, h.hypothesis, h.id] for h in s.hypotheses] for n, s in scores.items()}
            write_atomically(file, json.dumps({"parameters": parameters, "tuning": tuning, "texts": texts}))
        return scores, parameters, tuning
    data = json.loads(file.read_text())
    columns = {name: list(zip(*rows, strict=True)) for name, rows in data["texts"].items()}
    return {name: score_texts(*three) for name, three in columns.items()}, data["parameters"], data.get("tuning")


def told(tuning: dict) -> str:
    """How many steps a tune made, and whether the held-out speech kept any."""
    before, best = tuning["held_out_before"], tuning["held_out_best"]
    outcome = f"held-out loss {before:.4f} to {best:.4f}" if best < before else "none kept"
    return f"   {tuning['steps']} steps, {outcome}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--encoder", type=float, nargs="+", default=[0.15, 0.3, 0.45, 0.6])
    parser.add_argument("--minutes", type=float, default=0, help="of tuning")
    parser.add_argument("--method", nargs="+", choices=list(METHODS), help="default: all that can be")
    parser.add_argument("--limit", type=int, help="only so many clips of each set")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.minutes and (fixed := set(chosen.method or ()) - set(TUNED)):
        parser.error(f"{', '.join(sorted(fixed))} cannot be tuned; leave it or --minutes out.")
    model = aw.load(chosen.model)
    train = list(corpora("train", chosen.speech).values())
    scored = corpora("dev", chosen.speech)
    if chosen.held_out:
        train, rest = held_out(chosen.speech)
        scored = dict(zip(scored, rest, strict=True))
    scored = {name: corpus.head(chosen.limit) for name, corpus in scored.items()}
    peers = Peers(model, train)
    rows = []

    def score(title: str, fraction: float, make: Callable[[], tuple[aw.Whisper, int]], ours: dict) -> dict:
        length = f" {chosen.minutes:g} min" if fraction and chosen.minutes else ""
        name = re.sub(r"[^a-z0-9]+", "-", f"{chosen.model} {fraction:g} {title}{length}".lower())
        found, parameters, tuning = kept(chosen.keep / f"{name}.json" if chosen.keep else None, make, scored)
        row: dict = {"method": title, "asked": fraction, "removed": 1 - parameters / peers.whole, "tuning": tuning}
        for name, s in found.items():
            difference, low, high = paired_difference(s, ours.get(name, s))
            row[name] = {"wer": s.wer, "low": s.wer_low, "high": s.wer_high, "to_ours": [difference, low, high]}
        rows.append(row)
        if not chosen.json:
            cells = "   ".join(
                f"{name} {row[name]['wer']:6.2f} ({row[name]['to_ours'][0]:+6.2f}, "
                f"{row[name]['to_ours'][1]:+.2f} to {row[name]['to_ours'][2]:+.2f})"
                for name in found
            )
            print(f"{title:28} −{row['removed']:.1%}  {cells}{told(tuning) if tuning else ''}", flush=True)
        return found

    def make(title: str, fraction: float) -> tuple[aw.Whisper, int]:
        small, parameters = METHODS[title](peers, fraction)
        return peers.tuned(small, chosen.minutes) if chosen.minutes else small, parameters

    score("original", 0.0, lambda: (model, peers.whole), {})
    if not chosen.minutes:
        score("int8 weights, 1/4 of the bytes", 0.0, lambda: peers.int8(0.0), {})
    for fraction in chosen.encoder:
        ours: dict = {}
        for title in chosen.method or (TUNED if chosen.minutes else METHODS):
            found = score(title, fraction, functools.partial(make, title, fraction), ours)
            ours = ours or found
    if chosen.json:
        print(json.dumps({"model": chosen.model, "rows": rows}))


if __name__ == "__main__":
    main()
