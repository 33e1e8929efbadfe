"""One tune from step to step: what moves, how it learns, when it looks at held-out speech, what it keeps on disk."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from adaptwin_widgets.anatomy import STEM, Twin, layer_of, pair_of
from adaptwin_widgets.distill import Batch, Lessons
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.files import write_atomically
from adaptwin_widgets.jobs import Cancelled, Job
from adaptwin_widgets.lora import adapt, settle
from adaptwin_widgets.model import TwinWhisperConfig
from adaptwin_widgets.settings import Settings
from adaptwin_widgets.vocabulary import shared
from adaptwin_widgets.whisper import Whisper

CHECKPOINT_SECONDS = 20.0  # a kill loses these, a step and a look at held-out speech
TUNING, WRITING = "Tuning", "Tuning: the original transcribes"  # what a job says of a run
MARGIN = 1.08  # a step, a check or a save may take this much longer than the last one did


@dataclass
class Progress:
    """Where a run is. history: one record a step or check; best: the held-out loss of the state that is kept;
    distance: from the original before the first step, where the learning rate depends on it."""

    steps: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    best: float = float("inf")
    distance: float | None = None
    scale: float = 1.0  # of the learning rate; halved when a run diverges
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class Run:
    """One run: the model being tuned, its optimiser, and the best state so far. alone: the (side, number) of the one
    layer that is tuned, towards the teacher's own (`Distance.local`); default: all."""

    def __init__(
        self, small: Whisper, lessons: Lessons, settings: Settings, file: Path | None, job: Job,
        watch: Callable[[Whisper], float] | None = None, alone: tuple[str, int] | None = None,
    ):  # fmt: skip
        torch.manual_seed(settings.seed)
        self.watch, self.small = watch, small
        self.settings, self.file, self.job, self.lessons = settings, file, job, lessons
        self.progress = Progress()
        self.pool: Executor | None = None  # for the windows of a step, while a run goes on
        self.words = shared(small, lessons.distance.teacher)
        self.network = copy.deepcopy(small.model).float().eval()  # Whisper has no dropout to switch on
        self.alone, self.layers = alone, [alone] if alone else compressed_layers(small.config)
        self.parameters = _trainable(self.network, self.layers, settings.lora, ends=alone is None)
        shares = {"encoder": 1.0, "decoder": 1.0 if alone else settings.decoder}  # alone it keeps to a layer's output
        groups = [
            {"params": [p for name, p in self.parameters.items() if f".{side}." in name], "share": share}
            for side, share in shares.items()
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0)  # `step` sets it
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.began_with = _fingerprint(self.best) if file else ""

    def go(
        self,
        began: float,
        limit: float | None,
        steps: int | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Train until the limit or until the job is cancelled; the best state is kept and saved."""
        before, saved = self.progress.seconds, time.monotonic()
        slowest = {"step": 0.0, "check": 0.0, "save": 0.0, "write": 0.0}

        def timed(name: str, work: Callable) -> None:
            start = time.monotonic()
            work()
            slowest[name] = max(0.7 * slowest[name], time.monotonic() - start)
            self.progress.seconds = before + time.monotonic() - began

        def spent() -> tuple[float, float]:
            """How much of how much: seconds or steps."""
            if limit is not None:
                return before + time.monotonic() - began, limit
            return self.progress.steps, steps or 0

        def room() -> bool:
            done, total = spent()
            if limit is not None:  # before the first step, a look at the held-out speech tells how long one takes
                step = slowest["step"] or slowest["check"]
                write = 0.0 if self.lessons.ready(self.progress.steps) else slowest["write"]
                done += MARGIN * (write + step + slowest["check"] + slowest["save"])
            return done < total

        def say(text: str) -> None:
            done, total = spent()
            self.job.update(min(done, total), total, text)

        def report() -> None:
            if on_progress:
                on_progress(self.progress)
            say(TUNING)

        try:
            if self.progress.steps == 0:
                self.peak(1)  # looks how far the original is, while no step has been made
                timed("check", self.check)
                report()
            while room():
                if not self.lessons.ready(self.progress.steps):
                    say(WRITING)
                    timed("write", functools.partial(self.lessons.write, self.progress.steps, self.job.silent()))
                done, total = spent()
                timed("step", functools.partial(self.step, done / total))
                if self.progress.steps % self.settings.check_every == 0 and room():
                    timed("check", self.check)
                if self.file and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    timed("save", self.save)
                    saved = time.monotonic()
                report()
        except Cancelled:
            self.progress.stopped = True
            if self.file:  # before the last check, which an unbroken run would not make here
                timed("save", self.save)
        if self.progress.history[-1].get("held_out") is None:
            timed("check", self.check)
        if self.file and not self.progress.stopped:
            timed("save", self.save)

    def step(self, fraction: float) -> None:
        """One batch, one update; learning rate: warm-up, then what is `left`."""
        s = self.settings
        # At this pace so many steps fit; a run of minutes begins with fewer, while its speech is made ready.
        expected = self.progress.steps / fraction if fraction else 1
        rate = self.peak(expected) * self.progress.scale * min(1.0, (self.progress.steps + 1) / max(1, s.warmup))
        rate *= left(min(1.0, fraction))
        batch = self.lessons.batch(self.progress.steps)
        local = fraction < s.layerwise and bool(self.layers)
        loss = self.learn(batch, local)
        whole = [self.parameters.values()]  # alone, no layer's gradient is cut short by another's
        for part in (layer_of(self.network, *layer).parameters() for layer in self.layers) if local else whole:
            torch.nn.utils.clip_grad_norm_(part, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.step()
        self.progress.steps += 1
        self.progress.audio_seconds += sum(sample.window.seconds for sample in batch.samples)
        self.progress.history.append({"step": self.progress.steps, "loss": loss, "rate": rate})

    def peak(self, steps: float) -> float:
        """The learning rate to warm up to in a run of so many steps."""
        distance = self.distance() if self.settings.learning_rate is None else 0.0
        return self.settings.rate(self.small.config.d_model, distance, steps)

    def distance(self) -> float:
        """How far the model was from the original before its first step, on held-out speech, whatever transcripts say
        and whatever is behind a clip: the mean of the terms by their weights, each near one for an untrained model."""
        if self.progress.distance is None:
            heard = self.lessons.distance.heard
            alike = [replace(b, said=torch.zeros_like(b.said), features=heard(b)) for b in self.lessons.held_out]
            mean = self.mean_loss(alike)
            self.progress.distance = mean if self.alone else mean / sum(self.settings.weights)
        return self.progress.distance

    def mean_loss(self, batches: Sequence[Batch]) -> float:
        """The distance on batches that nothing is learnt from, the mean over them."""
        with torch.no_grad():
            return sum(self.loss(batch, local=False).item() for batch in batches) / len(batches)

    def learn(self, batch: Batch, local: bool) -> float:
        """Set the gradients of the distance on a batch, and return it. Its windows are worked on at once, by a thread
        each, and added up in their order, so that every run of as many threads comes to the same."""
        pool = None if local or self.alone else self.pool
        parts = [batch] if pool is None else batch.parts()
        parameters = list(self.parameters.values())

        def one(part: Batch) -> tuple[float, tuple[Tensor | None, ...]]:
            loss = self.loss(part, local)
            return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)

        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for loss, gradients in map(one, parts) if pool is None else pool.map(one, parts):
            total += loss
            for p, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        return total

    def loss(self, batch: Batch, local: bool) -> Tensor:
        """The distance on a batch: of the whole, or of every layer alone."""
        distance = self.lessons.distance
        if local or self.alone:
            return distance.local(self.network, batch, self.layers)
        return distance.loss(self.network, batch, self.settings.weights, self.words)

    def check(self) -> None:
        """Held-out loss; keeps the state if it is the best, goes back and slows down if it has diverged."""
        loss = self.mean_loss(self.lessons.held_out)
        record: dict[str, float] = self.progress.history[-1] if self.progress.history else {"step": 0}
        record["held_out"] = loss
        if self.watch:
            record["wer"] = self.watch(Whisper(self.network, self.small.processor, self.small.source))
        if not self.progress.history:
            self.progress.history.append(record)
        if loss < self.progress.best:
            self.progress.best = loss
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        elif not loss < 2 * self.progress.best:  # catches not-a-number as well
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(self.best[name])
            self.optimiser.state.clear()
            self.progress.scale /= 2

    def best_model(self) -> nn.Module:
        """The tuned network with its best state."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.best[name])
        settle(self.network)
        for p in self.network.parameters():
            p.requires_grad_(True)
        self.network.model.encoder.embed_positions.requires_grad_(False)
        return self.network

    def summary(self) -> dict:
        """What the run did, for records and the command line."""
        checks = [h["held_out"] for h in self.progress.history if "held_out" in h]
        return {
            "steps": self.progress.steps,
            "seconds": self.progress.seconds,
            "audio_seconds_seen": self.progress.audio_seconds,
            "stopped": self.progress.stopped,
            "held_out_before": checks[0] if checks else None,
            "held_out_best": self.progress.best if checks else None,
            "dtype": str(self.lessons.distance.dtype).removeprefix("torch."),
            "seed": self.settings.seed,
            "learning_rate": self.peak(max(1, self.progress.steps)),
            "threads": torch.get_num_threads(),
        }

    def save(self) -> None:
        """Write the whole state of the run, atomically."""
        assert self.file is not None
        tensors: dict[str, Tensor] = {}
        for name, p in self.parameters.items():
            tensors[f"now.{name}"], tensors[f"best.{name}"] = p.detach(), self.best[name]
            for key, value in self.optimiser.state.get(p, {}).items():
                tensors[f"{key}.{name}"] = value
        state = {"progress": asdict(self.progress), "of": self._of()}
        tensors = {k: v.contiguous().cpu() for k, v in tensors.items()}
        write_atomically(self.file, safetensors.torch.save(tensors, metadata={"run": json.dumps(state)}))

    def _of(self) -> dict[str, Any]:
        """What a run's course depends on, as it is read back from JSON."""
        heard = _digest(json.dumps([[window.id for window in corpus.windows] for corpus in self.lessons.order.corpora]))
        return json.loads(json.dumps({"settings": asdict(self.settings), "speech": heard, "model": self.began_with}))

    def restore(self) -> None:
        """Go on from the checkpoint; raises InputError when there is none or it does not fit."""
        if self.file is None or not self.file.is_file():
            raise InputError(f"There is no checkpoint at {self.file} to resume from; start without resume.")
        try:
            with safetensors.safe_open(self.file, "pt") as opened:
                state = json.loads(opened.metadata()["run"])
            if "tuning" in self.small.notes:  # the run ended, and its result is in the model's place
                self.began_with = state["of"]["model"]
            if different := [key for key, value in self._of().items() if value != state["of"][key]]:
                what = "of another model" if different[0] == "model" else f"with other {different[0]}"
                raise InputError(f"{self.file} is of a tune {what}; give what it began with, or do not resume.")
            tensors = safetensors.torch.load_file(self.file)
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(tensors[f"now.{name}"])
                    self.best[name] = tensors[f"best.{name}"].to(p.device)
                    keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}.{name}" in tensors]
                    if keys:
                        self.optimiser.state[p] = {k: tensors[f"{k}.{name}"].to(p.device) for k in keys}
            self.progress = Progress(**{**state["progress"], "stopped": False})
        except (safetensors.SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{self.file} is no checkpoint of this model ({error}); start without resume.") from error


def left(fraction: float) -> float:
    """How much of the peak rate is left after this share of a run: a straight line to a tenth.

    >>> left(0.0), left(0.5), round(left(1.0), 3)
    (1.0, 0.55, 0.1)
    """
    return 1 - 0.9 * fraction


def _digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    """Tells one state of these parameters from another."""
    return _digest("".join(_digest(t.cpu().numpy().tobytes()) for t in tensors.values()))


def stored_progress(file: Path) -> dict[str, Any]:
    """Steps and seconds of a checkpoint; zero where a try was cut off before its first one."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            progress = json.loads(opened.metadata()["run"])["progress"]
        return {"steps": progress["steps"], "seconds": progress["seconds"]}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return {"steps": 0, "seconds": 0.0}


def compressed_layers(config: TwinWhisperConfig) -> list[tuple[str, int]]:
    """(side, number) of every layer with a compressed twin."""
    twins = [twin for twin in map(Twin.parse, config.ranks or ()) if twin.part != "stem"]
    return list(dict.fromkeys((twin.side, twin.layer) for twin in twins))


def _trainable(network: nn.Module, layers: Sequence[tuple[str, int]], lora: int, ends: bool) -> dict[str, nn.Parameter]:
    """Every parameter of these layers, or the low-rank changes of their matrices, and (ends) of a compressed stem and a
    factored embedding; nothing else moves."""
    network.requires_grad_(False)
    for side, number in layers:
        layer = layer_of(network, side, number)
        if lora:
            adapt(layer, lora)
        else:
            layer.requires_grad_(True)
    if ends and network.config.embedding_rank:
        network.model.decoder.embed_tokens.requires_grad_(True)
    if ends and not lora and str(STEM) in (network.config.ranks or {}):
        for module in pair_of(network, STEM).values():
            module.requires_grad_(True)
    return {name: p for name, p in network.named_parameters() if p.requires_grad}
