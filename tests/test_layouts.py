"""Speech as others lay it out, and every kind of damage: read, skipped and reported by file and line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import adaptwin_widgets as aw
from adaptwin_widgets.audio import SAMPLE_RATE, audio_header, read_audio
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.speech import Corpus, Utterance, require_disjoint

RATE = SAMPLE_RATE


@pytest.fixture(scope="module")
def clips() -> list[tuple[np.ndarray, str]]:
    """Samples and words of four short clips of demonstration speech."""
    chosen = sorted(aw.demo_speech()["target_dev"], key=lambda u: u.duration)[:4]
    # Whole milliseconds, so that subtitles can say where a clip ends to the sample.
    return [(samples[: len(samples) // 16 * 16], u.text) for u in chosen for samples in (u.samples(),)]


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def same(corpus: Corpus, clips: list[tuple[np.ndarray, str]], tolerance: float = 1e-4) -> None:
    """Each utterance holds the clip's words and its samples."""
    assert [u.text for u in corpus] == [text for _, text in clips]
    for u, (samples, _) in zip(corpus, clips, strict=True):
        heard = u.samples()
        assert abs(len(heard) - len(samples)) <= 2
        size = min(len(heard), len(samples))
        np.testing.assert_allclose(heard[:size], samples[:size], atol=tolerance)


def problems(corpus: Corpus) -> list[tuple[str, int | None, str]]:
    return [(Path(p.file).name, p.line, p.kind) for p in corpus.report.skipped]


