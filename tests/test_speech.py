"""Corpora: manifests and their errors, splits, conditions, features, windows."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from adaptwin_widgets.audio import active_power, read_audio
from adaptwin_widgets.conditions import Noise, parse_condition
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.speech import (
    SAMPLE_RATE,
    Corpus,
    Utterance,
    Window,
    apply_condition,
    batches,
    log_mel,
    pack,
    require_disjoint,
)


def tone(seconds: float, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of 1 to 2 s by two speakers, with their manifest."""
    (tmp_path / "audio").mkdir()
    rows = []
    for i in range(6):
        seconds = 1.0 + 0.2 * i
        soundfile.write(tmp_path / "audio" / f"c{i}.flac", tone(seconds, hertz=200 + 100 * i), SAMPLE_RATE)
        rows.append({"id": f"u{i}", "audio": f"audio/c{i}.flac", "text": f"Prompt number {i}.", "licence": "CC0"})
        rows[-1] |= {"speaker": "ann" if i < 4 else "bob", "duration": seconds}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return Corpus.from_manifest(folder / "train.jsonl")


def paper(*rows: tuple[str, str, float], folder: str = "x") -> Corpus:
    """A corpus without audio, for what needs none: (speaker, text, duration) of each utterance."""
    return Corpus([Utterance(f"{i}", Path(folder) / f"{i}.wav", text, who, d) for i, (who, text, d) in enumerate(rows)])


def test_manifest_is_read(corpus, folder):
    assert [u.id for u in corpus] == [f"u{i}" for i in range(6)]
    assert corpus.name == "train" and corpus.speakers == ["ann", "bob"]
    assert corpus.seconds == pytest.approx(6 + 0.2 * 15)
    assert corpus[0].samples().shape == (16000,)
    assert isinstance(corpus[1:3], Corpus) and len(corpus[1:3]) == 2
    assert len(corpus.head(2) + corpus[4:]) == 4 and len(corpus.head(None)) == 6


def test_id_and_duration_are_found_where_missing(folder):
    manifest = folder / "few.jsonl"
    # A byte order mark and empty lines, as some editors leave them.
    manifest.write_bytes(b"\xef\xbb\xbf" + '\n{"audio": "audio/c3.flac", "text": "Ça va?"}\r\n\n'.encode())
    (utterance,) = Corpus.from_manifest(manifest)
    assert (utterance.id, utterance.text, utterance.speaker) == ("c3", "Ça va?", "")
    assert utterance.duration == pytest.approx(1.6)


