"""Choosing ranks: what the measurement of sensitivity takes and predicts, what an allocation and spectra take.

    python benchmarks/ranks.py [--json] [--model tiny.en] [--plans 20] [--skip NAME ...]

correlation: random plans (every twin of encoder and decoder loses a random share of its components, around a level that
is random too, and once with the same number of parameters in all), their damage as the planner
predicts it and by the energies alone, against the damage measured on held-out train speech (KL divergence of the next
token, nats a token): Spearman's rank correlation, and how far the prediction is off. sensitivity: seconds for every
twin alone and for many at once, nothing cached. allocation:
median milliseconds for a new budget, with what a slider has at hand, for the model and for whisper-small's shape.
spectra: every twin's weight-only values of whisper-small's shape (random weights) beside `torch.linalg.svdvals` of each
head's d x d product, and the largest difference relative to each head's largest value.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _speech import SPEECH, held_out
from damage import Yardstick
from scipy.stats import spearmanr
from transformers import WhisperConfig, WhisperForConditionalGeneration

import adaptwin_widgets as aw
from adaptwin_widgets.plan import RankPlan, shape_of
from adaptwin_widgets.planner import Planner
from adaptwin_widgets.removal import queue, remove
from adaptwin_widgets.sensitivity import Sensitivity
from adaptwin_widgets.spectra import Spectra, attention_weights, by_head

SMALL = WhisperConfig(
    vocab_size=51865, d_model=768, encoder_layers=12, decoder_layers=12, encoder_attention_heads=12,
    decoder_attention_heads=12, encoder_ffn_dim=3072, decoder_ffn_dim=3072,
)  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_plan(spectra: Spectra, level: float, generator: np.random.Generator) -> RankPlan:
    """Every twin loses up to twice `level` of its components, the weakest first."""
    ranks: dict[str, list[int]] = {}
    for twin, values in spectra.values.items():
        line = queue(Spectra(spectra.config, spectra.source, {twin: values}), (twin.side,))
        ranks |= remove(spectra, line, int(generator.uniform(0, 2 * level) * len(line.head)))
    return RankPlan(ranks, shape_of(spectra.config), spectra.source, method="random")


def correlation(
    spectra: Spectra,
    stats: aw.Statistics,
    model: aw.Whisper,
    sensitivity: Sensitivity,
    yardstick: Yardstick,
    plans: int,
) -> dict:
    planner, result = Planner(spectra, sensitivity), {}
    for title, spread in (("sizes apart", (0.05, 0.35)), ("one size", (0.2, 0.2))):
        generator, rows = np.random.default_rng(0), []
        for _ in range(plans):
            plan = random_plan(spectra, generator.uniform(*spread), generator)
            numbers = planner.numbers(plan)
            measured = yardstick(aw.compress(model, plan, stats, spectra=spectra))["kl"]
            rows.append(
                (numbers["damage"], 1 - numbers["energy"], 1 - numbers["model"][1] / numbers["model"][0], measured)
            )
        predicted, energy, size, truth = map(list, zip(*rows, strict=True))
        ratios = np.divide(truth, predicted)
        result[title] = {
            "measured damage": float(spearmanr(predicted, truth).statistic),
            "energy": float(spearmanr(energy, truth).statistic),
            "parameters removed": float(spearmanr(size, truth).statistic),
            "least and largest KL": [min(truth), max(truth)],
            "measured over predicted: least, median, largest": [float(x) for x in np.quantile(ratios, [0, 0.5, 1])],
        }
    return result


def allocation(spectra: Spectra, sensitivity: Sensitivity | None, repeats: int = 30) -> dict[str, float]:
    """Milliseconds of a new budget: the median, in a planner that has had one before."""
    planner, result = Planner(spectra, sensitivity), {}
    for name in ("encoder", "decoder", "model"):
        most = min(0.6, planner.limit(name))
        planner.budget(name, 0.1)
        times = [seconds(lambda f=f, name=name: planner.budget(name, f)) for f in np.linspace(0, most, repeats)]
        result[name] = 1000 * statistics.median(times)
    return result


def invented(spectra: Spectra) -> Sensitivity:
    """A sensitivity as large as a measured one, for the time it takes."""
    return Sensitivity({twin: [(0.01, 1e-3), (0.1, 1e-2), (0.5, 0.2)] for twin in spectra.values})


def plain(network: torch.nn.Module, part: str, layer: int, heads: int) -> list[np.ndarray]:
    """The leading dh singular values of every head's d x d products, query-key then value-output, the plain way."""
    wq, bq, wk, wv, _, wo, _ = attention_weights(network, part, layer)
    q, k, v = (by_head(w, heads) for w in (torch.cat([wq, bq[None]]), wk, wv))
    size = q.shape[-1]
    products = (q @ k.mT, v @ wo.unflatten(0, (heads, -1)))
    return [torch.stack([torch.linalg.svdvals(m)[:size] for m in product]).numpy() for product in products]