def test_a_manifest_stays_strict_unless_asked(clips, tmp_path):
    write(tmp_path / "a.flac", clips[0][0])
    row = {"id": "a", "audio": "a.flac", "text": clips[0][1]}
    manifest = tmp_path / "train.jsonl"
    manifest.write_text(json.dumps(row) + '\n{"audio": \n' + json.dumps({**row, "id": "b", "audio": "b.flac"}) + "\n")
    with pytest.raises(InputError, match="train.jsonl, line 2: not valid JSON"):
        Corpus.read(manifest)
    corpus = Corpus.read(manifest, strict=False)
    assert problems(corpus) == [("train.jsonl", 2, "broken line"), ("train.jsonl", 3, "missing audio")]
    same(corpus, clips[:1])
    manifest.write_text(json.dumps(row) + "\n")
    assert Corpus.read(tmp_path) == Corpus.read(manifest) == Corpus.from_manifest(manifest) == corpus
    nemo = {"audio_filepath": "a.flac", "offset": 0.5, "duration": 1.0, "text": "One."}
    manifest.write_text(json.dumps(nemo) + "\n")
    (part,) = Corpus.read(tmp_path)
    np.testing.assert_allclose(part.samples(), clips[0][0][RATE // 2 :][:RATE], atol=1e-4)


def test_a_folder_of_recordings_and_texts(clips, tmp_path):
    for (samples, text), name in zip(clips, ("ann/1.wav", "ann/2.flac", "bob/1.wav", "bob/x/2.wav"), strict=True):
        audio = write(tmp_path / name, samples)
        audio.with_suffix(".txt").write_text(f"\ufeff{text}\n", encoding="utf-8")
    write(tmp_path / "ann" / "3.wav", clips[0][0])
    (tmp_path / "bob" / "notes.txt").write_text("no recording of this name")
    corpus = Corpus.read(tmp_path)
    same(corpus, clips)
    assert [(u.id, u.speaker) for u in corpus] == [
        ("ann/1", "ann"), ("ann/2", "ann"), ("bob/1", "bob"), ("bob/x/2", "bob"),
    ]  # fmt: skip
    assert problems(corpus) == [("3.wav", None, "no text")]
    assert [note.kind for note in corpus.report.notes] == ["text alone"]
    with pytest.raises(InputError, match=r"3.wav: no text beside it"):
        Corpus.read(tmp_path, strict=True)


def test_common_voice(clips, tmp_path):
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tage\n"
    rows = []
    for i, (samples, text) in enumerate(clips):
        write(tmp_path / "clips" / f"common_voice_en_{i}.mp3", samples, RATE)
        rows.append(f'speaker{i % 2}\tcommon_voice_en_{i}.mp3\ts{i}\t"{text}\t2\t\n')  # an unpaired quote is text
    (tmp_path / "train.tsv").write_text(header + "".join(rows), encoding="utf-8")
    corpus = Corpus.read(tmp_path / "train.tsv")
    same(corpus, [(samples, f'"{text}') for samples, text in clips], tolerance=0.15)  # MP3
    assert corpus.speakers == ["speaker0", "speaker1"] and corpus.name == "train"
    assert corpus[0].id == "common_voice_en_0" and corpus[0].more == {"sentence_id": "s0", "up_votes": "2"}
    assert str(corpus[1].origin).endswith("train.tsv, line 3") and not corpus.report.problems
    (tmp_path / "dev.tsv").write_text(header + rows[0], encoding="utf-8")
    with pytest.raises(InputError, match="holds dev.tsv, train.tsv; give the path of one"):
        Corpus.read(tmp_path)


def test_tables_with_other_columns(clips, tmp_path):
    for i, (samples, _) in enumerate(clips[:3]):
        write(tmp_path / "sound" / f"{i}.wav", samples)
    lines = [f'"{text}, she said";sound/{i}.wav;{2 * i}' for i, (_, text) in enumerate(clips[:2])]
    lines.append(f'"two\nlines";sound\\{2}.wav;x')
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe" + "\n".join(["Words;Where;Who", *lines]).encode("utf-16-le"))
    with pytest.raises(InputError, match=r"list.csv: no columns for audio and text"):
        Corpus.read(tmp_path / "list.csv")
    with pytest.raises(InputError, match="no column 'said' for the text; choose one of Words, Where, Who"):
        Corpus.read(tmp_path / "list.csv", text="said")
    corpus = Corpus.read(tmp_path / "list.csv", audio="Where", text="Words", speaker="Who")
    same(corpus, [*((samples, f"{text}, she said") for samples, text in clips[:2]), (clips[2][0], "two lines")])
    assert [u.id for u in corpus] == ["sound/0", "sound/1", "sound/2"] and corpus[2].origin.line == 4


def test_librispeech(clips, tmp_path):
    for chapter, part in (("84/121123", clips[:2]), ("174/50561", clips[2:])):
        speaker, number = chapter.split("/")
        lines = []
        for i, (samples, text) in enumerate(part):
            name = f"{speaker}-{number}-{i:04d}"
            write(tmp_path / "dev-clean" / chapter / f"{name}.flac", samples)
            lines.append(f"{name} {text.upper()}\n")
        (tmp_path / "dev-clean" / chapter / f"{speaker}-{number}.trans.txt").write_text("".join(lines))
    corpus = Corpus.read(tmp_path / "dev-clean")
    same(corpus, [(samples, text.upper()) for samples, text in (*clips[2:], *clips[:2])])
    assert (corpus.name, corpus.layout, corpus.speakers) == ("dev-clean", "LibriSpeech", ["174", "84"])
    assert corpus[0].id == "174-50561-0000"
    assert len(Corpus.read(tmp_path / "dev-clean" / "84" / "121123" / "84-121123.trans.txt")) == 2


def test_ljspeech(clips, tmp_path):
    lines = []
    for i, (samples, text) in enumerate(clips):
        write(tmp_path / "wavs" / f"LJ001-{i:04d}.wav", samples)
        lines.append(f'LJ001-{i:04d}|Mr. "{i}|{text}\n')
    (tmp_path / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    corpus = Corpus.read(tmp_path)
    same(corpus, clips)
    assert corpus.layout == "LJSpeech" and corpus[3].id == "LJ001-0003" and corpus[3].origin.line == 4


@pytest.fixture
def long(clips, tmp_path) -> tuple[Path, list[tuple[float, float]]]:
    """The four clips one after another with half a second between, and when each begins and ends."""
    spans, sound = [], [np.zeros(RATE // 2, np.float32)]
    for samples, _ in clips:
        start = sum(map(len, sound)) / RATE
        spans.append((start, start + len(samples) / RATE))
        sound += [samples, np.zeros(RATE // 2, np.float32)]
    return write(tmp_path / "talk.flac", np.concatenate(sound)), spans


def clock(seconds: float, comma: str) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"00:{minutes:02.0f}:{seconds:06.3f}".replace(".", comma)


def test_subtitles_cut_a_long_recording(clips, long, tmp_path):
    audio, spans = long
    middle = clips[0][1].split()
    halfway = round(sum(spans[0]) / 2, 3)
    texts = [" ".join(middle[:2]), " ".join(middle[2:]), *(f"<i>{text}</i>" for _, text in clips[1:]), "[applause]"]
    times = [(spans[0][0], halfway), (halfway, spans[0][1]), *spans[1:], (0.0, 0.4)]
    for comma, suffix, head in ((",", ".srt", ""), (".", ".en.vtt", "WEBVTT\n\nNOTE made by hand\n\n")):
        blocks = [
            f"{i}\n{clock(start, comma)} --> {clock(end, comma)}\n{text}\n"
            for i, (text, (start, end)) in enumerate(zip(texts, times, strict=True), 1)
        ]
        path = tmp_path / f"talk{suffix}"
        path.write_text(head + "\n".join(blocks), encoding="utf-8")
        corpus = Corpus.read(path)
        same(corpus, clips)
        assert Corpus.read(audio) == Corpus.read(tmp_path) == corpus
        assert corpus[0].id == f"talk-{round(spans[0][0] * 100):06d}" and corpus[0].start == pytest.approx(spans[0][0])
        path.write_text(head + "\n".join([*blocks, "6\n00:00 -> x --> y\nlost\n", "7\n00:50:00 --> 00:51:00\nlate\n"]))
        assert [kind for _, _, kind in problems(Corpus.read(path))] == ["broken line", "audio too short"]
        path.unlink()

    again = Corpus.from_manifest(corpus.to_manifest(tmp_path / "cut.jsonl"))
    assert again == corpus
    np.testing.assert_array_equal(again[2].samples(), corpus[2].samples())
    first, second = corpus.split(0.5, by="utterance")  # parts of one recording are not one recording
    require_disjoint(first, second)
    assert corpus[:2].shared_with(corpus[1:]).utterances == (corpus[1].id,)
    whole = Corpus([Utterance("whole", audio, "all of it", duration=audio_header(audio).seconds)])
    assert len(corpus.without(whole)) == 0


def test_segment_lists_cut_a_long_recording(clips, long, tmp_path):
    audio, spans = long
    rows = [{"start": start, "end": end, "text": text} for (start, end), (_, text) in zip(spans, clips, strict=True)]
    lists = {
        "talk.json": json.dumps({"text": "...", "segments": rows}, indent=1),
        "talk.csv": "start,end,text\n" + "".join(f'{r["start"]},{r["end"]},"{r["text"]}"\n' for r in rows),
        # As Whisper's own tool writes it: whole milliseconds.
        "talk.tsv": "start\tend\ttext\n"
        + "".join(f"{r['start'] * 1000:.0f}\t{r['end'] * 1000:.0f}\t{r['text']}\n" for r in rows),
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        corpus = Corpus.read(tmp_path / name)
        assert [u.text for u in corpus] == [text for _, text in clips]
        assert [u.start for u in corpus] == pytest.approx([start for start, _ in spans], abs=1e-3)
        assert Corpus.read(audio) == corpus
        (tmp_path / name).unlink()
    (tmp_path / "several.json").write_text(json.dumps([{"audio": "talk.flac", **row} for row in rows]))
    same(Corpus.read(tmp_path / "several.json"), clips)
    (tmp_path / "several.json").write_text('[{"audio": "talk.flac", "start": 0.5, "end": 2, "text": "a"},\n3,\n{"x": ]')
    broken = Corpus.read(tmp_path / "several.json")
    assert problems(broken) == [("several.json", 2, "broken line"), ("several.json", 3, "broken line")]


def test_the_sound_track_of_a_film(clips, long, tmp_path):
    av = pytest.importorskip("av")
    audio, spans = long
    sound = read_audio(audio)
    film = tmp_path / "film" / "talk.mp4"
    film.parent.mkdir()
    with av.open(str(film), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=RATE)
        track.layout = "mono"
        for i in range(int(len(sound) / RATE * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i % 255, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    blocks = [f"{clock(s, ',')} --> {clock(e, ',')}\n{text}\n" for (s, e), (_, text) in zip(spans, clips, strict=True)]
    film.with_suffix(".srt").write_text("\n".join(blocks), encoding="utf-8")
    corpus = Corpus.read(film.parent).check()
    assert [u.text for u in corpus] == [text for _, text in clips] and not corpus.report.skipped
    for u, (samples, _) in zip(corpus, clips, strict=True):
        heard = u.samples()
        assert np.corrcoef(heard, np.resize(samples, len(heard)))[0, 1] > 0.98  # AAC, but not a sample late
    film.write_bytes(film.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"4 skipped, the first: .*talk.srt, line 1: .*talk.mp4"):
        Corpus.read(film.parent)


@pytest.fixture
def damaged(clips, tmp_path) -> Path:
    """A table of every kind of damage, one a line, between good ones."""
    speech, text = clips[0]
    folder = tmp_path / "clips"
    good = write(folder / "good.wav", speech)
    write(folder / "last.flac", clips[1][0])
    data = good.read_bytes()
    (folder / "cut.wav").write_bytes(data[: len(data) // 2])
    flac = write(folder / "cut.flac", speech)
    flac.write_bytes(flac.read_bytes()[: flac.stat().st_size // 2])
    (folder / "nothing.wav").touch()
    write(folder / "empty.wav", np.zeros(0, np.float32))
    write(folder / "silent.wav", np.zeros(2 * RATE, np.float32))
    write(folder / "nan.wav", np.where(np.arange(len(speech)) == 999, np.nan, speech), subtype="FLOAT")
    write(folder / "loud.wav", np.clip(speech * 100, -1, 1))
    write(folder / "phone.wav", np.stack([speech[::2]] * 2, axis=1), 8000)
    write(folder / "page.wav", speech)
    (folder / "page.wav").write_text("<html>not found</html>")
    write(folder / "lecture.flac", np.tile(speech, 31 * RATE // len(speech) + 1))
    shutil.copy(good, tmp_path / "elsewhere.wav")
    rows = [
        "path\tsentence\tid\tduration",
        f"good.wav\t{text}\ta\t",
        "gone.wav\tHello.\tgone\t",
        "/no/such/place/gone.wav\tHello.\tgone2\t",
        f"{tmp_path / 'elsewhere.wav'}\t{text}\tabsolute\t",
        "cut.wav\tHello.\tcut\t",
        "cut.flac\tHello there.\tcut2\t",
        "nothing.wav\tHello.\tnothing\t",
        "empty.wav\tHello.\tempty\t",
        "silent.wav\tHello.\tsilent\t",
        "nan.wav\tHello.\tnan\t",
        f"phone.wav\t{text}\tphone\t",
        "good.wav\tCaf\udce9.\tlatin\t",
        "good.wav\t\tmute\t",
        f"good.wav\t{text}\ta\t",
        f"good.wav\t{text}\tb\t99",
        "page.wav\tHello.\tpage\t",
        "lecture.flac\tHello.\tlecture\t",
        "good.wav",
        f"good.wav\t{text}\tc\tsoon",
        f"loud.wav\t{text}\tloud\t",
        f"last.flac\t{clips[1][1]}\tz\t",
    ]
    table = tmp_path / "all.tsv"
    table.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    return table


def test_damage_is_reported_by_line_and_stops_nothing(clips, damaged):
    read = Corpus.read(damaged)
    assert [(line, kind) for _, line, kind in problems(read)] == [
        (3, "missing audio"),
        (4, "missing audio"),
        (6, "truncated audio"),
        (8, "empty audio"),
        (9, "empty audio"),
        (13, "not UTF-8"),
        (14, "no words"),
        (15, "duplicate id"),
        (16, "wrong duration"),
        (17, "unreadable audio"),
        (18, "too long"),
        (19, "broken line"),
        (20, "broken line"),
    ]
    checked = read.check()
    found = {(p.line, p.kind) for p in checked.report.skipped if p not in read.report.skipped}
    assert found == {(7, "damaged audio"), (10, "silent audio"), (11, "not finite")}
    assert [u.id for u in checked] == ["a", "absolute", "phone", "loud", "z"]
    notes = {(p.line, p.kind) for p in checked.report.notes}
    assert notes == {(5, "absolute path"), (12, "below 16 kHz, resampled"), (21, "clipped")}
    assert checked[2].samples().shape == (2 * len(clips[0][0][::2]),)

    text = str(checked.report)
    assert "5 utterances" in text and "16 skipped" in text and "skipped, missing audio: 2" in text
    assert "all.tsv, line 15: id 'a' was given in" in text and "8 kHz, resampled to 16 kHz; 2 channels" in text
    table = checked.report.frame()
    assert len(table) == 19 and table["skipped"].sum() == 16 and table["line"].between(3, 21).all()
    assert json.loads(json.dumps(checked.report.to_dict()))["skipped"][0]["line"] == 3
    for problem in checked.report.problems:
        assert problem.reason.endswith(".") and "\n" not in problem.reason

    with pytest.raises(InputError, match="all.tsv, line 3: gone.wav: no such audio file"):
        Corpus.read(damaged, strict=True)


def test_an_error_only_where_nothing_is_left(damaged):
    lines = damaged.read_bytes().split(b"\n")
    damaged.write_bytes(b"\n".join([lines[0], *lines[2:4]]))
    with pytest.raises(InputError, match="nothing in it can be used; 2 skipped, the first: .*line 2"):
        Corpus.read(damaged)
    damaged.write_bytes(b"\n".join([lines[0], lines[9], lines[10]]))
    with pytest.raises(InputError, match=r"no recording is sound; the first: .*line 2: .*silent"):
        Corpus.read(damaged).check()
    damaged.write_bytes(lines[0])
    with pytest.raises(InputError, match="it is empty"):
        Corpus.read(damaged)
    (damaged.parent / "more").mkdir()
    with pytest.raises(InputError, match=r"more: holds no speech in a layout that is known"):
        Corpus.read(damaged.parent / "more")
    with pytest.raises(InputError, match=r"none.tsv: no such file"):
        Corpus.read(damaged.parent / "none.tsv")


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_data_sets(clips, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    rows = []
    for i, (samples, text) in enumerate(clips):
        file = write(tmp_path / f"{i}.flac", samples)
        stored = {"bytes": file.read_bytes(), "path": None} if i % 2 else {"bytes": None, "path": str(file)}
        rows.append({"sound": stored, "said": text, "who": f"s{i % 2}", "gender": "f", "lists": [1]})
    rows.insert(1, {**rows[1], "sound": {"bytes": b"no audio", "path": "x.wav"}})
    rows.insert(2, {**rows[0], "said": None})
    made = datasets.Dataset.from_list(rows).cast_column("sound", datasets.Audio(8000))
    given = made.to_iterable_dataset() if streaming else made
    corpus = Corpus.from_dataset(given, audio="sound", text="said", speaker="who", name="hub", cache=tmp_path / "kept")
    same(corpus, clips)
    assert corpus.speakers == ["s0", "s1"] and corpus[0].more == {"gender": "f"} and corpus[3].id == "000005"
    assert problems(corpus) == [("hub", 2, "unreadable audio"), ("hub", 3, "no words")]
    assert Corpus.from_manifest(corpus.to_manifest(tmp_path / "hub.jsonl")) == corpus
    few = Corpus.from_dataset(given, audio="sound", text="said", limit=1, cache=tmp_path / "kept")
    assert [u.text for u in few] == [clips[0][1]]
    for wrong, message in (({"text": "words"}, "no column 'words' for the text; choose one of sound"), ({}, "text=")):
        with pytest.raises(InputError, match=message):
            Corpus.from_dataset(given, audio="sound", cache=tmp_path / "kept", **wrong)
    with pytest.raises(InputError, match=r"dict of splits \(train\)"):
        Corpus.from_dataset({"train": given})


def test_rows_that_are_decoded_already(clips, tmp_path):
    rows = [{"audio": {"array": samples, "sampling_rate": RATE}, "text": text} for samples, text in clips[:2]]
    stereo = {"array": np.stack([clips[2][0]] * 2), "sampling_rate": RATE}
    rows += [{"audio": stereo, "text": clips[2][1]}, {"audio": {"array": [0.0, 0.1]}, "text": "no rate"}]
    corpus = Corpus.from_dataset(iter(rows), cache=tmp_path)
    same(corpus, clips[:3], tolerance=1e-6)
    assert problems(corpus) == [("data set", 4, "unreadable audio")]


def test_a_sentence_that_several_people_read_is_several_utterances(clips, tmp_path):
    """FLEURS numbers the sentence, not the recording."""
    rows = [{"audio": {"array": samples, "sampling_rate": RATE}, "text": clips[0][1], "id": 7} for samples, _ in clips]
    corpus = Corpus.from_dataset(iter(rows), cache=tmp_path)
    assert [u.id for u in corpus] == ["7", "7-000002", "7-000003", "7-000004"] and not corpus.report.skipped
    same(corpus, [(samples, clips[0][1]) for samples, _ in clips], tolerance=1e-6)


def test_wrong_transcripts_are_found(clips, tiny_en, tmp_path):
    corpus = aw.demo_speech()["target_dev"][:6]
    rows = list(corpus)
    mixed = [Utterance(u.id, u.audio, rows[i + 1].text, u.speaker, u.duration) for i, u in enumerate(rows[:2])]
    endless = Utterance("endless", rows[3].audio, "word " * 60, "x", rows[3].duration)
    wrong = Corpus([*mixed, endless, *rows[4:]], "wrong")
    quick = aw.check_speech(wrong)
    assert [s.id for s in quick.suspects] == ["endless"] and "words per second" in quick.suspects[0].reason
    heard = aw.check_speech(wrong, tiny_en)
    assert {s.id for s in heard.suspects} == {"endless", *(u.id for u in mixed)}
    assert [u.id for u in heard.good] == [u.id for u in rows[4:]]
    table = heard.frame()
    assert (table["wer"] > 50).all() and table["wer"].is_monotonic_decreasing
    assert rows[0].text.split()[0] in set(" ".join(table["heard"]).split())
    assert "3 of 5 transcripts may not match" in str(heard) and "<table" in heard._repr_html_()
    assert json.loads(json.dumps(heard.to_dict()))["checked"] == 5


def test_what_other_people_write_all_the_same(clips, tmp_path):
    samples, text = clips[0]
    write(tmp_path / "a.wav", samples)

    def read(name: str, content: str, **options: str) -> Corpus:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        corpus = Corpus.read(path, **options)
        path.unlink()
        return corpus

    # A quote that is never closed costs its line, not the rest of the table.
    corpus = read("t.csv", f'path,text,id\na.wav,"{text},x\na.wav,{text},y\na.wav,"{text}",z\n')
    assert [u.id for u in corpus] == ["y", "z"] and problems(corpus) == [("t.csv", 2, "broken line")]
    corpus = read("t.csv", f"path,text,id\na.wav,{'w' * 200_000},x\na.wav,{text},y\n")
    assert [u.id for u in corpus] == ["y"] and problems(corpus) == [("t.csv", 2, "broken line")]
    # A classic Mac's lines, longer together than a table's first line may be.
    corpus = read("t.csv", f"path,text,id\ra.wav,{text},x\r" + f"gone.wav,{text},y\r" * 3000)
    assert [u.id for u in corpus] == ["x"]
    # The hub's audio folders, DeepSpeech's tables, bars without a header.
    for name, content in (
        ("metadata.jsonl", json.dumps({"file_name": "a.wav", "transcription": text})),
        ("metadata.csv", f'file_name,transcription\na.wav,"{text}"\n'),
        ("train.csv", f'wav_filename,wav_filesize,transcript\na.wav,1234,"{text}"\n'),
        ("metadata.txt", f"a.wav|{text}\n"),
    ):
        corpus = read(name, content)
        same(corpus, clips[:1])
        assert corpus[0].id == "a"
    # Captions that roll show every line twice.
    rolling = "WEBVTT\n\n00:00.000 --> 00:01.000 align:start\n \nhe<00:00:00.500><c> said</c>\n\n"
    rolling += (
        "00:01.000 --> 00:01.010\nhe said\n \n\n00:01.010 --> 00:02.000\nhe said\nyes<00:00:01.500><c> twice</c>\n"
    )
    assert [u.text for u in read("a.vtt", rolling)] == ["he said yes twice"]
    # Names that no file can have, and no names at all.
    rows = [{"audio": name, "text": text} for name in ("a.wav", "x" * 5000, "x\0y", 3)]
    for content, options in (
        ("[" + ",\n".join(map(json.dumps, rows)) + "]", {}),
        ("\n".join(map(json.dumps, rows)), {"strict": False}),
    ):
        assert [line for _, line, _ in problems(read("rows.json", content, **options))] == [2, 3, 4]
    # Two speakers, a pause, and dialogue marks.
    voices = "WEBVTT\n\n00:00.000 --> 00:00.500\n<v Ann>Well\n\n00:00.500 --> 00:01.000\n<v Bob>- Yes\n\n"
    voices += "00:02.100 --> 00:02.300\n<v Bob>&amp; no\n"
    corpus = read("a.vtt", voices)
    assert [(u.speaker, u.text) for u in corpus] == [("Ann", "Well"), ("Bob", "Yes"), ("Bob", "& no")]
    # A list of segments in which one does not say when, and one ends before it starts.
    corpus = read("a.csv", "start,end,text\n0,0:01,one\n,,two\n1,0.5,three\nsoon,2,four\n")
    assert [u.text for u in corpus] == ["one"] and corpus[0].duration == 1.0
    assert problems(corpus) == [
        ("a.csv", 3, "broken line"),
        ("a.csv", 4, "impossible times"),
        ("a.csv", 5, "broken line"),
    ]
    # A .json that is something else does not hide the text beside it.
    (tmp_path / "a.json").write_text('{"title": "a film"}')
    (tmp_path / "a.txt").write_text(text)
    same(Corpus.read(tmp_path), clips[:1])
    # A table that is none stops nobody from reading what lies beside it.
    for content in (b"a,b\rc,d\r", b"\x00\xff,\r\x00\n\r\x01", b"PK\x03\x04"):
        (tmp_path / "z.csv").write_bytes(content)
        same(Corpus.read(tmp_path), clips[:1])
        with pytest.raises(InputError, match=r"z.csv"):
            Corpus.read(tmp_path / "z.csv")
    (tmp_path / "z.csv").unlink()
    # Two languages of subtitles.
    for language in ("en", "de"):
        (tmp_path / f"a.{language}.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHi\n")
    with pytest.raises(InputError, match=r"a.de.srt and a.en.srt both have its name"):
        Corpus.read(tmp_path)
