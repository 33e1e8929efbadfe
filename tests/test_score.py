"""Word error rates, intervals and paired differences, against counts made by hand and by plain loops."""

import json

import jiwer
import numpy as np
import pytest

import adaptwin_widgets as aw
from adaptwin_widgets.errors import InputError
from adaptwin_widgets.score import RESAMPLES, SEED, normaliser, paired_difference, score_texts

REFERENCES = ["the cat sat on the mat", "a dog barked", "rain again", "one more line of words"]
SAID = ["the cat sat on mat", "a dog has barked", "rain again", "one more lion of birds"]
IDS = ["a", "b", "c", "d"]


def test_counts_by_hand():
    score = score_texts(REFERENCES, SAID, IDS)
    assert (score.words, score.utterances) == (16, 4)
    assert (score.deletions, score.insertions, score.substitutions) == (1, 1, 2)
    assert score.wer == 25.0
    assert [row.errors for row in score.hypotheses] == [1, 1, 0, 2]
    assert score.metric == "wer" and score.loops == 0


def test_corpus_rate_is_not_the_mean_of_rates():
    score = score_texts(["one", "a b c d e f g h i"], ["two", "a b c d e f g h i"], ["x", "y"])
    assert score.wer == 10.0


def test_agrees_with_jiwer_on_the_whole_corpus():
    clean = normaliser("en")
    pairs = [(clean(r), clean(h)) for r, h in zip(REFERENCES, SAID, strict=True)]
    expected = 100 * jiwer.wer(*map(list, zip(*pairs, strict=True)))
    assert score_texts(REFERENCES, SAID, IDS).wer == pytest.approx(expected)


def test_spelling_and_titles_are_no_errors():
    assert score_texts(["Mr. Brown's favourite colour, okay?"], ["mister brown's favorite color okay"], ["a"]).wer == 0


def test_interval_equals_a_plain_loop_over_the_same_draws():
    score = score_texts(REFERENCES, SAID, IDS)
    draws = np.random.default_rng(SEED).multinomial(4, [0.25] * 4, RESAMPLES)
    rates = []
    for draw in draws:
        errors = words = 0
        for times, row in zip(draw, score.hypotheses, strict=True):
            errors, words = errors + times * row.errors, words + times * row.words
        rates.append(100 * errors / words)
    assert (score.wer_low, score.wer_high) == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))
    assert score.wer_low < score.wer < score.wer_high


def test_an_empty_reference_counts_insertions_only():
    score = score_texts(["(laughs)", "left right"], ["ha ha ha", "left right"], ["a", "b"])
    assert (score.words, score.insertions, score.substitutions) == (2, 3, 0)
    assert score.wer == 150.0
    silent = score_texts(["", "left right"], ["", "left right"], ["a", "b"])
    assert silent.wer == 0


def test_an_empty_hypothesis_is_all_deletions():
    assert score_texts(["left right up"], [""], ["a"]).deletions == 3


def test_no_words_at_all_is_refused():
    with pytest.raises(InputError, match="no words"):
        score_texts(["(laughs)", "(music)"], ["a", "b"], ["a", "b"])


def test_lists_of_different_length_are_refused():
    with pytest.raises(InputError, match="2 references, 1 hypotheses"):
        score_texts(["a", "b"], ["a"], ["a", "b"])


@pytest.mark.parametrize("language", ["ja", "Japanese"])
def test_characters_count_where_words_are_not_spaced(language):
    score = score_texts(["今日はいい天気"], ["今日は いい電気。"], ["a"], language)
    assert (score.metric, score.language) == ("cer", "ja")
    assert (score.words, score.substitutions, score.insertions) == (7, 1, 0)


def test_other_languages_keep_words_and_their_spelling():
    score = score_texts(["Die Straße, grün!"], ["die straße grün"], ["a"], "de")
    assert (score.metric, score.words, score.wer) == ("wer", 3, 0)


def test_paired_difference_is_narrower_than_the_intervals_and_signed():
    rng = np.random.default_rng(1)
    references, worse, better = [], [], []
    for _ in range(60):
        words = [f"w{rng.integers(1000)}" for _ in range(10)]
        wrong = int(rng.integers(6))  # the difficulty both share
        references.append(" ".join(words))
        better.append(" ".join(["x"] * wrong + words[wrong:]))
        worse.append(" ".join(["x"] * (wrong + 1) + words[wrong + 1 :]))
    ids = list(map(str, range(60)))
    bad, good = score_texts(references, worse, ids), score_texts(references, better, ids)
    difference, low, high = paired_difference(bad, good)
    assert difference == pytest.approx(bad.wer - good.wer) == pytest.approx(10)
    assert low == pytest.approx(10) and high == pytest.approx(10)
    assert bad.wer_high - bad.wer_low > 3
    back = paired_difference(good, bad)
    assert back == pytest.approx((-10, -10, -10))


def test_scores_of_different_utterances_are_not_compared():
    one, other = score_texts(REFERENCES, SAID, IDS), score_texts(REFERENCES, SAID, list("abce"))
    with pytest.raises(InputError, match="same utterances"):
        paired_difference(one, other)
    with pytest.raises(InputError, match="wer, the other a cer"):
        paired_difference(one, score_texts(REFERENCES, SAID, IDS, "ja"))


def test_hypotheses_go_to_a_file(tmp_path):
    score = score_texts(REFERENCES, SAID, IDS, looped=[False, True, False, False])
    path = score.write_hypotheses(tmp_path / "said.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert rows[1] == {
        "id": "b", "reference": "a dog barked", "hypothesis": "a dog has barked", "words": 3, "insertions": 1,
        "deletions": 0, "substitutions": 0, "looped": True, "errors": 1,
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["said.jsonl"]
    assert score.loops == 1


def test_to_dict_is_json_without_hypotheses():
    values = json.loads(json.dumps(score_texts(REFERENCES, SAID, IDS).to_dict()))
    keys = [
        "wer",
        "wer_low",
        "wer_high",
        "words",
        "utterances",
        "insertions",
        "deletions",
        "substitutions",
        "audio_seconds",
        "seconds",
    ]
    assert set(keys) <= set(values)
    assert "hypotheses" not in values and "difference" not in values


def test_evaluate_a_model_against_itself(tiny_en):
    corpus = aw.demo_speech()["target_dev"]
    score = aw.evaluate(tiny_en, corpus, limit=4, dtype="float32", against=tiny_en)
    assert (score.utterances, score.dtype, score.language) == (4, "float32", "en")
    assert (score.difference, score.difference_low, score.difference_high) == (0, 0, 0)
    assert score.wer < 40 and score.audio_seconds == pytest.approx(corpus[:4].seconds)
    assert score.seconds > 0
    with pytest.raises(InputError):
        aw.evaluate(tiny_en, corpus[:0])
