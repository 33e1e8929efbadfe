"""Speech for the command line: read in any layout, checked, and what was left out said on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.jobs import Job
from adaptwin_widgets.mismatch import check_speech
from adaptwin_widgets.speech import Corpus

NewJob = Callable[[], Job]


def speech_of(path: Path, new_job: NewJob, limit: int | None = None) -> Corpus:
    """The speech at a path, or its first `limit` utterances.

    A manifest is this project's own, so its first mistake is an `InputError`. Of other layouts every recording is
    decoded once, so that a damaged one is left out now and does not stop the work later; how many were is said.
    """
    corpus = Corpus.read(path, job=new_job())
    layout, skipped = corpus.layout, corpus.report.skipped
    corpus = corpus.head(limit) if limit is not None else corpus
    if layout:
        checked = corpus.check(job=new_job())
        skipped += [p for p in checked.report.skipped if p not in skipped]
        corpus = checked
    if skipped:
        say(f"{len(skipped)} items of {path} are skipped, the first: {skipped[0]} All: adaptwin speech {path}")
    return corpus


def training_speech(paths: list[Path], new_job: NewJob) -> list[Corpus]:
    """The speech at every path, and a word on transcripts that cannot be what is said in their recordings."""
    found = [speech_of(path, new_job) for path in paths]
    for path, corpus in zip(paths, found, strict=True):
        if suspects := check_speech(corpus).suspects:
            say(
                f"{len(suspects)} of {len(corpus)} transcripts of {path} may not match, for example "
                f"{suspects[0].id!r}: {suspects[0].reason}. To look at them: adaptwin speech {path} --model tiny.en"
            )
    return found


def evaluation_speech(entries: list[str], new_job: NewJob) -> dict[str, Corpus]:
    """The sets to score on, by their names, from NAME=SPEECH."""
    found = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise InputError(f"--eval {entry!r} has no name; write --eval target={entry}.")
        if name in found:
            raise InputError(f"--eval {name} is given twice; give the sets names of their own.")
        found[name] = speech_of(Path(path), new_job)
    return found


def say(sentence: str) -> None:
    """A word to the user that stops nothing."""
    print(f"adaptwin: {sentence}", file=sys.stderr)
