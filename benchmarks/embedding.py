"""The token embedding made smaller: word errors with a vocabulary cut for one language, a low rank, both, whole models.

    python benchmarks/embedding.py [--json] [--model base tiny.en] [--limit N] [--held-out] [--minutes 5]

Every row is counted, embedding included, and scored beside the original (paired difference with its 95 % interval). The
last rows remove a fraction of the whole model (--whole 0.4): the vocabulary first, the twins of encoder and decoder
supply the rest, untuned and tuned for so many minutes (--minutes 0: untuned only). --held-out scores on a fifth of the
train speech that calibration and tuning then do not see, for choosing; the dev sets are for the report.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _speech import SPEECH, corpora

import adaptwin_widgets as aw
from adaptwin_widgets.score import Score, paired_difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["base", "tiny.en"])
    parser.add_argument("--language", default="en")
    parser.add_argument("--size", type=int, nargs="*", default=[36_000, 30_000, 24_000, 16_000], help="tokens kept")
    parser.add_argument("--rank", type=float, nargs="*", default=[0.9, 0.75, 0.5], help="as a share of the width")
    parser.add_argument("--whole", type=float, nargs="*", default=[0.4], help="fraction of the whole model to remove")
    parser.add_argument("--whole-size", type=int, default=24_000, help="tokens kept in these rows")
    parser.add_argument("--minutes", type=float, default=5.0, help="of tuning")
    parser.add_argument("--allocation", default="measured", choices=["measured", "energy"])
    parser.add_argument("--limit", type=int, help="only so many clips of each set")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    train = corpora("train", chosen.speech)
    if chosen.held_out:
        halves = {name: corpus.split(0.8, by="prompt", seed=3) for name, corpus in train.items()}
        train, scored = ({name: pair[i] for name, pair in halves.items()} for i in (0, 1))
    else:
        scored = corpora("dev", chosen.speech)
    scored = {name: corpus.head(chosen.limit) for name, corpus in scored.items()}
    rows = [row for name in chosen.model for row in measure(name, train, scored, chosen)]
    if chosen.json:
        print(json.dumps({"rows": rows}))


def measure(name: str, train: dict[str, aw.Corpus], scored: dict[str, aw.Corpus], chosen: Any) -> list[dict]:
    """All rows of one model."""
    model = aw.load(name)
    recipe = aw.Recipe(model, list(train.values()), allocation=chosen.allocation)
    rows: list[dict] = []
    original: dict[str, Score] = {}

    def score(title: str, small: aw.Whisper, removed: float) -> None:
        found = {part: aw.evaluate(small, corpus, language=chosen.language) for part, corpus in scored.items()}
        original.update(found if not original else {})
        row: dict[str, Any] = {"model": name, "what": title, "model_removed": removed}
        for part, s in found.items():
            difference = paired_difference(s, original[part])
            row[part] = {"wer": s.wer, "low": s.wer_low, "high": s.wer_high, "to_original": list(difference)}
        rows.append(row)
        if not chosen.json:
            cells = "   ".join(
                "{} {:6.2f} ({:+6.2f}, {:+.2f} to {:+.2f})".format(part, row[part]["wer"], *row[part]["to_original"])
                for part in found
            )
            print(f"{name:8} {title:34} model −{removed:.1%}  {cells}", flush=True)

    def planned(title: str, **wish: Any) -> aw.Whisper:
        plan = recipe.plan(**wish)
        small = recipe.compress(plan)
        score(title, small, plan.reductions["model_reduction"])
        return small

    score("original", model, 0.0)
    language, width = chosen.language, model.config.d_model
    alone = aw.Recipe(model, [])  # without speech: the language's word list alone
    for size in chosen.size:
        plan = alone.plan(vocabulary=f"{language}:{size}")
        title = f"{size} tokens, by the word list alone"
        score(title, aw.compress(model, plan), plan.reductions["model_reduction"])
        planned(f"{size} tokens, by this speech too", vocabulary=f"{language}:{size}")
    for share in chosen.rank:
        planned(f"rank {round(share * width)} of {width}", embedding=round(share * width))
    if chosen.size and chosen.rank:
        rank, size = round(max(chosen.rank) * width), chosen.size[-1]
        planned(f"{size} tokens at rank {rank}", vocabulary=f"{language}:{size}", embedding=rank)
    for fraction in chosen.whole:
        small = planned(f"whole model −{fraction:.0%}", model=fraction, vocabulary=f"{language}:{chosen.whole_size}")
        if chosen.minutes and small.config.to_dict().get("ranks"):
            removed = rows[-1]["model_removed"]
            tuned = recipe.tune(small, minutes=chosen.minutes)
            score(f"whole model −{fraction:.0%}, {chosen.minutes:g} min tuned", tuned, removed)
    return rows


if __name__ == "__main__":
    main()
