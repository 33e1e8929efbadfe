"""Conditions: a telephone line, a room, another speed; what they do to the sound, the same every time."""

import json

import numpy as np
import pytest
import soundfile

import adaptwin_widgets as aw
from adaptwin_widgets.audio import SAMPLE_RATE, active_power
from adaptwin_widgets.conditions import Noise, Reverberation, Speed, Telephone, parse_condition
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.speech import Corpus, Utterance, apply_condition, pack


@pytest.fixture(scope="module")
def speech() -> Corpus:
    return aw.demo_speech()["target_dev"][:3]


def decibels(samples: np.ndarray, low: float, high: float) -> float:
    """Energy between two frequencies, in dB."""
    energy = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return 10 * np.log10(energy[(hertz >= low) & (hertz < high)].sum() + 1e-20)


@pytest.mark.parametrize("text", ["telephone", "reverb:0.6", "speed:0.8-1.25", "noise:10"])
def test_each_is_drawn_from_its_seed_and_the_id(speech, text):
    one, again, other = (apply_condition(speech, f"{text}{seed}") for seed in ("", "", ":1"))
    assert one == again != other and str(one[0].conditions[0]) == text and str(other[0].conditions[0]) == f"{text}:1"
    np.testing.assert_array_equal(one[2].samples(), again[1:][1].samples())
    mine, theirs = one[0].samples(), other[0].samples()
    assert len(mine) != len(theirs) or not np.allclose(mine, theirs, atol=1e-4)
    named = Utterance("another", speech[0].audio, "", duration=speech[0].duration, conditions=one[0].conditions)
    assert named.conditions[0](mine, "another").shape != mine.shape or not np.allclose(
        named.conditions[0](mine, "another"), named.conditions[0](mine, "a third"), atol=1e-4
    )
    assert mine.dtype == np.float32 and np.isfinite(mine).all()
    silence = np.zeros(1000, np.float32)
    assert not one[0].conditions[0](silence, "a").any()


def test_telephone_keeps_its_band_and_the_level(speech):
    for u in speech:
        samples = u.samples()
        heard = Telephone()(samples, u.id)
        assert len(heard) == len(samples)
        before, after = (decibels(s, 500, 3000) for s in (samples, heard))
        assert after == pytest.approx(before, abs=1.5)
        assert decibels(heard, 4100, 8000) < after - 60  # nothing passes 8 kHz sampling
        drop = decibels(samples, 20, 130) - before - (decibels(heard, 20, 130) - after)
        assert drop > 6
    steps = Telephone()(np.linspace(-0.05, 0.05, 16000, dtype=np.float32), "a")
    assert np.abs(steps).max() < 0.05  # a ramp is not in the band


def test_a_room_decays_as_it_says(speech):
    click = np.zeros(3 * SAMPLE_RATE, np.float32)
    click[0] = 1.0
    for seconds in (0.3, 0.8):
        heard = Reverberation(seconds)(click, "a").astype(np.float64)
        left = 10 * np.log10(np.cumsum(heard[::-1] ** 2)[::-1] / (heard**2).sum() + 1e-30)  # Schroeder 1965
        first, last = (int(np.argmax(left < level)) for level in (-5, -35))
        assert 2 * (last - first) / SAMPLE_RATE == pytest.approx(seconds, rel=0.1)
        direct = heard[:16] @ heard[:16]
        assert direct == pytest.approx(heard[16:] @ heard[16:], rel=1e-3)
    for u in speech:
        samples = u.samples()
        heard = Reverberation(0.6)(samples, u.id)
        assert len(heard) == len(samples) and active_power(heard) == pytest.approx(active_power(samples), rel=0.05)


def test_speed_changes_length_and_pitch(tmp_path):
    tone = (0.3 * np.sin(2 * np.pi * 400 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", tone, SAMPLE_RATE)
    corpus = Corpus([Utterance("a", tmp_path / "a.wav", "One.", duration=2.0)], "tone")
    fast = apply_condition(corpus, "speed:1.25")
    heard = fast[0].samples()
    assert len(heard) == round(2 * SAMPLE_RATE / 1.25) == round(fast.seconds * SAMPLE_RATE)
    assert np.argmax(np.abs(np.fft.rfft(heard))) / fast[0].duration == pytest.approx(500, abs=1)
    assert len(pack(fast)[0].samples()) == len(heard)
    both = apply_condition(corpus, "speed:0.8-1.25:3+noise:20")
    assert both.name == "tone + speed 0.8 to 1.25 + noise 20 dB"
    row = json.loads(both.to_manifest(tmp_path / "both.jsonl").read_text())
    assert row["duration"] == pytest.approx(2.0) and row["conditions"] == ["speed:0.8-1.25:3", "noise:20"]
    (again,) = Corpus.from_manifest(tmp_path / "both.jsonl")
    assert again.duration == pytest.approx(both[0].duration) and again.conditions == both[0].conditions
    np.testing.assert_array_equal(again.samples(), both[0].samples())
    drawn = [Speed(0.8, 1.25).stretch(str(i)) for i in range(300)]
    assert 1 / 1.25 <= min(drawn) < 0.82 and 1.2 < max(drawn) <= 1 / 0.8


@pytest.mark.parametrize(
    "text",
    ["fog", "telephone:x", "telephone:1:2", "reverb", "reverb:0", "reverb:nan", "reverb:99", "speed:0", "speed:1.1-0.9",
     "speed:1-1-1", "speed:-1", "speed:nan", "noise:10:1.5", "noise:-1e5", "noise:1e5",
     "noise:nan"],
)  # fmt: skip
def test_unknown_conditions(text):
    with pytest.raises(InputError, match=r"write noise:10, telephone, reverb:0.6, speed:0.9"):
        parse_condition(text)


def test_condition_texts():
    made = (Noise(5, 2), Telephone(), Reverberation(0.5, 1), Speed(0.9), Speed(0.9, 1.1, 4))
    assert [parse_condition(str(condition)) for condition in made] == list(made)
