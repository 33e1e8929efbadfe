"""Ways to tune, held against each other on held-out train speech: the defaults with one thing at a time changed.

    python benchmarks/ablation.py [--json] [--model tiny.en] [--encoder 0.45] [--decoder 0] [--steps 120] [--only WAY]

Statistics and tuning see four fifths of both train sets (split by prompt); the rest is scored: KL divergence of the
next token from the original's (nats a token, --utterances of each set; "noise": 10 dB of it under both sets), the
surprise at their transcripts, written in the original's manner (nats a token, at the best temperature), how much of the
text is lost on average where every token is drawn (an early end, all else being right), word errors on all of it, and
the share of clips that are written otherwise with zeros in the features behind them, as faster-whisper has them.
Every way sees the same number of windows (--steps of the default batch) and says how long they took. "untuned" is where
all but the paper's recipe begin; that one (`method="adaptwin"`, a reconstruction) begins with its own, rougher model.
The dev sets are not touched.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from _speech import SETS, SPEECH, held_out
from _ways import (
    all_heard,
    as_long,
    averaged,
    compiled,
    cropped,
    mean_as_best,
    on_own_inputs,
    solved_anew,
    where_heard,
)  # fmt: skip
from damage import Yardstick, changed

import adaptwin_widgets as aw
from adaptwin_widgets import distill, features, samples
from adaptwin_widgets import run as runs
from adaptwin_widgets import settings as rates
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.run import Run
from adaptwin_widgets.tune import prepare
from adaptwin_widgets.windows import WINDOWS

OWN = "layers alone on the small model's inputs for a third, then the whole"
WAYS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "layers alone for a third, then the whole": {"layerwise": 1 / 3},
    "layers alone throughout": {"layerwise": 1.0},
    OWN: {"layerwise": 1 / 3},
    "LoRA of rank 16": {"lora": 16, "learning_rate": 1e-3},
    "encoder's output alone": {"weights": (0.0, 1.0, 0.0)},
    "layers' outputs alone": {"weights": (1.0, 0.0, 0.0)},
    "decoder's distribution alone": {"weights": (0.0, 0.0, 1.0)},
    "decoder's distribution ten times": {"weights": (0.5, 1.0, 10.0)},
    "four windows a step": {"batch_size": 4},
    "one window a step": {"batch_size": 1},
    "no rough windows": {"rough": 0.0},
    "a tenth rough": {"rough": 0.1},
    "half rough": {"rough": 0.5},
    "decoder as fast as the encoder": {"decoder": 1.0},
    "decoder at three tenths of the rate": {"decoder": 0.3},
    "encoder alone": {"decoder": 0.0},
    "no word of the transcripts": {"transcripts": 0.0},
    "a quarter of the transcripts' word": {"transcripts": 0.25},
    "the transcripts' word alone": {"transcripts": 1.0},
    "target's share 0.8": {"target_weight": 0.8},
    "target's share 0.3": {"target_weight": 0.3},
    "target's share 0.2": {"target_weight": 0.2},
}
PAPER = "the paper's recipe, reconstructed"
ZEROS = "the teacher hears zeros too"
EARLY = "ends and gaps as the teacher has them"
TARGET = "the target's transcripts alone"
SOLVED = "output matrices solved anew first"
PATCHES: dict[str, Any] = {
    EARLY: ((samples, {"SHORT": 0.0}), (distill, {"endless": lambda logits, *_: logits})),
    "a quarter of the learning rate": ((rates, {"RATE": rates.RATE / 4}),),
    "half the learning rate": ((rates, {"RATE": rates.RATE / 2}),),
    "twice the learning rate": ((rates, {"RATE": rates.RATE * 2}),),
    ZEROS: ((distill.Distance, {"heard": lambda self, batch, rows=slice(None): batch.features[rows]}),),
    "one learning rate however far": ((aw.Settings, {"rate": lambda self, width, *_: 0.04 / width}),),
    "the rate stays": ((runs, {"left": lambda fraction: 1.0}),),
    "the rate falls along a cosine": ((runs, {"left": lambda fraction: 0.55 + 0.45 * math.cos(math.pi * fraction)}),),
    "weights averaged over the last quarter": ((Run, {"step": averaged, "best_model": mean_as_best}),),
    OWN: ((distill.Distance, {"local": on_own_inputs}),),
    "clips cropped to their speech": (
        (distill.Distance, {"terms": cropped, "heard": all_heard}),
        (distill, {"encoder_input": as_long, "_off": where_heard}),
    ),
    "torch.compile": ((distill.Distance, {"states": compiled}),),
}
EVERY = (*WAYS, *PATCHES, TARGET, SOLVED, PAPER)


def zeros_behind(sounds: Sequence[Any], *how: Any) -> Any:
    return log_mel(sounds, *how, zeros=[True] * len(sounds))


def unwritten(corpus: aw.Corpus) -> aw.Corpus:
    return aw.Corpus([replace(u, text="") for u in corpus], corpus.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--encoder", type=float, default=0.45)
    parser.add_argument("--decoder", type=float, default=0.0)
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of each corpus, to observe")
    parser.add_argument("--allocation", default="measured", choices=["measured", "energy"])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    model, (train, rest) = aw.load(chosen.model), held_out(chosen.speech)
    yardsticks = {name: Yardstick(model, [corpus], chosen.utterances) for name, corpus in zip(SETS, rest, strict=True)}
    told = {n: Yardstick(model, [corpus], chosen.utterances, True) for n, corpus in zip(SETS, rest, strict=True)}
    noisy = Yardstick(model, [corpus.with_noise(10) for corpus in rest], 16)
    rows = []

    def score(title: str, small: aw.Whisper, seconds: float = 0.0) -> None:
        row: dict[str, Any] = {"way": title, "seconds": seconds}
        for (name, yardstick), corpus in zip(yardsticks.items(), rest, strict=True):
            found = aw.evaluate(small, corpus)
            with changed(features, {"log_mel": zeros_behind}):
                pairs = zip(found.hypotheses, aw.evaluate(small, corpus).hypotheses, strict=True)
            otherwise = sum(one.hypothesis != other.hypothesis for one, other in pairs) / len(corpus)
            surprise = told[name].surprise(small)
            row[name] = {**yardstick(small), "surprise": surprise, "wer": found.wer, "otherwise": otherwise}
        row["noise"] = noisy(small)
        rows.append(row)
        if not chosen.json:
            cells = "   ".join(
                f"{n} KL {row[n]['kl']:.4f}, surprise {row[n]['surprise']:.4f}, lost {row[n]['lost']:.2%}, "
                f"WER {row[n]['wer']:5.2f}, otherwise {row[n]['otherwise']:4.1%}"
                for n in yardsticks
            )
            print(f"{title:50}{cells}   noise KL {row['noise']['kl']:.4f}   {seconds:4.0f} s", flush=True)

    budget = {side: getattr(chosen, side) for side in ("encoder", "decoder") if getattr(chosen, side)}
    recipe = aw.Recipe(model, train, allocation=chosen.allocation, windows=chosen.windows, seed=chosen.seed)
    small = recipe.compress(recipe.plan(**budget))
    rough = recipe.compress(recipe.plan("adaptwin", **budget)) if PAPER in chosen.only else small
    score("original", model)
    score("untuned", small)
    for way in chosen.only:
        start, settings = small, aw.Settings(seed=chosen.seed, **WAYS.get(way, {}))
        if way == PAPER:
            score("the paper's recipe, untuned", rough)
            start, settings = rough, aw.Settings.adaptwin(seed=chosen.seed)
        steps = chosen.steps * aw.Settings().batch_size // settings.batch_size  # the same number of windows for all
        with ExitStack() as patched:
            for module, values in PATCHES.get(way, ()):
                patched.enter_context(changed(module, values))
            heard = [train[0], *map(unwritten, train[1:])] if way == TARGET else train
            shared = way not in (EARLY, TARGET, ZEROS)
            lessons = recipe.prepare(train, settings) if shared else prepare(model, heard, settings)
            if way == SOLVED:
                start = solved_anew(small, lessons)
            for step in range(steps):  # not in the time of the first way that shares these lessons
                lessons.write(step)
            began = time.perf_counter()
            tuned = aw.tune(start, teacher=model, speech=heard, steps=steps, settings=settings, lessons=lessons)
        score(way, tuned, time.perf_counter() - began)
    if chosen.json:
        print(json.dumps({"model": chosen.model, "encoder": chosen.encoder, "steps": chosen.steps, "rows": rows}))


if __name__ == "__main__":
    main()
