"""The paper's promise on this machine: word errors of a compressed Whisper before and after a short tune.

    python benchmarks/promise.py [--json] [--model base] [--encoder 0.3 0.45 0.6] [--decoder 0.4] [--minutes 20]
                                 [--seed 0 1 2] [--conditions noise:10 telephone reverb:0.6] [--keep DIR]

Statistics, sensitivity and tuning see the two train sets alone; both whole dev sets are scored, with the paired
difference to the original and its 95 % interval. A seed's sizes share its statistics and its measured damage, not what
a tune prepares. --decoder takes so much from the decoder at every size; alone, it leaves the encoder whole.
--conditions: the dev sets once more under each of these. --keep: the tuned models.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from _speech import SPEECH, corpora

import adaptwin_widgets as aw
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--encoder", type=float, nargs="+", default=[])
    parser.add_argument("--decoder", type=float)
    parser.add_argument("--minutes", type=float, default=20, help="of tuning; 0: none")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--conditions", nargs="+", default=[], metavar="CONDITION")
    parser.add_argument("--keep", type=Path, metavar="DIR")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    decoder = {} if chosen.decoder is None else {"decoder": chosen.decoder}
    budgets = [{"encoder": size} | decoder for size in chosen.encoder] or [decoder or {"encoder": 0.45}]
    model, dev = aw.load(chosen.model), corpora("dev", chosen.speech)
    dev |= {f"{name} {c}": apply_condition(corpus, c) for c in chosen.conditions for name, corpus in dev.items()}
    original = {name: aw.evaluate(model, corpus) for name, corpus in dev.items()}
    result = {"model": chosen.model, "minutes": chosen.minutes, "original": row(original, original), "tries": []}

    def say(title: str, scores: dict) -> None:
        cells = (
            "{} {wer:5.2f} ({difference:+.2f}, {difference_low:+.2f} to {difference_high:+.2f})".format(name, **score)
            for name, score in scores.items()
        )
        if not chosen.json:
            print(f"{title:>60}  " + "   ".join(cells), flush=True)

    def scored(small: aw.Whisper) -> dict:
        return row({name: aw.evaluate(small, corpus) for name, corpus in dev.items()}, original)

    say(f"{chosen.model} original", result["original"])
    train = list(corpora("train", chosen.speech).values())
    for seed in chosen.seed:
        recipe = aw.Recipe(model, train, seed=seed)
        for budget in budgets:
            began = time.monotonic()
            plan = recipe.plan(**budget)
            small = recipe.compress(plan)
            found = {"seed": seed, **budget, "seconds_before_tuning": time.monotonic() - began}
            found |= {"share_removed": plan.reductions, "compressed": scored(small)}
            name = "-".join([f"seed-{seed}", *(f"{side}-{share:g}" for side, share in budget.items())])
            say(f"{name}, compressed", found["compressed"])
            if chosen.minutes:
                # Not recipe.tune, which would have at hand what an earlier size's minutes paid for.
                tuned = aw.tune(small, teacher=model, speech=train, minutes=chosen.minutes, settings=recipe.settings)
                if chosen.keep:
                    tuned.save_pretrained(chosen.keep / name)
                found |= {"tuning": tuned.notes["tuning"], "tuned": scored(tuned)}
                run = found["tuning"]
                pace = run["audio_seconds_seen"] / run["seconds"]
                say(f"{name}, tuned, {run['steps']} steps, {pace:.1f} × real time", found["tuned"])
            result["tries"].append(found)
    if chosen.json:
        print(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
