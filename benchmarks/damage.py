"""What the statistics are worth: damage of untuned small models with one thing at a time left out.

    python benchmarks/damage.py [--json] [--model tiny.en] [--windows 16] [--allocation measured energy]
                                [--only NAME ...]

Everything sees four fifths of the train speech (split by prompt); the damage is measured on the rest, on single
utterances of either set and on windows packed full of both: KL divergence of the next token's distribution from the
original's, nats a token, teacher-forced, and the share of positions at which the likeliest token changes; "rough": the
utterances of both, each through noise, a telephone or a room. The dev sets are not touched. The names in `LEFT_OUT`
are what is left out; "the stem whole" cuts the layers alone; "even" has one rank a layer, and so many heads fewer in
each of the encoder's; "damage measured in noise" has a third of the windows that choose ranks in noise too; "few clips"
has 24 utterances of the target alone to observe, with and without shrinkage. work: multiply-adds for 30 s of audio,
small over original.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _speech import SETS, SPEECH, held_out
from torch.nn import functional as F

import adaptwin_widgets as aw
from adaptwin_widgets.conditions import any_condition
from adaptwin_widgets.correction import corrected
from adaptwin_widgets.features import log_mel
from adaptwin_widgets.observe import teacher_tokens
from adaptwin_widgets.windows import ROUGH, pack

LEFT_OUT = {
    "ours": {},
    "no prompt positions": {"PROMPT": 0.0},
    "no shrinkage": {"shrink": lambda matrix, rows: matrix},
    "windows by their speech": {"evened": lambda weights: weights},
    "windows alike": {"evened": lambda weights: weights * weights.shape[1] / weights.sum(1, keepdim=True)},
}
PLANS = {"the stem whole": {"locked": ["stem"]}} | {
    f"even, {count} heads fewer": {"even": True, "fewer_heads": count} for count in range(3)
}
TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5)
NOISY = "damage measured in noise"
ROUGH_SEED = 11  # no seed that is tuned or calibrated with
FEWER = 40  # windows of each corpus, as the Studio observes
BUDGETS = ({"encoder": 0.3}, {"encoder": 0.45}, {"decoder": 0.3}, {"decoder": 0.5})
observe_module = importlib.import_module("adaptwin_widgets.observe")  # the package's name `observe` is the function


@contextmanager
def changed(module: object, changes: dict) -> Iterator[None]:
    """A module, or a class, with some of its parts put out of action."""
    before = {name: getattr(module, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def lost_early(ends: torch.Tensor) -> float:
    """The tokens of a text that are lost on average when it ends by chance; ends: [n], the chance before each token."""
    still = torch.cat([torch.ones(1), (1 - ends[:-1]).cumprod(0)])
    return float((still * ends * torch.arange(len(ends)).flip(0)).sum())


class Yardstick:
    """Held-out utterances with the original's answers. transcripts: what it wrote is put right by them first."""

    def __init__(
        self, model: aw.Whisper, corpora: Sequence[Sequence[Any]], count: int, transcripts: bool = False
    ):  # fmt: skip
        self.batches = []
        for corpus in corpora:
            order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(5))[:count].tolist()
            clips = [corpus[i] for i in order]
            texts = aw.transcribe(model, clips)
            prompt = model.prompt(language=texts[0].language)
            spoken = [t.tokens for t in texts]
            if transcripts:
                write = functools.partial(model.processor.tokenizer, add_special_tokens=False)
                right = [corrected(t.text, clip.text) for t, clip in zip(texts, clips, strict=True)]
                spoken = [write(f" {r}").input_ids if r else s for r, s in zip(right, spoken, strict=True)]
            for start in range(0, len(clips), 4):
                samples, some = [clip.samples() for clip in clips[start : start + 4]], spoken[start : start + 4]
                features = log_mel(samples, model.processor.feature_extractor, model.device)
                ids, weights = teacher_tokens(some, [prompt] * len(some), model)
                batch = (features, ids, weights.bool())
                self.batches.append((*batch, self._answers(model, *batch)))

    def surprise(self, small: aw.Whisper) -> float:
        """Nats a token of the texts and their ends, for a model that reads them aloud with the audio.

        At the temperature that suits the model best: what learns from texts becomes surer of all it says, which is no
        knowledge.
        """
        totals, count = torch.zeros(len(TEMPERATURES), dtype=torch.float64), 0
        for *batch, _ in self.batches:
            ours, (_, ids, chosen) = self._answers(small, *batch), batch
            following = F.pad(ids[:, 1:], (0, 1), value=small.config.eos_token_id)[chosen][:, None]
            said = [(ours / t).log_softmax(-1).gather(1, following).sum() for t in TEMPERATURES]
            totals -= torch.stack(said).double()
            count += len(ours)
        return float(totals.min()) / count

    def __call__(self, small: aw.Whisper) -> dict[str, float]:
        total = changed = count = lost = 0
        for *batch, theirs in self.batches:
            ours = self._answers(small, *batch)
            total += float((theirs.exp() * (theirs - ours)).sum())
            changed += int((ours.argmax(-1) != theirs.argmax(-1)).sum())
            count += len(ours)
            ends = ours[:, small.config.eos_token_id].exp().split(batch[2].sum(1).tolist())
            lost += sum(map(lost_early, ends))
        return {"kl": total / count, "changed": changed / count, "lost": lost / count}

    @staticmethod
    def _answers(whisper: aw.Whisper, features: torch.Tensor, ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = whisper.model.model(input_features=features, decoder_input_ids=ids, use_cache=False)
            return whisper.model.proj_out(hidden.last_hidden_state[chosen]).log_softmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--windows", type=int, default=16, help="held-out utterances of each corpus")
    parser.add_argument("--allocation", nargs="+", default=["energy", "measured"])
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    model = aw.load(chosen.model)
    train, rest = held_out(chosen.speech)
    yardsticks = {name: Yardstick(model, [corpus], chosen.windows) for name, corpus in zip(SETS, rest, strict=True)}
    rough = [[u.under(any_condition(u.id, ROUGH_SEED)) for u in corpus] for corpus in rest]
    yardsticks |= {
        f"{n}, rough": Yardstick(model, [clips], chosen.windows) for n, clips in zip(SETS, rough, strict=True)
    }
    yardsticks["full windows"] = Yardstick(model, [pack(corpus) for corpus in rest], chosen.windows // 4)
    few = [train[0][:24]]
    tries = [(name, train, changes, {}) for name, changes in LEFT_OUT.items()]
    tries += [(NOISY, train, {}, {})] if "measured" in chosen.allocation else []
    tries += [(f"{FEWER} windows", train, {}, {"windows": FEWER})]
    tries += [(f"few clips, {name}", few, LEFT_OUT[name], {}) for name in ("ours", "no shrinkage")]
    rows = []
    for title, speech, changes, options in tries:
        plans: dict[str, dict] = {title: {}} | (PLANS if title == "ours" else {})  # of the same statistics
        if chosen.only:
            plans = {name: how for name, how in plans.items() if name in chosen.only}
        if not plans:
            continue
        with changed(observe_module, changes):
            stats = aw.observe(model, speech, **options)
            twins = aw.spectra(model, stats)
            allocations = ["measured"] if title == NOISY else chosen.allocation
            for allocation in allocations if speech is train else ["energy"]:
                sensitivity = None
                if allocation == "measured":
                    share = ROUGH if title == NOISY else 0.0
                    sensitivity = aw.measure_sensitivity(model, twins, stats, speech, rough=share, cache=None)
                for name, budget in itertools.product(plans, BUDGETS):
                    if plans[name].get("fewer_heads") and "encoder" not in budget:
                        continue
                    plan = aw.RankPlan.for_budget(twins, sensitivity=sensitivity, **plans[name], **budget)
                    small = aw.compress(model, plan, stats, spectra=twins)
                    damage = {where: yardstick(small) for where, yardstick in yardsticks.items()}
                    work = plan.after.audio / plan.before.audio
                    rows.append({"statistics": name, "allocation": allocation, **budget, "work": work, **damage})
                    if not chosen.json:
                        ((side, share),) = budget.items()
                        cells = "  ".join(f"{n} {d['kl']:.4f} ({d['changed']:.1%})" for n, d in damage.items())
                        print(f"{name:28}{allocation:10}{side} -{share:.0%}  {cells}  work {work:.3f}", flush=True)
    if chosen.json:
        print(json.dumps({"model": chosen.model, "rows": rows}))


if __name__ == "__main__":
    main()
