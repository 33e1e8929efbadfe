"""A text put right by a transcript: only what is wrong changes, and it changes in the model's own manner."""

import pytest

from adaptwin_widgets.correction import corrected
from adaptwin_widgets.score import normaliser


@pytest.mark.parametrize(
    ("heard", "said", "expected"),
    [
        ("Gad, do I remember it?", "gad do I remember it", "Gad, do I remember it?"),
        ("Philip Steals, etc.", "Philip Steels, etc.", "Philip Steels, etc."),
        ("He left. Was it Mary?", "HE LEFT WAS IT MARIE", "He left. Was it Marie?"),
        ("Bin he was there.", "BEN HE WAS THERE", "Ben he was there."),
        ("It cost 22 dollars.", "It cost twenty two dollars", "It cost 22 dollars."),
        ("That's a favorite colour.", "That is a favourite color.", "That's a favorite colour."),
        ("a b c d", "A B C D E", "a b c d e"),
        ("a b c d e", "A B C D", "a b c d"),
        ("um he said uh yes", "He said yes.", "um he said uh yes"),
    ],
)
def test_only_what_is_wrong_changes(heard, said, expected):
    assert corrected(heard, said) == expected


def test_what_comes_out_says_what_was_said():
    heard = "I was about to do this when cooler judgement prevailed. Twenty-won men, 3 boats and mister Smiths dog"
    said = "i was about to do this when cooler judgment prevailed twenty one men three boots and mr smith's dog"
    normalise = normaliser("en")
    assert normalise(corrected(heard, said)) == normalise(said)
    assert corrected(heard, said).startswith("I was about to do this when cooler judgement prevailed.")


@pytest.mark.parametrize(
    ("heard", "said", "language"),
    [
        ("Thank you.", "he turned and looked back", "en"),
        ("", "something", "en"),
        ("something", "", "en"),
        ("something", "...", "en"),
        ("今日はいい天気", "今日はいい電気", "ja"),
    ],
)
def test_a_transcript_of_something_else_is_not_taken(heard, said, language):
    assert corrected(heard, said, language) is None