GOOD = b'{"id": "a", "audio": "audio/c0.flac", "text": "One."}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"audio": "audio/c1.flac", "text"', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"audio": "audio/c1.flac", "text": "\xff"}', "not UTF-8"),
        (b'{"text": "One."}', "no 'audio' field"),
        (b'{"audio": "audio/c1.flac"}', "no 'text' field"),
        (b'{"audio": "audio/gone.flac", "text": "One."}', "audio/gone.flac is missing"),
        (b'{"id": "a", "audio": "audio/c1.flac", "text": "One."}', "id 'a' was given in line 1"),
        (b'{"audio": "audio/c1.flac", "text": "One.", "duration": -1}', "duration -1"),
        (b'{"audio": "audio/c1.flac", "text": "One.", "duration": "2"}', "duration '2'"),
        (b'{"audio": "audio/c1.flac", "text": "One.", "duration": NaN}', "duration nan"),
        (b'{"audio": "audio/c1.flac", "text": "One.", "conditions": ["fog"]}', "'fog' is unknown"),
        (b'{"audio": "train.jsonl", "text": "One."}', "cannot be read as audio"),
    ],
)
def test_broken_line_is_named(folder, line, message):
    manifest = folder / "broken.jsonl"
    manifest.write_bytes(GOOD + b"\n" + line + b"\n")
    with pytest.raises(InputError) as error:
        Corpus.from_manifest(manifest)
    assert "broken.jsonl, line 3: " in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_empty_manifests(folder):
    with pytest.raises(InputError, match="none.jsonl: no such file"):
        Corpus.from_manifest(folder / "none.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        Corpus.from_manifest(folder)
    (folder / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="empty.jsonl: holds no utterances"):
        Corpus.from_manifest(folder / "empty.jsonl")
    with pytest.raises(InputError, match="limit of 0"):
        Corpus.from_manifest(folder / "train.jsonl").head(0)


def test_manifest_round_trip(corpus, folder):
    other = folder / "elsewhere" / "noisy.jsonl"
    other.parent.mkdir()
    noisy = corpus.with_noise(7.5, seed=2)
    again = Corpus.from_manifest(noisy.to_manifest(other))
    assert [(u.id, u.text, u.path, u.duration, u.conditions) for u in again] == [
        (u.id, u.text, u.path, u.duration, u.conditions) for u in noisy
    ]
    assert again[0].more == {"licence": "CC0"}
    assert json.loads(other.read_text().splitlines()[0])["audio"] == "../audio/c0.flac"
    np.testing.assert_array_equal(again[2].samples(), noisy[2].samples())
    with pytest.raises(InputError, match="two utterances have the id 'u0'"):
        (corpus + noisy).to_manifest(folder / "both.jsonl")
    assert not list(folder.glob("*both.jsonl*"))


def test_any_rate_and_channel_count(tmp_path):
    stereo = np.stack([tone(1.5, 44100), np.zeros(66150, np.float32)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 44100, subtype="FLOAT")
    samples = read_audio(tmp_path / "stereo.wav")
    assert samples.dtype == np.float32 and samples.shape == (24000,)
    middle = slice(1000, -1000)  # away from the resampler's edges
    np.testing.assert_allclose(samples[middle], 0.5 * tone(1.5)[middle], atol=1e-3)
    soundfile.write(tmp_path / "phone.wav", tone(1.0, 8000), 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "phone.wav")[middle], tone(1.0)[middle], atol=1e-3)


def test_bad_audio_is_named(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(InputError, match=r"text.wav: cannot be read as audio; convert"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(InputError, match=r"gone.wav: no such audio file"):
        read_audio(tmp_path / "gone.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    with pytest.raises(InputError, match="no audio samples"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan], np.float32), SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="not finite"):
        read_audio(tmp_path / "nan.wav")


def test_wrong_duration_is_refused(corpus):
    wrong = Utterance("w", corpus[0].audio, "x", duration=5.0)
    with pytest.raises(InputError, match="'w' lasts 1.00 s .* not 5.00 s"):
        wrong.samples()


@pytest.mark.parametrize("by", ["prompt", "speaker", "utterance"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_split_never_overlaps(by, share):
    rows = [(f"s{i % 7}", f"Only {i}" if i % 7 else f"Twice {i // 14}", 1.0) for i in range(70)]
    whole = paper(*rows)
    both = whole + whole.with_noise(5)  # a noisy copy goes with its original
    first, second = both.split(share, by=by, seed=3)
    assert sorted(u.id for u in (first + second)) == sorted(u.id for u in both)
    assert not {u.path for u in first} & {u.path for u in second}
    assert abs(len(first) / len(both) - share) <= (0.03 if by == "utterance" else 0.1)
    if by != "utterance":
        assert not {u.prompt for u in first} & {u.prompt for u in second}
    if by == "speaker":
        assert not set(first.speakers) & set(second.speakers)
    assert both.split(share, by=by, seed=3) == (first, second)
    assert any(both.split(share, by=by, seed=seed) != (first, second) for seed in range(4, 9))


def test_split_that_cannot_be():
    with pytest.raises(InputError, match="cannot be split by speaker"):
        paper(("ann", "One", 1), ("ann", "Two", 1)).split(by="speaker")
    with pytest.raises(InputError, match="cannot be split by speaker"):
        paper(("ann", "Same.", 1), ("bob", "same", 1)).split(by="speaker")  # two speakers, one prompt
    with pytest.raises(InputError, match="between 0 and 1, not 1.5"):
        paper(("ann", "One", 1)).split(1.5)
    with pytest.raises(InputError, match="'moon'"):
        paper(("ann", "One", 1)).split(by="moon")


def test_overlap_is_found():
    train = paper(("ann", "Good morning!", 1), ("ann", "Two", 1), ("ann", "", 1))
    dev = paper(("bob", "good  MORNING", 1), ("bob", "Four", 1), ("bob", "", 1), folder="y")
    overlap = train.shared_with(dev)
    assert overlap and (overlap.utterances, overlap.prompts) == ((), ("good morning",))
    with pytest.raises(InputError, match="share 0 utterances and 1 prompts"):
        require_disjoint(train, dev)
    require_disjoint(train.without(dev), dev)
    assert [u.id for u in train.without(dev)] == ["1", "2"]  # no transcript is not a shared prompt
    assert train.shared_with(train.with_noise(3)).utterances == ("0", "1", "2")


def test_noise_has_the_ratio_over_the_active_part():
    speech = np.concatenate([np.zeros(32000), tone(2.0), np.zeros(64000)]).astype(np.float32)
    assert active_power(speech) == pytest.approx(0.045, rel=0.01)
    for snr in (-5, 10, 30):
        noise = Noise(snr)(speech, "a") - speech
        assert 10 * np.log10(0.045 / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
    silence = np.zeros(1000, np.float32)
    np.testing.assert_array_equal(Noise(10)(silence, "a"), silence)


def test_noise_is_the_same_every_time(corpus):
    noisy = apply_condition(corpus, "noise:10")
    assert noisy.name == "train + noise 10 dB" and noisy == corpus.with_noise(10)
    np.testing.assert_array_equal(noisy[3].samples(), noisy[2:5][1].samples())
    assert not np.array_equal(noisy[3].samples(), corpus.with_noise(10, seed=1)[3].samples())
    one, two = (u.samples() - c.samples() for u, c in zip(noisy[:2], corpus[:2], strict=True))
    assert abs(np.corrcoef(one, two[: len(one)])[0, 1]) < 0.05  # each utterance has noise of its own
    assert apply_condition(corpus, None) is corpus and apply_condition(corpus, "clean") is corpus


@pytest.mark.parametrize("text", ["noise", "noise:", "noise:x", "noise:1:2:3", "noise:inf", "rain:3", "noise:1:x"])
def test_unknown_condition(text):
    with pytest.raises(InputError, match="write noise:10"):
        parse_condition(text)
    assert parse_condition("noise:-2.5:7") == Noise(-2.5, 7)


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_equals_the_feature_extractor(mels):
    extractor = WhisperFeatureExtractor(feature_size=mels)
    rng = np.random.default_rng(0)
    lengths = [1, 159, 400, 16000, 47999, 321234, 479640, 479999, 480000]
    clips = [(rng.standard_normal(n) * 10 ** rng.uniform(-5, 0)).astype(np.float32) for n in lengths] + [
        np.zeros(5000, np.float32)
    ]
    expected = torch.as_tensor(np.array(extractor(clips, sampling_rate=16000)["input_features"]))
    together = log_mel(clips, extractor)
    assert together.shape == (len(clips), mels, 3000) and together.dtype == torch.float32
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=0)
    for clip, row in zip(clips, expected, strict=True):  # alone, where the padding is cut shorter
        torch.testing.assert_close(log_mel([clip], extractor)[0], row, atol=1e-4, rtol=0)


def test_batches(corpus):
    extractor = WhisperFeatureExtractor()
    got = list(batches(corpus, extractor, 4))
    assert [[u.id for u in group] for group, _ in got] == [["u5", "u4", "u3", "u2"], ["u1", "u0"]]
    for group, features in got:
        torch.testing.assert_close(features, log_mel([u.samples() for u in group], extractor))
    given = [u.id for group, _ in batches(corpus, extractor, 4, sort=False, prefetch=0) for u in group]
    assert given == [u.id for u in corpus]
    for group, _ in batches(corpus, extractor, 1):  # stopping early is fine
        assert group[0].id == "u5"
        break


def test_too_long_audio_is_named(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros(31 * SAMPLE_RATE, np.float32), SAMPLE_RATE)
    long = Utterance("long", tmp_path / "long.flac", "x", duration=31.0)
    with pytest.raises(InputError, match="'long' lasts 31.0 s, longer than Whisper's window of 30 s"):
        list(batches([long], WhisperFeatureExtractor()))
    with pytest.raises(InputError, match="'long' lasts 31.0 s, longer than the window of 30 s"):
        pack([long])
    with pytest.raises(InputError, match="31.0 s is longer"):
        log_mel([long.samples()], WhisperFeatureExtractor())


def test_pack_puts_every_utterance_in_one_window():
    rng = np.random.default_rng(0)
    speech = paper(*((f"s{i % 5}", f"{i}", float(rng.uniform(1, 29))) for i in range(200)))
    windows = pack(speech, gap=0.4)
    assert sorted(u.id for w in windows for u in w.utterances) == sorted(u.id for u in speech)
    assert all(w.duration <= 30 + 1e-6 for w in windows)
    # First-fit decreasing needs at most 11/9 of the best, and the best is no less than the volume.
    assert len(windows) <= 11 / 9 * (speech.seconds / 30) + 5
    assert pack(speech, gap=0.4) == windows != pack(speech, gap=0.4, seed=1)


def test_pack_prefers_one_speaker():
    speech = paper(*((who, f"{who} {i}", 9.0) for i in range(3) for who in ("ann", "bob", "cid")))
    windows = pack(speech)
    assert len(windows) == 3 and all(len({u.speaker for u in w.utterances}) == 1 for w in windows)
    assert len(pack(paper(("ann", "a", 9.0), ("bob", "b", 9.0)))) == 1  # but wastes no window for it


def test_window_samples_lie_where_the_spans_say(corpus):
    window = Window((corpus[0], corpus[5], corpus[2]), gap=0.25)
    samples = window.samples()
    assert len(samples) == round(window.duration * SAMPLE_RATE)
    rest = samples.copy()
    for utterance, (start, end) in zip(window.utterances, window.spans, strict=True):
        part = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
        np.testing.assert_array_equal(samples[part], utterance.samples())
        rest[part] = 0
    assert not rest.any()
    assert window.text == "Prompt number 0. Prompt number 5. Prompt number 2."
    alone = Window((corpus[1],))
    np.testing.assert_array_equal(alone.samples(), corpus[1].samples())
    ((_, features),) = batches([window, alone], WhisperFeatureExtractor())
    assert features.shape == (2, 80, 3000)


def test_real_manifests_share_nothing(shared_speech):
    for name, counts in (("kathleen", (593, 270)), ("librispeech", (126, 73))):
        train, dev = (Corpus.from_manifest(shared_speech / name / f"{part}.jsonl") for part in ("train", "dev"))
        assert (len(train), len(dev)) == counts
        require_disjoint(train, dev)
    windows = pack(Corpus.from_manifest(shared_speech / "kathleen" / "train.jsonl"))
    assert len(windows) <= 70 and sum(len(w.utterances) for w in windows) == 593
    assert len(windows[0].samples()) <= 30 * SAMPLE_RATE
