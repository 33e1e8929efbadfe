"""How text becomes tokens, where a model's own file tells it wrongly."""

from __future__ import annotations

import json

from tokenizers import Tokenizer

FIRST_MERGE = ["\u0120", "t"]  # a space as byte-level tokenizers write it


def pair(merge: str | list[str]) -> list[str]:
    """The two parts of a merge, which a ``tokenizer.json`` holds as one text or as two."""
    return merge.split(" ") if isinstance(merge, str) else merge


def whole(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with its first merge, of a space and a t, which copies of the multilingual one have lost.

    Without it " the" is a space and "the", two tokens that Whisper, which was trained with it, never writes so; a model
    that learns from texts would learn them for every word with a t in front.

    >>> from adaptwin_widgets.whisper import load                                        # doctest: +SKIP
    >>> load("base").processor.tokenizer.tokenize(" to the letter")                      # doctest: +SKIP
    ['Ġto', 'Ġthe', 'Ġletter']
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if FIRST_MERGE in map(pair, model["merges"]) or "".join(FIRST_MERGE) not in model["vocab"]:
        return tokenizer
    model["merges"] = [FIRST_MERGE, *model["merges"]]
    return Tokenizer.from_str(json.dumps(content))
