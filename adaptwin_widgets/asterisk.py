"""Real speech for Debian and Ubuntu: one speaker's telephone prompts, from the Asterisk packages."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import platformdirs
import soundfile

from .audio import SAMPLE_RATE
from .errors import InputError
from .jobs import Job, ensure
from .speech import Corpus, Utterance

AUDIO, TEXTS = "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"
SHORTEST, LONGEST = 1.0, 30.0  # seconds
NOT_WORDS = re.compile(r"[^\w\s.,;:'’!?-]")  # "[beep]", "<tone>", and * or # for a spoken "star" or "pound"
SOURCE = {"license": "CC BY-SA 3.0, (c) Allison Smith, Digium", "source": f"Debian package {AUDIO}"}


def asterisk_speech(cache: str | Path | None = None, *, job: Job | None = None) -> Corpus:
    """About 350 prompts of one real speaker (Allison Smith, US English, CC BY-SA 3.0), 19 minutes.

    Fetched with ``apt-get download`` the first time (11 MB, nothing is installed, no root needed),
    decoded from G.722 to 16 kHz FLAC and kept in `cache` (by default the user's cache folder).
    Only prompts of 1 to 30 s whose transcript is words are taken; many are fragments of sentences.

    >>> asterisk_speech().split(0.8, by="prompt")            # doctest: +SKIP
    (Corpus('asterisk (first part)', ...), Corpus('asterisk (second part)', ...))

    Raises `InputError` where there is no apt-get, no network, or no PyAV (the extra ``asterisk``).
    """
    home = Path(cache) if cache is not None else platformdirs.user_cache_path("adaptwin_widgets")
    folder = home / "asterisk"
    manifest = folder / "asterisk.jsonl"
    if not manifest.is_file():
        if missing := [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]:
            raise InputError(
                f"the Asterisk prompts come as Debian packages and {' and '.join(missing)} is not on this "
                "machine; use demo_speech() or a manifest of your own."
            )
        if not importlib.util.find_spec("av"):
            raise InputError("decoding the Asterisk prompts needs PyAV; run: pip install 'adaptwin-widgets[asterisk]'.")
        home.mkdir(parents=True, exist_ok=True)
        # Made whole under another name, then renamed: a cache is never half there.
        with tempfile.TemporaryDirectory(dir=home, prefix=".asterisk.") as scratch:
            made = _make(Path(scratch), ensure(job))
            try:
                Path(made).rename(folder)
            except OSError:  # another process was quicker, or an old folder lies there
                if not manifest.is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    Path(made).rename(folder)
    return Corpus.from_manifest(manifest)


def parse_transcripts(text: str) -> Iterator[tuple[str, str]]:
    """Name and words of every prompt that is nothing but words.

    >>> list(parse_transcripts("; note\\nbeep: [a beep]\\ndir-multi9: Press 9 ...\\nletters/at: at [@]"))
    [('dir-multi9', 'Press 9')]
    """
    for line in text.splitlines():
        name, colon, words = line.partition(":")
        words = " ".join(words.replace("...", " ").split())  # fragments: "... for ..."
        if colon and words and not line.startswith(";") and not NOT_WORDS.search(words):
            yield name.strip(), words


def _make(scratch: Path, job: Job) -> Path:
    """Download, unpack and decode inside `scratch`; returns the finished folder."""
    job.update(0, text="fetching the Asterisk prompts")
    _run(["apt-get", "download", AUDIO, TEXTS], scratch, "check the network and run apt-get update")
    for package in scratch.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), "unpacked"], scratch, "try again")
    share = scratch / "unpacked" / "usr" / "share"
    sounds = next((share / "asterisk" / "sounds").glob("en_US*"), None)
    listing = next((share / "doc" / TEXTS).glob("core-sounds-en.txt*"), None)
    if sounds is None or listing is None:
        raise InputError(f"the package {AUDIO} is laid out differently here; use demo_speech() instead.")
    data = listing.read_bytes()
    text = (gzip.decompress(data) if listing.suffix == ".gz" else data).decode("utf-8", "replace")

    made = scratch / "asterisk"
    (made / "audio").mkdir(parents=True)
    utterances = []
    for name, words in job.track(list(parse_transcripts(text)), text="decoding the Asterisk prompts"):
        source = sounds / f"{name}.g722"
        if not source.is_file():
            continue
        samples = _decode(source)
        seconds = len(samples) / SAMPLE_RATE
        if not SHORTEST <= seconds <= LONGEST:
            continue
        audio = made / "audio" / f"{name.replace('/', '_')}.flac"
        soundfile.write(audio, samples, SAMPLE_RATE, subtype="PCM_16")
        utterances.append(Utterance(audio.stem, audio, words, "allison", round(seconds, 3), more=SOURCE))
    Corpus(utterances, "asterisk").to_manifest(made / "asterisk.jsonl")
    return made


def _run(command: list[str], folder: Path, advice: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{command[0]} could not fetch the Asterisk prompts ({last}); {advice}.")


def _decode(path: Path) -> np.ndarray:
    """Samples of a headerless G.722 file: int16 at 16 kHz, shape [samples]."""
    import av

    with av.open(str(path), format="g722") as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
