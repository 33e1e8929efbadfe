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
    known = tokenizer.token_to_id("".join(FIRST_MERGE)) is not None
    if not known or len(tokenizer.encode(" t", add_special_tokens=False)) == 1:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    content["model"]["merges"] = [FIRST_MERGE, *content["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(content))
