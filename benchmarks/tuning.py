"""Throughput of tuning, everything in the time, beside transformers' own Trainer on the same model and loss.

    python benchmarks/tuning.py [--json] [--model base] [--encoder 0.45] [--audio-minutes 50] [--hours 8]
                                [--trainer-steps 4]

Ours: from the call of `tune` to its return, with the teacher's transcripts and states, features, optimiser, looks at
held-out speech, checkpoints and saving the model; on both train sets until so many minutes of audio were seen. --hours
repeats the target's speech until it is so long, which must not make a tune begin later. The
second figure is of the steps alone, which is what a longer run tends to. Trainer: float32, every utterance padded to
30 s on its own (the usual collator), the same compressed model, the same three distances to the same teacher, AdamW,
batches of as many windows; the teacher's transcripts and features are in its time, evaluation and saving are not. Both
in seconds of speech a second; the ratio is ours over Trainer's. A step of Trainer's takes long, so few are timed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from _speech import SPEECH, corpora
from torch.utils.data import Dataset

import adaptwin_widgets as aw
from adaptwin_widgets.distill import Batch, Distance, Sample
from adaptwin_widgets.windows import Window


class Utterances(Dataset):
    """Every utterance alone; transformers' collator pads each to 30 s."""

    def __init__(self, speech: list[aw.Corpus]):
        self.utterances = [u for corpus in speech for u in corpus]

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Any:
        return self.utterances[index]


class Distilling(transformers.Trainer):
    """Trainer with our distances for a loss; the teacher answers at every step, as it does in a script of one's own."""

    distance: Distance
    prompt: list[int]
    seconds = 0.0

    def compute_loss(self, model: torch.nn.Module, inputs: dict, **kwargs: Any) -> torch.Tensor:
        batch: Batch = inputs["batch"]
        self.seconds += sum(sample.window.seconds for sample in batch.samples)
        self.distance.forget()
        if not self.distance.variance:
            self.distance.calibrate([batch])
        return self.distance.loss(model, batch, aw.Settings().weights)


def repeated(corpus: aw.Corpus, hours: float) -> aw.Corpus:
    """The same speech again and again, each time as other utterances."""
    times = math.ceil(3600 * hours / sum(u.duration for u in corpus))
    return aw.Corpus([replace(u, id=f"{u.id}-{k}") for k in range(times) for u in corpus], corpus.name)


def ours(small: aw.Whisper, teacher: aw.Whisper, speech: list[aw.Corpus], minutes: float, folder: Path) -> dict:
    """Steps until so much audio was seen."""
    marks: list[tuple[float, float]] = []
    job = aw.Job()

    def watch(progress: Any) -> None:
        marks.append((time.perf_counter(), progress.audio_seconds))
        if progress.audio_seconds >= 60 * minutes:
            job.cancel()

    began = time.perf_counter()
    tuned = aw.tune(
        small, teacher=teacher, speech=speech, steps=10**6, checkpoint=folder / "run.tuning", on_progress=watch,
        settings=aw.Settings(), job=job,
    )  # fmt: skip
    tuned.save_pretrained(folder / "tuned")
    whole = time.perf_counter() - began
    run = tuned.notes["tuning"]
    steps = (marks[-1][1] - marks[1][1]) / (marks[-1][0] - marks[1][0])
    return {
        "audio_seconds": run["audio_seconds_seen"], "seconds": whole, "steps": run["steps"], "dtype": run["dtype"],
        "times_real_time": run["audio_seconds_seen"] / whole, "steps_alone_times_real_time": steps,
        "first_step_seconds": marks[1][0] - began, "speech_hours": sum(u.duration for c in speech for u in c) / 3600,
    }  # fmt: skip


def trainer(small: aw.Whisper, teacher: aw.Whisper, speech: list[aw.Corpus], steps: int, folder: Path) -> dict:
    """The same distances in transformers' Trainer."""
    network = small.model.float()
    trained = set(map(id, network.model.encoder.layers.parameters()))
    for p in network.parameters():
        p.requires_grad_(id(p) in trained)
    distance, data = Distance(teacher, torch.float32), Utterances(speech)
    prompt = tuple(teacher.prompt("en"))

    def collate(utterances: list) -> dict:
        windows = [Window((u,)) for u in utterances]
        texts = aw.transcribe(teacher, windows, dtype="float32")
        samples = [Sample(w, t.tokens, prompt) for w, t in zip(windows, texts, strict=True)]
        return {"batch": distance.batch(samples)}

    settings = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=aw.Settings().batch_size,
        learning_rate=1e-5,  # of its speed alone is told
        weight_decay=0.0, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    run = Distilling(model=network, args=settings, train_dataset=data, data_collator=collate)
    run.distance = distance
    began = time.perf_counter()
    run.train()
    whole = time.perf_counter() - began
    return {"audio_seconds": run.seconds, "seconds": whole, "steps": steps, "times_real_time": run.seconds / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--encoder", type=float, default=0.45)
    parser.add_argument("--audio-minutes", type=float, default=50)
    parser.add_argument("--hours", type=float, help="of the target's speech, repeated")
    parser.add_argument("--trainer-steps", type=int, default=4)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    teacher, speech = aw.load(chosen.model), list(corpora("train", chosen.speech).values())
    if chosen.hours:
        speech[0] = repeated(speech[0], chosen.hours)
    recipe = aw.Recipe(teacher, speech, allocation="energy", windows=8)  # the time of a step depends on sizes alone
    small = recipe.compress(recipe.plan(encoder=chosen.encoder))
    result: dict[str, Any] = {"model": chosen.model, "encoder": chosen.encoder, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        result["ours"] = ours(small, teacher, speech, chosen.audio_minutes, Path(folder))
        if chosen.trainer_steps:
            result["trainer"] = trainer(small, teacher, speech, chosen.trainer_steps, Path(folder))
            result["ratio"] = result["ours"]["times_real_time"] / result["trainer"]["times_real_time"]
    if chosen.json:
        print(json.dumps(result))
        return
    for name in ("ours", "trainer")[: 2 if chosen.trainer_steps else 1]:
        row = result[name]
        speech_minutes = row["audio_seconds"] / 60
        print(f"{name:8} {row['steps']:4} steps, {speech_minutes:5.1f} min of speech in {row['seconds']:6.0f} s: "
              f"{row['times_real_time']:5.1f} times real time")  # fmt: skip
    print(f"of {result['ours']['speech_hours']:.1f} h of speech, the first step is done after "
          f"{result['ours']['first_step_seconds']:.0f} s")  # fmt: skip
    print(f"ours, steps alone: {result['ours']['steps_alone_times_real_time']:.1f} times real time, in "
          f"{result['ours']['dtype']}; over trainer: {result.get('ratio', math.nan):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
