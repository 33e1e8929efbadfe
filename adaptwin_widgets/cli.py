"""The command line: a thin edge over the functions a notebook calls.

Every command takes ``--json`` and then prints one JSON object on standard output and nothing else there.
What is wrong with the input goes to standard error in one sentence, with exit status 2.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import adaptwin_widgets as aw
from adaptwin_widgets.cost import reductions, sizes
from adaptwin_widgets.demo import copy_demo, demo_folder
from adaptwin_widgets.errors import InputError, refusal
from adaptwin_widgets.export import DTYPES, FILES, check_export
from adaptwin_widgets.files import require_file, write_atomically
from adaptwin_widgets.intake import evaluation_speech, speech_of, training_speech
from adaptwin_widgets.jobs import interruptible, with_bar
from adaptwin_widgets.options import (
    Allocation,
    Decoder,
    Embedding,
    Encoder,
    Json,
    Method,
    Minutes,
    Model,
    Of,
    Output,
    Seed,
    Speech,
    Steps,
    Transcripts,
    Weight,
    Whole,
    Windows,
    Words,
)  # fmt: skip
from adaptwin_widgets.pieces import executor_of
from adaptwin_widgets.settings import Settings, settings_for
from adaptwin_widgets.speech import apply_condition
from adaptwin_widgets.whisper import require_model_folder
from adaptwin_widgets.windows import WINDOWS

# Typer shows its usage errors as a box; this is their base class, wherever Typer keeps its click.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="adaptwin", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None, help="See where a Whisper model is redundant, make it smaller, adapt it to one speaker.",
)  # fmt: skip


def corpora(paths: list[Path], quiet: bool) -> list[aw.Corpus]:
    """Read all the speech to learn from."""
    return training_speech(paths, lambda: progress(quiet))


def progress(quiet: bool) -> aw.Job:
    """A bar on standard error; none where standard error is no terminal or the caller wants JSON."""
    return with_bar(disable=quiet or not sys.stderr.isatty())


def report(result: dict[str, Any], as_json: bool, sentence: str) -> None:
    """The result for a program, or a sentence for a person."""
    print(json.dumps(result) if as_json else sentence)


def budget_of(
    encoder: float | None, decoder: float | None, model: float | None, vocabulary: str | None, embedding: int | None
) -> dict[str, Any]:
    """What was asked for, of the budgets and of the embedding."""
    given = {"encoder": encoder, "decoder": decoder, "model": model, "vocabulary": vocabulary, "embedding": embedding}
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def spectra(
    model: Model,
    output: Output,
    speech: Speech = [],  # noqa: B006
    windows: Windows = WINDOWS,
    as_json: Json = False,
) -> None:
    """Write the singular values of every twin as a table (CSV)."""
    require_file(output)
    began, job = time.monotonic(), progress(as_json)
    sounds, whisper = corpora(speech, as_json), aw.load(model)
    stats = aw.observe(whisper, sounds, windows=windows, job=job) if sounds else None
    table = aw.spectra(whisper, stats, job=job).frame()
    write_atomically(output, table.to_csv(index=False))
    result = {"rows": len(table), "activation_aware": stats is not None, "output": str(output),
              "seconds": time.monotonic() - began}  # fmt: skip
    report(result, as_json, f"{len(table)} singular values of {model} are in {output}.")


@app.command()
def plan(
    model: Model,
    output: Output,
    speech: Speech = [],  # noqa: B006
    encoder: Encoder = None,
    decoder: Decoder = None,
    whole: Whole = None,
    vocabulary: Words = None,
    embedding: Embedding = None,
    method: Method = "ours",
    of: Of = "parameters",
    allocation: Allocation = "measured",
    target_weight: Weight = 0.5,
    windows: Windows = WINDOWS,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Choose the rank of every twin for a budget; without speech, from the weights alone."""
    require_file(output)
    began, sounds, whisper = time.monotonic(), corpora(speech, as_json), aw.load(model)
    recipe = aw.Recipe(
        whisper, sounds, target_weight=target_weight, allocation=allocation, windows=windows, seed=seed,
        job=progress(as_json),
    )  # fmt: skip
    chosen = recipe.plan(method=method, of=of, **budget_of(encoder, decoder, whole, vocabulary, embedding))
    damage = recipe.damage(chosen)[0] if sounds else None
    chosen.save(output)
    result = {**chosen.reductions, "damage": damage, "output": str(output), "seconds": time.monotonic() - began}
    told = "" if damage is None else f"; {damage:.2g} nats a token from what the original says"
    report(result, as_json, f"{chosen}{told}; the plan is in {output}.")