def spectra_time() -> dict:
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(SMALL).eval()
    whisper = aw.Whisper(network, None, "whisper-small's shape")
    ours: Spectra | None = None

    def make() -> None:
        nonlocal ours
        ours = aw.spectra(whisper)

    taken = statistics.median(seconds(make) for _ in range(3))
    assert ours is not None
    heads, worst, alone = SMALL.encoder_attention_heads, 0.0, 0.0
    chosen = [("encoder", 0), ("decoder", 5), ("cross", 11)]  # the plain way takes a minute a layer
    for part, layer in chosen:
        start = time.perf_counter()
        values = plain(network, part, layer, heads)
        alone += time.perf_counter() - start
        for kind, theirs in zip(("query_key", "value_output"), values, strict=True):
            found = next(v for t, v in ours.values.items() if (t.part, t.layer, t.kind) == (part, layer, kind))
            worst = max(worst, float((np.abs(found - theirs) / theirs[:, :1]).max()))
    layers = SMALL.encoder_layers + 2 * SMALL.decoder_layers
    whole = alone / len(chosen) * layers
    return {"seconds": taken, "plain_seconds": whole, "plain_layers_timed": len(chosen), "layers": layers,
            "ratio": whole / taken, "largest_relative_difference": worst}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--skip", nargs="+", default=[], choices=["correlation", "allocation", "spectra"])
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    result: dict = {"model": chosen.model, "threads": torch.get_num_threads()}

    def say(text: str) -> None:
        if not chosen.json:
            print(text, flush=True)

    if not {"correlation", "allocation"} <= set(chosen.skip):
        model = aw.load(chosen.model)
        train, rest = held_out(chosen.speech)
        stats = aw.observe(model, train)
        spectra = aw.spectra(model, stats)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            sensitivity = aw.measure_sensitivity(model, spectra, stats, train, cache=folder)
            result["sensitivity_seconds"] = time.perf_counter() - began
        say(f"sensitivity of {len(sensitivity.curves)} twins: {result['sensitivity_seconds']:.0f} s")
        if "correlation" not in chosen.skip:
            yardstick = Yardstick(model, rest, 16)
            result["correlation"] = correlation(spectra, stats, model, sensitivity, yardstick, chosen.plans)
            say(json.dumps(result["correlation"], indent=1))
        if "allocation" not in chosen.skip:
            small = aw.spectra(aw.Whisper(WhisperForConditionalGeneration(SMALL), None, "whisper-small's shape"))
            result["allocation_ms"] = {
                chosen.model: allocation(spectra, sensitivity),
                "small's shape": allocation(small, invented(small)),
            }
            say(json.dumps(result["allocation_ms"], indent=1))
    if "spectra" not in chosen.skip:
        result["spectra"] = spectra_time()
        say(json.dumps(result["spectra"], indent=1))
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
