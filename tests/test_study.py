"""Studies: records that survive, and the frontier they draw."""

import json

import pytest

from adaptwin_widgets.comparison import stored_by
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.score import score_texts
from adaptwin_widgets.study import Record, Study, point_name

ABOUT = {"model": "tiny.en", "seed": 0}


def score(wer):
    return {"wer": wer, "wer_low": wer - 1, "wer_high": wer + 1, "words": 100, "metric": "wer"}


def record(name, reduction, target, general, tuned=False):
    sizes = {"encoder_reduction": reduction, "decoder_reduction": 0.0, "model_reduction": reduction / 4,
             "parameters_before": 100, "parameters_after": round(100 * (1 - reduction / 4))}  # fmt: skip
    extra = {}
    if name != "original":
        extra["plan"] = {"format": 1}
    if tuned:
        extra |= {"tuning": {"steps": 3}, "untuned": {"target": score(target + 5), "general": score(general + 5)}}
    return Record(name, sizes, {"target": score(target), "general": score(general)}, **extra)


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path / "run", ABOUT)
    study.add(record("original", 0.0, 4.2, 7.1))
    study.add(record("encoder-30", 0.3, 5.0, 8.0, tuned=True))
    return study


def test_records_come_back(study):
    again = Study(study.folder)
    assert again.records == study.records and again.about == ABOUT
    assert again["encoder-30"].versions["torch"] and again["encoder-30"].time
    again.add(record("encoder-45", 0.45, 6.0, 9.0))
    assert [r.name for r in Study(study.folder).records] == ["original", "encoder-30", "encoder-45"]


def test_the_table_has_every_stage(study):
    table = study.frame().set_index(["try", "stage", "evaluation"])["wer"]
    assert table["encoder-30", "tuned", "target"] == 5.0
    assert table["encoder-30", "untuned", "general"] == 13.0
    assert table["original", "original", "target"] == 4.2
    assert len(table) == 6


def test_a_torn_last_line_is_forgotten_and_cut_off(study):
    path = study.folder / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"name": "encoder-45", "siz')
    again = Study(study.folder)
    assert [r.name for r in again.records] == ["original", "encoder-30"]
    again.add(record("encoder-60", 0.6, 9.0, 9.0))
    assert path.read_bytes().startswith(whole)
    assert [r.name for r in Study(study.folder).records] == ["original", "encoder-30", "encoder-60"]


def test_a_damaged_line_is_named(study):
    path = study.folder / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"nonsense\n" + lines[1])
    with pytest.raises(InputError, match=r"records\.jsonl, line 2"):
        Study(study.folder)


def test_a_line_ends_where_the_writer_ended_it(study):
    """U+2028, U+2029 and U+0085 end a line for `str.splitlines`, and stand as they are within a text."""
    texts, ids = ["one\u2028two", "three\u2029four\x85five"], ["a", "b"]
    score = score_texts(texts, texts, ids)
    study.add(Record("split", {}, {"target": score.to_dict()}))
    score.write_hypotheses(study.hypotheses_file("split", "target"))
    assert [row["hypothesis"] for row in study.hypotheses("split", "target")] == texts
    stored = stored_by(study, "split", "target")
    assert stored is not None and [row["reference"] for row in stored.rows] == texts


def test_a_study_where_there_is_no_room(study, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for place in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "run"):
        with pytest.raises(InputError, match="thesis.txt is a file; give another path"):
            Study(place, ABOUT)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_another_study_is_not_mixed_in(study, tmp_path):
    with pytest.raises(InputError, match="another model .'tiny.en', not 'base'"):
        Study(study.folder, {"model": "base"})
    with pytest.raises(InputError, match="holds no study"):
        Study(tmp_path / "nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        Study(tmp_path / "mine", ABOUT)
    with pytest.raises(InputError, match="already"):
        study.add(record("original", 0.0, 1.0, 1.0))


def test_the_frontier_shows_every_point_with_its_interval(study):
    figure = study.figure()
    traces = {t.name: t for t in figure.data}
    assert set(traces) == {"target", "general", "target, before tuning", "general, before tuning"}
    assert list(traces["target"].y) == [4.2, 5.0]
    assert list(traces["target"].error_y.array) == pytest.approx([1, 1])
    assert list(traces["general, before tuning"].y) == [13.0]
    assert traces["target"].line.color != traces["general"].line.color
    assert traces["target"].marker.symbol != traces["general"].marker.symbol
    assert "%" in figure.layout.yaxis.title.text and "Encoder" in figure.layout.xaxis.title.text


def test_the_page_needs_no_network(study):
    page = study.draw().read_text(encoding="utf-8")
    assert "<script src=" not in page and "encoder-30" in page
    assert study.draw().parent == study.folder and not list(study.folder.glob(".*"))


def test_an_empty_study_draws(tmp_path):
    assert Study(tmp_path / "run", ABOUT).draw().is_file()


def test_names_of_points():
    assert point_name(0.15) == "encoder-15" and point_name(0.475) == "encoder-47.5"


def test_records_are_one_line_each(study):
    lines = (study.folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["original", "encoder-30"]
