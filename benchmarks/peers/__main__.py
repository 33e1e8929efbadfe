"""The small encoders of the peers beside ours: same calibration speech, same counted size, same evaluation, no tuning.

    python benchmarks/peers [--json] [--model tiny.en] [--encoder 0.15 0.3 0.45 0.6] [--limit N] [--held-out]

Each method is written from its paper's description (`methods.py`). Word errors on both dev sets with the paired
difference to ours and its 95 % interval; negative would be better than ours. --held-out scores on a fifth of the train
speech that calibration then does not see, for choosing; the dev sets are for the report. int8 rounds the weights of the
whole encoder instead, once, and stands in its own row with its bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from methods import METHODS, Peers

import adaptwin_widgets as aw
from adaptwin_widgets.score import paired_difference

sys.path.append(str(Path(__file__).parents[1]))
from _speech import SPEECH, corpora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--encoder", type=float, nargs="+", default=[0.15, 0.3, 0.45, 0.6])
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--limit", type=int, help="only so many clips of each set")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    model = aw.load(chosen.model)
    train = corpora("train", chosen.speech)
    if chosen.held_out:
        halves = {name: corpus.split(0.8, by="prompt", seed=3) for name, corpus in train.items()}
        train, scored = ({name: pair[i] for name, pair in halves.items()} for i in (0, 1))
    else:
        scored = corpora("dev", chosen.speech)
    scored = {name: corpus.head(chosen.limit) for name, corpus in scored.items()}
    peers = Peers(model, list(train.values()))
    rows = []

    def score(title: str, small: aw.Whisper, parameters: int, fraction: float, ours: dict) -> dict:
        found = {name: aw.evaluate(small, corpus) for name, corpus in scored.items()}
        row: dict = {"method": title, "asked": fraction, "removed": 1 - parameters / peers.whole}
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
            print(f"{title:28} −{row['removed']:.1%}  {cells}", flush=True)
        return found

    score("original", model, peers.whole, 0.0, {})
    score("int8 weights, 1/4 of the bytes", *peers.int8(0.0), 0.0, {})
    for fraction in chosen.encoder:
        ours: dict = {}
        for title in chosen.method:
            found = score(title, *METHODS[title](peers, fraction), fraction, ours)
            ours = ours or found
    if chosen.json:
        print(json.dumps({"model": chosen.model, "rows": rows}))


if __name__ == "__main__":
    main()
