"""The paper's promise on this machine: word errors of a compressed Whisper before and after a short tune.

    python benchmarks/promise.py [--json] [--model base] [--encoder 0.45] [--decoder 0.4] [--minutes 20] [--seed 0 1 2]
                                 [--conditions noise:10 telephone reverb:0.6] [--keep DIR]

Statistics, sensitivity and tuning see the two train sets alone; both whole dev sets are scored, with the paired
difference to the original and its 95 % interval. Both --encoder and --decoder may be given. --conditions: the dev sets
once more under each of these. --keep: the tuned models.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from _speech import SPEECH, corpora

import adaptwin_widgets as aw
from adaptwin_widgets.plan import RankPlan
from adaptwin_widgets.score import Score, paired_difference
from adaptwin_widgets.speech import apply_condition


def row(scores: dict[str, Score], original: dict[str, Score]) -> dict:
    result = {}
    for name, score in scores.items():
        difference, low, high = paired_difference(score, original[name])
        result[name] = {
            "wer": score.wer, "low": score.wer_low, "high": score.wer_high,
            "difference": difference, "difference_low": low, "difference_high": high,
        }  # fmt: skip
    return result


def say(title: str, scores: dict) -> None:
    cells = (
        f"{name} {s['wer']:5.2f} ({s['difference']:+.2f}, {s['difference_low']:+.2f} to {s['difference_high']:+.2f})"
        for name, s in scores.items()
    )
    print(f"{title:>24}  " + "   ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--encoder", type=float)
    parser.add_argument("--decoder", type=float)
    parser.add_argument("--minutes", type=float, default=20, help="of tuning; 0: none")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--conditions", nargs="+", default=[], metavar="CONDITION")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    budget = {side: value for side in ("encoder", "decoder") if (value := getattr(chosen, side)) is not None}
    budget = budget or {"encoder": 0.45}
    model, dev = aw.load(chosen.model), corpora("dev", chosen.speech)
    dev |= {f"{name} {c}": apply_condition(corpus, c) for c in chosen.conditions for name, corpus in dev.items()}
    original = {name: aw.evaluate(model, corpus) for name, corpus in dev.items()}
    result = {"model": chosen.model, "budget": budget, "minutes": chosen.minutes, "original": row(original, original)}
    result["seeds"] = []
    if not chosen.json:
        say(f"{chosen.model} original", result["original"])
    for seed in chosen.seed:
        began = time.monotonic()
        recipe = aw.Recipe(model, list(corpora("train", chosen.speech).values()), seed=seed)
        plan: RankPlan = recipe.plan(**budget)
        small = recipe.compress(plan)
        found = {"seed": seed, "seconds_before_tuning": time.monotonic() - began, "share_removed": plan.reductions}
        found["compressed"] = row({n: aw.evaluate(small, c) for n, c in dev.items()}, original)
        if not chosen.json:
            say(f"seed {seed}, compressed", found["compressed"])
        if chosen.minutes:
            tuned = recipe.tune(small, minutes=chosen.minutes)
            found["tuning"] = tuned.notes["tuning"]
            found["tuned"] = row({n: aw.evaluate(tuned, c) for n, c in dev.items()}, original)
            if chosen.keep:
                tuned.save_pretrained(chosen.keep / f"seed-{seed}")
            if not chosen.json:
                say(f"tuned, {found['tuning']['steps']} steps", found["tuned"])
        result["seeds"].append(found)
    if chosen.json:
        print(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
