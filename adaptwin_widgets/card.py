"""The model card that goes with a small model: what it was made from, how, how large it is and how well it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import WhisperConfig

from adaptwin_widgets.cost import Cost, sizes
from adaptwin_widgets.offline import OFFLINE

CARD = "README.md"  # where model hubs look for it
MARK = "<!-- written by adaptwin_widgets; delete this line to keep your own changes when the model is saved again -->"


def model_card(config: WhisperConfig, notes: Mapping[str, Any]) -> str:
    """The card of a compressed model as Markdown with the metadata block of model hubs.

    notes: what `compress`, `tune` and a study leave with a model: original, plan, tuning, scores.

    >>> from adaptwin_widgets.model import TwinWhisperConfig
    >>> print(model_card(TwinWhisperConfig(), {"original": "openai/whisper-tiny"}).splitlines()[1])
    library_name: transformers
    """
    original = str(notes.get("original", "a Whisper model"))
    lines = [*_metadata(original), "", MARK, "", f"# {_title(original)}, made smaller", ""]
    lines += [_how(original, notes), "", *_sizes(*sizes(config))]
    if scores := notes.get("scores"):
        lines += ["", *_scores(scores)]
    if tuning := notes.get("tuning"):
        lines += ["", _tuning(tuning)]
    lines += ["", *_use()]
    return "\n".join(lines) + "\n"


def is_ours(path: Path) -> bool:
    """Whether a card is one of these and nobody has taken it over."""
    return MARK in path.read_text(encoding="utf-8", errors="replace")


def _title(original: str) -> str:
    return f"Whisper {original}" if original in OFFLINE else Path(original).name


def _metadata(original: str) -> list[str]:
    """YAML for a hub; a folder's name is nobody else's business."""
    lines = ["---", "library_name: transformers", "pipeline_tag: automatic-speech-recognition"]
    named = f"openai/whisper-{original}" if original in OFFLINE else original
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named) and not Path(named).exists():
        lines.append(f"base_model: {named}")
    licence = "mit" if _is_openais(original) else "other"
    return [*lines, f"license: {licence}", "tags: [whisper, low-rank, adaptwin]", "---"]


def _is_openais(original: str) -> bool:
    return original in OFFLINE or original.startswith("openai/whisper")


def _how(original: str, notes: Mapping[str, Any]) -> str:
    plan = notes.get("plan") or {}
    budget = " and ".join(f"{name} −{float(value):.0%}" for name, value in (plan.get("budget") or {}).items())
    chosen = f"; ranks by {plan['method']}" if plan.get("method") else ""
    if words := plan.get("vocabulary"):
        chosen += f"; {words['size']} tokens kept, chosen for the language {words['language']!r}"
    if rank := plan.get("embedding"):
        chosen += f"; the token embedding at rank {rank}"
    licence = "The licence is that of the original; look it up before you pass the model on."
    if _is_openais(original):
        licence = "OpenAI's weights are under the MIT licence."
    return (
        f"Product twins of {_title(original)} (query with key, value with output, the feed-forward pair, the two "
        f"convolutions) with fewer ranks, after AdaPTwin (arXiv 2406.08904){f': {budget}' if budget else ''}{chosen}. "
        f"{licence}"
    )


def _sizes(before: Cost, after: Cost) -> list[str]:
    rows = ["| | original | this model | removed |", "|---|---:|---:|---:|"]
    for name in ("encoder", "decoder", "embedding", "model"):
        old, new = getattr(before, name), getattr(after, name)
        title = "whole model" if name == "model" else name
        rows.append(f"| {title}, million parameters | {old / 1e6:.2f} | {new / 1e6:.2f} | {1 - new / old:.1%} |")
    for name, title in (("audio", "30 s of audio"), ("token", "one token")):
        old, new = getattr(before, name), getattr(after, name)
        rows.append(f"| {title}, million multiply-adds | {old / 1e6:.1f} | {new / 1e6:.1f} | {1 - new / old:.1%} |")
    return rows


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = ["| speech | error rate, % | 95 % interval | utterances |", "|---|---:|---|---:|"]
    for name, s in scores.items():
        metric = str(s.get("metric", "wer")).upper()
        rows.append(
            f"| {name} | {metric} {s['wer']:.2f} | {s['wer_low']:.2f} to {s['wer_high']:.2f} | {s['utterances']} |"
        )
    return [*rows, "", "Corpus rate after Whisper's own text normaliser; bootstrap over utterances."]


def _tuning(tuning: Mapping[str, Any]) -> str:
    return (
        f"Tuned for {tuning['steps']} steps ({tuning['seconds'] / 60:.1f} minutes, "
        f"{tuning['audio_seconds_seen'] / 60:.0f} minutes of speech seen) with the original as the teacher."
    )


def _use() -> list[str]:
    return [
        "```python",
        "import adaptwin_widgets  # registers the model with transformers",
        "from transformers import pipeline",
        "# Reading a file needs ffmpeg; timestamps are what lets it be longer than 30 s.",
        'pipeline("automatic-speech-recognition", model="this folder")("speech.wav", return_timestamps=True)',
        "```",
    ]
