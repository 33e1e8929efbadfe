"""What it is worth to calibrate on rough speech: word errors of untuned small models, quiet and under conditions.

    python benchmarks/conditions.py [--json] [--model tiny.en] [--encoder 0.45] [--rough 0 0.25 0.5] [--clips 32]

Everything sees four fifths of the train speech (split by prompt), this share of its windows under a condition; word
errors are of the first clips of the rest. The dev sets are not touched. Ranks by energy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _speech import SETS, SPEECH, held_out

import adaptwin_widgets as aw
from adaptwin_widgets.speech import apply_condition

CONDITIONS = ("clean", "noise:10", "telephone", "reverb:0.6")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--encoder", type=float, default=0.45)
    parser.add_argument("--rough", type=float, nargs="+", default=[0.0, 0.25, 0.5], metavar="SHARE")
    parser.add_argument("--clips", type=int, default=32, help="of each set")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    model = aw.load(chosen.model)
    train, rest = held_out(chosen.speech)
    rows = []

    def measure(title: str, whisper: aw.Whisper) -> None:
        for condition in CONDITIONS:
            row: dict = {"model": title, "condition": condition}
            for name, corpus in zip(SETS, rest, strict=True):
                row[name] = aw.evaluate(whisper, apply_condition(corpus.head(chosen.clips), condition)).wer
            rows.append(row)
            if not chosen.json:
                print(f"{title:18}{condition:12}" + "  ".join(f"{n} {row[n]:6.2f}" for n in SETS), flush=True)

    measure("original", model)
    for share in chosen.rough:
        stats = aw.observe(model, train, rough=share)
        twins = aw.spectra(model, stats)
        plan = aw.RankPlan.for_budget(twins, encoder=chosen.encoder)
        measure(f"{share:.0%} rough", aw.compress(model, plan, stats, spectra=twins))
    if chosen.json:
        print(json.dumps({"model": chosen.model, "encoder": chosen.encoder, "clips": chosen.clips, "rows": rows}))


if __name__ == "__main__":
    main()
