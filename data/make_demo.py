"""Make the demonstration speech in data/demo: synthetic voices reading data/demo/sentences.txt.

Needs Debian's synthesisers (``apt-get install flite festival festvox-kdlpc16k``) and this project's
environment. Run ``python data/make_demo.py``; the sound is the same in every run with the same
versions of the two programs (the Opus container's serial numbers are not).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from adaptwin_widgets.audio import SAMPLE_RATE, read_audio
from adaptwin_widgets.speech import Corpus, Utterance

HERE = Path(__file__).parent / "demo"
TARGET, PER_GENERAL = (50, 40), (15, 15)  # utterances for train and dev of each voice


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker: which program, which of its voices, its mean pitch in Hz."""

    speaker: str
    program: str
    voice: str
    pitch: float
    licence: str

    def speak(self, text: str, wav: Path, rate: float, pitch: float) -> None:
        """Write `text` as a WAV file; `rate` and `pitch` are factors around 1."""
        stretch, hertz = f"{1 / rate:.3f}", f"{self.pitch * pitch:.1f}"
        if self.program == "flite":
            settings = ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={hertz}"]
            command = ["flite", "-voice", self.voice, *settings, "-t", text, "-o", str(wav)]
        else:
            lines = [
                f"(voice_{self.voice})",
                f"(Parameter.set 'Duration_Stretch {stretch})",
                f"(set! int_lr_params '((target_f0_mean {hertz}) (target_f0_std 14)"
                " (model_f0_mean 170) (model_f0_std 34)))",
            ]
            settings = [word for line in lines for word in ("-eval", line)]
            command = ["text2wave", *settings, "-o", str(wav)]
        subprocess.run(command, input=text.encode(), check=True, capture_output=True)


FLITE = "Carnegie Mellon University Flite licence (MIT-like)"
KED = "Centre for Speech Technology Research licence (MIT-like)"
VOICES = [
    Voice("slt", "flite", "slt", 170, FLITE),  # the target speaker
    Voice("rms", "flite", "rms", 100, FLITE),
    Voice("awb", "flite", "awb", 125, FLITE),
    Voice("kal", "flite", "kal16", 105, FLITE),
    Voice("ked", "festival", "ked_diphone", 105, KED),
]


def record(voice: Voice, number: int, text: str, folder: Path) -> Utterance:
    """Synthesise one sentence into `folder`/audio as Ogg Opus, 16 kHz mono."""
    name = f"{voice.speaker}_{number:03d}"
    chance = random.Random(name)
    rate, pitch = chance.uniform(0.92, 1.12), chance.uniform(0.94, 1.06)
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch, "speech.wav")
        voice.speak(text, wav, rate, pitch)
        samples = read_audio(wav)
    # Every speaker at about the same level, with a little silence around, as in a recording.
    samples = samples * (0.06 / np.sqrt(np.mean(samples**2)))
    silence = np.zeros(round(chance.uniform(0.1, 0.3) * SAMPLE_RATE), np.float32)
    samples = np.clip(np.concatenate([silence, samples, silence]), -0.99, 0.99)
    audio = folder / "audio" / f"{name}.opus"
    audio.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(audio, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.85)
    more = {"license": voice.licence, "source": f"{voice.program} {voice.voice}, data/make_demo.py"}
    # The duration as decoded, so that the manifest and the file agree.
    return Utterance(name, audio, text, voice.speaker, round(len(read_audio(audio)) / SAMPLE_RATE, 3), more=more)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="folder to write (data/demo)")
    output = parser.parse_args(argv).output
    if missing := [name for name in ("flite", "text2wave") if not shutil.which(name)]:
        needed = "apt-get install flite festival festvox-kdlpc16k"
        print(f"{' and '.join(missing)} not found; install with: {needed}", file=sys.stderr)
        return 2
    sentences = iter((HERE / "sentences.txt").read_text(encoding="utf-8").splitlines())
    parts: dict[tuple[str, str], list[Utterance]] = {}
    for voice in VOICES:
        group, counts = ("target", TARGET) if voice is VOICES[0] else ("general", PER_GENERAL)
        numbers = iter(range(1, sum(counts) + 1))
        for part, count in zip(("train", "dev"), counts, strict=True):
            made = [record(voice, next(numbers), next(sentences), output / group) for _ in range(count)]
            parts.setdefault((group, part), []).extend(made)
    for (group, part), utterances in parts.items():
        manifest = Corpus(utterances, group).to_manifest(output / group / f"{part}.jsonl")
        print(os.path.relpath(manifest), Corpus(utterances, part))
    return 0


if __name__ == "__main__":
    sys.exit(main())
