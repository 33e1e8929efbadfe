"""The demonstration speech in data/demo, and the Asterisk prompts."""

import importlib.util
import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptwin_widgets import asterisk, demo
from adaptwin_widgets.audio import SAMPLE_RATE, read_audio
from adaptwin_widgets.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def speech():
    return demo.demo_speech()


def test_voices_and_counts(speech):
    (target,) = set(speech["target_train"].speakers) | set(speech["target_dev"].speakers)
    assert len(speech["target_train"]) + len(speech["target_dev"]) >= 60
    general = speech["general_train"] + speech["general_dev"]
    assert len(general.speakers) >= 3 and target not in general.speakers
    for voice in general.speakers:
        assert sum(u.speaker == voice for u in general) >= 15


def test_parts_share_nothing(speech):
    for one, two in itertools.combinations(speech.values(), 2):
        assert not one.shared_with(two)


def test_audio_is_what_the_manifest_says(speech):
    for utterance in itertools.chain(*speech.values()):
        header = soundfile.info(utterance.audio)
        assert (header.samplerate, header.channels) == (SAMPLE_RATE, 1), utterance.id
        samples = utterance.samples()  # raises if the duration is wrong
        assert 1 < utterance.duration < 10, utterance.id
        assert 0.02 < np.sqrt(np.mean(samples**2)) < 0.1, utterance.id
        assert utterance.more["license"] and utterance.more["source"], utterance.id


def test_transcripts_are_the_sentences(speech):
    sentences = (demo.demo_folder() / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(sentences)) == len(sentences)
    assert all(6 <= len(sentence.split()) <= 14 for sentence in sentences)
    assert sorted(u.text for u in itertools.chain(*speech.values())) == sorted(sentences)


def test_folder_holds_nothing_else_and_is_small(speech):
    files = {path for path in demo.demo_folder().rglob("*") if path.is_file()}
    used = {u.audio.resolve() for u in itertools.chain(*speech.values())}
    assert {path.suffix for path in files} == {".opus", ".jsonl", ".txt"}
    assert {path.resolve() for path in files if path.suffix == ".opus"} == used
    assert sum(path.stat().st_size for path in files) < 10e6


def test_data_card_is_plain():
    card = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert "synthetic" in card and all(voice in card for voice in ("slt", "rms", "awb", "kal", "ked", "licence"))


def test_installed_copy_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "site" / "adaptwin_widgets" / "demo.py"))
    with pytest.raises(InputError, match="not installed"):
        demo.demo_folder()
    copy = tmp_path / "site" / "adaptwin_widgets" / "_demo"
    (copy / "target").mkdir(parents=True)
    (copy / "target" / "train.jsonl").touch()
    assert demo.demo_folder() == copy


@pytest.mark.skipif(
    not (shutil.which("flite") and shutil.which("text2wave")), reason="flite and festival are not installed"
)
def test_voices_speak_the_same_every_time(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("make_demo", ROOT / "data" / "make_demo.py")
    make_demo = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_demo", make_demo)  # dataclasses look their module up
    spec.loader.exec_module(make_demo)
    for voice in make_demo.VOICES[::4]:  # one of each program
        first, again = (make_demo.record(voice, 1, "Good morning, everybody.", tmp_path / n) for n in "ab")
        assert first.duration == again.duration
        np.testing.assert_array_equal(first.samples(), again.samples())


def test_transcripts_that_are_not_words_are_left_out():
    listing = """; Core Asterisk Sounds
beep: [this is a simple beep tone]
confbridge-join: <beep ascending>
letters/at: at [@]
dictate/both_help: Press * to toggle pause.

dir-multi2: ... for ...
hello: Hello.
oclock: It's seven o'clock: now!
"""
    assert list(asterisk.parse_transcripts(listing)) == [
        ("dir-multi2", "for"),
        ("hello", "Hello."),
        ("oclock", "It's seven o'clock: now!"),
    ]


def test_without_apt_or_pyav(tmp_path, monkeypatch):
    monkeypatch.setattr(asterisk.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="apt-get and dpkg-deb is not on this machine; use demo_speech"):
        asterisk.asterisk_speech(tmp_path)
    monkeypatch.setattr(asterisk.shutil, "which", lambda name: name)
    monkeypatch.setattr(asterisk.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'adaptwin-widgets\[asterisk\]'"):
        asterisk.asterisk_speech(tmp_path)
    assert not list(tmp_path.iterdir())


def fake_apt(folder: Path, monkeypatch, script: str) -> None:
    """Put an apt-get of our own first on the path."""
    program = folder / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on this machine")


@needs_dpkg
def test_failed_download_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed (the extra 'asterisk')")
    fake_apt(tmp_path, monkeypatch, "echo 'E: Unable to locate package' >&2; exit 100")
    with pytest.raises(InputError, match=r"\(E: Unable to locate package\); check the network and run apt-get"):
        asterisk.asterisk_speech(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@needs_dpkg
def test_prompts_are_decoded_and_cached(tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="PyAV is not installed (the extra 'asterisk')")
    share = tmp_path / "package" / "usr" / "share"
    sounds, texts = share / "asterisk/sounds/en_US_f_Allison", share / "doc/asterisk-core-sounds-en"
    (sounds / "digits").mkdir(parents=True)
    texts.mkdir(parents=True)
    (texts / "core-sounds-en.txt").write_text("long: A long one.\nshort: Short.\ndigits/h-6: ...sixth\ngone: Gone.\n")
    (share.parents[1] / "DEBIAN").mkdir()
    control = "Package: asterisk-sounds\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    (share.parents[1] / "DEBIAN" / "control").write_text(control)
    tone = (8000 * np.sin(np.arange(24000) * 0.2)).astype(np.int16)
    for name, samples in (("long", tone), ("digits/h-6", tone[:16000]), ("short", tone[:8000])):
        with av.open(str(sounds / f"{name}.g722"), "w", format="g722") as container:
            stream = container.add_stream("g722", rate=SAMPLE_RATE, layout="mono", format="s16")
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    fake_apt(tmp_path, monkeypatch, f"dpkg-deb -b {tmp_path}/package sounds.deb >/dev/null")
    corpus = asterisk.asterisk_speech(tmp_path / "cache")
    assert [(u.id, u.text, u.speaker) for u in corpus] == [
        ("long", "A long one.", "allison"),
        ("digits_h-6", "sixth", "allison"),
    ]
    assert "CC BY-SA" in corpus[0].more["license"]
    samples = corpus[0].samples()
    assert abs(len(samples) - 24000) < 100
    # G.722's filters delay the sound by some samples.
    likeness = [np.corrcoef(samples[delay : delay + 20000], tone[:20000])[0, 1] for delay in range(50)]
    assert max(likeness) > 0.98
    fake = tmp_path / "bin" / "apt-get"
    fake.write_text("#!/bin/sh\nexit 1\n")
    assert asterisk.asterisk_speech(tmp_path / "cache") == corpus  # from the cache, without apt-get
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["asterisk"]


@pytest.mark.slow
@needs_dpkg
def test_the_real_prompts(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed (the extra 'asterisk')")
    try:
        corpus = asterisk.asterisk_speech(tmp_path)
    except InputError as error:
        pytest.skip(f"the Debian packages cannot be fetched here: {error}")
    assert len(corpus) > 300 and corpus.seconds > 15 * 60
    assert all(1 <= u.duration <= 30 for u in corpus)
    assert 0.01 < np.sqrt(np.mean(read_audio(corpus[0].audio) ** 2)) < 0.3
    train, dev = corpus.split(0.8)
    assert not train.shared_with(dev)
