"""The test speech of the benchmarks: one target speaker, and everyone else."""

from __future__ import annotations

from pathlib import Path

import adaptwin_widgets as aw

SPEECH = Path(__file__).parents[2] / "shared" / "speech"
SETS = {"target": "kathleen", "general": "librispeech"}


def corpora(split: str, folder: Path = SPEECH) -> dict[str, aw.Corpus]:
    """Both corpora of a split ("train", "dev") by the name of their set."""
    return {name: aw.Corpus.from_manifest(folder / part / f"{split}.jsonl") for name, part in SETS.items()}


def held_out(folder: Path = SPEECH) -> tuple[list[aw.Corpus], list[aw.Corpus]]:
    """Four fifths of both train sets, and the rest, which shares no prompt with them: for choosing, without the dev
    sets."""
    parts = [whole.split(0.8, by="prompt", seed=3) for whole in corpora("train", folder).values()]
    return [part[0] for part in parts], [part[1] for part in parts]