@app.command()
def compress(
    model: Model,
    speech: Speech,
    output: Output,
    encoder: Encoder = None,
    decoder: Decoder = None,
    whole: Whole = None,
    vocabulary: Words = None,
    embedding: Embedding = None,
    plan_file: Annotated[Path | None, typer.Option("--plan", help="Ranks from a plan instead of a budget.")] = None,
    method: Method = "ours",
    allocation: Allocation = "measured",
    target_weight: Weight = 0.5,
    windows: Windows = WINDOWS,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make a smaller model and save it."""
    began = time.monotonic()
    require_model_folder(output)
    sounds, budget = corpora(speech, as_json), budget_of(encoder, decoder, whole, vocabulary, embedding)
    if (plan_file is None) == (not budget):
        raise InputError("Give either a budget (--encoder, --decoder, --model, --vocabulary, --embedding) or --plan.")
    chosen, whisper = aw.RankPlan.load(plan_file) if plan_file else None, aw.load(model)
    recipe = aw.Recipe(
        whisper, sounds, target_weight=target_weight, allocation=allocation, windows=windows, seed=seed,
        job=progress(as_json),
    )  # fmt: skip
    chosen = chosen or recipe.plan(method=method, **budget)
    small = recipe.compress(chosen)
    small.save_pretrained(output)
    chosen = aw.RankPlan.from_dict(small.notes["plan"])  # of a model that was small already no twin has grown
    result = {**chosen.reductions, "output": str(output), "seconds": time.monotonic() - began}
    report(result, as_json, f"{model}: {chosen}; the model is in {output}.")


@app.command()
def tune(
    folder: Annotated[str, typer.Argument(help="The folder of a compressed model.")],
    teacher: Annotated[str, typer.Option(help="The original it was made from.")],
    speech: Speech,
    output: Output,
    minutes: Minutes = None,
    steps: Steps = None,
    target_weight: Weight = 0.5,
    transcripts: Transcripts = Settings.transcripts,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Tune a compressed model with its original as the teacher; Ctrl-C ends it with the best so far."""
    require_model_folder(output)
    place = output.resolve()  # "." has no name
    state = place.with_name(place.name + ".tuning")
    require_file(state)
    sounds, small, original = corpora(speech, as_json), aw.load(folder), aw.load(teacher)
    if resume and not state.is_file():
        print(f"There is no unfinished run at {state}; starting from the beginning.", file=sys.stderr)
    with interruptible(job := progress(as_json)):
        tuned = aw.tune(
            small, teacher=original, speech=sounds, minutes=minutes, steps=steps, checkpoint=state,
            resume=resume and state.is_file(), job=job,
            settings=settings_for(small, target_weight=target_weight, transcripts=transcripts, seed=seed),
        )  # fmt: skip
    tuned.save_pretrained(output)
    config, run = tuned.config, tuned.notes["tuning"]
    result = {**reductions(*sizes(config)), **run, "output": str(output)}
    sentence = f"{run['steps']} steps in {run['seconds']:.0f} s; held-out loss {run['held_out_before']:.3f} to "
    sentence += f"{run['held_out_best']:.3f}; the model is in {output}."
    report(result, as_json, f"Stopped after {sentence} To go on: --resume." if run["stopped"] else sentence)


@app.command()
def evaluate(
    model: Model,
    speech: Annotated[Path, typer.Option("--speech", help="Manifest, table or folder to evaluate on.")],
    limit: Annotated[int | None, typer.Option(help="Only the first so many utterances.")] = None,
    condition: Annotated[
        str | None, typer.Option(help="noise:10 (dB), telephone, reverb:0.6 (s), speed:0.9; or several, with +.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    language: Annotated[str | None, typer.Option(help="Code or name; default: detected once per corpus.")] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate to English.")] = "transcribe",
    hypotheses: Annotated[Path | None, typer.Option(help="Write every hypothesis to this file.")] = None,
    against: Annotated[str | None, typer.Option(help="Another model: adds the paired difference.")] = None,
    as_json: Json = False,
) -> None:
    """Word error rate on a corpus, with its 95 % interval."""
    require_file(hypotheses)
    sounds = apply_condition(speech_of(speech, lambda: progress(as_json), limit), condition)
    whisper, other = aw.load(model), aw.load(against) if against else None
    score = aw.evaluate(
        whisper, sounds, language=language, task=task, dtype=dtype, against=other, job=progress(as_json)
    )
    if hypotheses:
        score.write_hypotheses(hypotheses)
    sentence = str(score)
    if against:
        sentence += f"; {score.difference:+.2f} points ({score.difference_low:+.2f} to "
        sentence += f"{score.difference_high:+.2f}) against {against}"
    report(score.to_dict(), as_json, f"{sentence}; {score.utterances} utterances in {score.seconds:.1f} s.")


@app.command()
def study(
    model: Model,
    speech: Speech,
    evaluations: Annotated[list[str], typer.Option("--eval", help="NAME=SPEECH, as often as needed.")],
    output: Output,
    points: Annotated[str, typer.Option(help="Encoder fractions to remove.")] = "0.15,0.3,0.45",
    minutes: Minutes = None,
    steps: Steps = None,
    allocation: Allocation = "measured",
    target_weight: Weight = 0.5,
    windows: Windows = WINDOWS,
    transcripts: Transcripts = Settings.transcripts,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Points at once, a process each.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Or on a dask cluster: its address.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads a point; sums depend on them.")] = None,
    as_json: Json = False,
) -> None:
    """Word error rate against compression: compress, tune and evaluate at every point; goes on if killed."""
    try:
        fractions = [float(p) for p in points.split(",")]
    except ValueError as error:
        raise InputError(f"--points {points!r} is no list of fractions; write 0.15,0.3,0.45.") from error
    sets = evaluation_speech(evaluations, lambda: progress(as_json))
    executor, sounds = executor_of(workers, scheduler), corpora(speech, as_json)
    done = aw.run_study(
        aw.load(model), sounds, sets, points=fractions, folder=output, minutes=minutes, steps=steps,
        target_weight=target_weight, allocation=allocation, windows=windows, transcripts=transcripts, seed=seed,
        executor=executor, threads=threads, job=progress(as_json),
    )  # fmt: skip
    page = done.folder / "frontier.html"
    points_of = [{"name": r.name, **r.sizes, "wer": {n: s["wer"] for n, s in r.scores.items()}} for r in done.records]
    report({"output": str(output), "page": str(page), "points": points_of}, as_json,
           f"{len(done)} points; the frontier is in {page}.")  # fmt: skip


@app.command()
def export(
    model: Model,
    output: Output,
    to: Annotated[
        str, typer.Option("--to", help="ctranslate2, for faster-whisper and its kin; or onnx.")
    ] = "ctranslate2",
    dtype: Annotated[
        str | None, typer.Option(help="How weights are stored: float32, float16 (not in onnx), int8, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as a folder that another runtime loads."""
    began = time.monotonic()
    place = output.resolve()  # what "." was is gone when it is replaced
    check_export(place, to, dtype)  # now, not after a download
    folder = aw.export(aw.load(model), place, to=to, dtype=dtype)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.name in FILES)  # others may lie beside them
    dtype = dtype or DTYPES[to][0]
    result = {"output": str(output), "format": to, "dtype": dtype, "bytes": size, "seconds": time.monotonic() - began}
    report(result, as_json, f"{output} holds {model} for {to}, {size / 1e6:.1f} MB in {dtype}.")


@app.command("speech")
def read_speech(
    path: Annotated[Path, typer.Argument(help="A manifest, a table, a folder, or a recording with its subtitles.")],
    model: Annotated[str | None, typer.Option(help="Let this model listen, to find wrong transcripts.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write what was read as a manifest.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave out transcripts that may not match.")] = False,
    wer: Annotated[float, typer.Option(help="Word errors in percent from which on a transcript is suspect.")] = 50.0,
    language: Annotated[str | None, typer.Option(help="Code or name; default: detected once.")] = None,
    audio: Annotated[str | None, typer.Option(help="A table's column for the audio, if unusual.")] = None,
    text: Annotated[str | None, typer.Option(help="A table's column for the text, if unusual.")] = None,
    speaker: Annotated[str | None, typer.Option(help="A table's column for the speaker, if unusual.")] = None,
    as_json: Json = False,
) -> None:
    """Read speech in any layout, say what is usable, what is not and why, and write a manifest of it."""
    require_file(output)
    whisper = aw.load(model) if model else None
    corpus = aw.Corpus.read(path, strict=False, audio=audio, text=text, speaker=speaker, job=progress(as_json))
    corpus = corpus.check(job=progress(as_json))
    check = aw.check_speech(corpus, whisper, wer=wer, language=language, job=progress(as_json))
    result = {**corpus.report.to_dict(), "check": check.to_dict(), "output": str(output) if output else None}
    sentence = f"{corpus.report}\n{check}"
    if output:
        chosen = check.good if drop else corpus
        chosen.to_manifest(output)
        sentence += f"\nThe manifest of {len(chosen)} utterances is {output}."
    report(result, as_json, sentence)


@app.command("demo")
def demo(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Copy speech and notebooks there.")] = None,
    as_json: Json = False,
) -> None:
    """Say where the demonstration speech is, or copy it and the notebooks to a folder of your own."""
    speech = demo_folder() if output is None else copy_demo(output)
    report({"speech": str(speech)}, as_json, f"The demonstration speech is in {speech}.")


def main() -> None:
    """Run the command line; exit status 2 and one sentence for input that cannot be used."""
    try:
        app(standalone_mode=False)
    except UsageError as error:
        if len(sys.argv) == 1:  # the help, which Typer raises where nothing is asked
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        _fail(error.format_message().rstrip(".") + _given_for(error))
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        _fail(refusal(error))
    except (KeyboardInterrupt, typer.Abort):
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _given_for(error: Any) -> str:
    """What was written for the option that is wrong; Typer names the option only."""
    options = getattr(getattr(error, "param", None), "opts", [])
    for option, value in itertools.pairwise(sys.argv):
        if option in options:
            return f", not {value!r}."
    return "."


def _fail(message: str) -> None:
    print("adaptwin: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
