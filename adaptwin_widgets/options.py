"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="tiny.en or base, which need no network; a folder, a .pt file, a hub name.")]
Speech = Annotated[list[Path], typer.Option("--speech", help="Manifest, table or folder; the target speaker's first.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write the result.")]
Encoder = Annotated[float | None, typer.Option("--encoder", help="Fraction of the encoder to remove.")]
Decoder = Annotated[
    float | None, typer.Option("--decoder", help="Fraction of the decoder to remove (token embedding aside).")
]
Whole = Annotated[float | None, typer.Option("--model", help="Fraction of all parameters to remove.")]
Words = Annotated[
    str | None, typer.Option("--vocabulary", help="Keep one language's tokens only: en, or en:12000 to say how many.")
]
Of = Annotated[str, typer.Option("--of", help="What the fractions are of: parameters, multiply-adds, or time here.")]
Embedding = Annotated[int | None, typer.Option("--embedding", help="Rank of the token embedding.")]
Allocation = Annotated[str, typer.Option(help="measured (damage of every twin, measured once) or energy (quick).")]
Method = Annotated[
    str,
    typer.Option(
        help="ours; even: ranks without padding; uniform: the same share of every twin; adaptwin: the paper's recipe, "
        "reconstructed."
    ),
]
Windows = Annotated[
    int, typer.Option(min=1, help="Windows of 30 s of each corpus to observe; fewer are quicker and cost accuracy.")
]
Weight = Annotated[float, typer.Option("--target-weight", help="Share of the target speaker's speech.")]
Transcripts = Annotated[
    float, typer.Option(help="How much of what tuning teaches is the transcripts' word; the rest the original's.")
]
Seed = Annotated[int, typer.Option(help="For everything that is drawn at random.")]
Minutes = Annotated[float | None, typer.Option(help="Minutes to tune (in a study: per point).")]
Steps = Annotated[int | None, typer.Option(help="Steps to tune, instead of --minutes.")]
