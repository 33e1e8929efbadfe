"""A vocabulary cut for one language: the tokens that the language does not need go, with their rows of the embedding.

Byte-pair encoding builds every token from two smaller ones. A kept set that holds the parts of all its tokens, all
single bytes and all special tokens can still spell every text, and a text whose tokens are all kept is encoded as
before. Ids are renumbered in the same order, so timestamps still come last and languages before tasks.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from adaptwin_widgets.errors import InputError
from adaptwin_widgets.spelling import pair
from adaptwin_widgets.twins import exact

if TYPE_CHECKING:
    from transformers import WhisperProcessor

    from adaptwin_widgets.observe import Statistics
    from adaptwin_widgets.whisper import Whisper

SPARE = 1e-3  # share of a language's running tokens that may be cut where nobody says a size
WORDS = 40_000  # most frequent words that a language's tokens are counted in
CASES = ((str.lower, 0.85), (str.capitalize, 0.15))  # how often a word is written so
SPACELESS = ("zh", "ja", "th", "yue", "lo", "my", "km")  # written without spaces between words
STARTS = 0.05  # share of words that no space precedes
MARKS = 1e-5  # how often a short mark of punctuation is written that no word list counts
SCALARS = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "no_timestamps_token_id",
    "prev_sot_token_id",
)  # fmt: skip
LISTS = ("suppress_tokens", "begin_suppress_tokens")
TABLES = ("lang_to_id", "task_to_id")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model keeps: their ids in the original, ascending, and the language they were chosen for.

    >>> Vocabulary("en", (0, 1, 2, 7)).to_dict()
    {'language': 'en', 'size': 4, 'kept': '0-2 7'}
    """

    language: str
    kept: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def places(self) -> dict[int, int]:
        """The new id of every token that is kept, by its old one."""
        return {old: new for new, old in enumerate(self.kept)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; runs of ids as first-last."""
        ids = np.asarray(self.kept)
        runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
        kept = " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs if len(run))
        return {"language": self.language, "size": len(self), "kept": kept}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """Read what `to_dict` gave; raises ValueError, KeyError or AttributeError for anything else.

        >>> Vocabulary.from_dict({"language": "en", "kept": "0-2 7"}).kept
        (0, 1, 2, 7)
        """
        kept: list[int] = []
        for run in data["kept"].split():
            first, _, last = run.partition("-")
            kept += range(int(first), int(last or first) + 1)
        return cls(str(data["language"]), tuple(kept))

    def check(self, size: int) -> None:
        """Raise InputError unless these are ids of a vocabulary of this size, ascending."""
        ids = np.asarray(self.kept)
        if not len(ids) or ids[0] < 0 or ids[-1] >= size or (np.diff(ids) <= 0).any():
            raise InputError(f"vocabulary.kept has to hold ascending token ids below {size}.")


def choose_vocabulary(
    model: Whisper, language: str = "en", *, size: int | None = None, stats: Statistics | None = None
) -> Vocabulary:
    """The tokens a language needs, most used first, as many as `size` allows, special tokens and bytes included.

    What is used is counted in a list of the language's words by frequency (the package wordfreq), encoded by the
    model's own tokenizer, and, half and half, in what the model expects on the speech that `stats` were observed on.
    Without `size` the cut stops where a thousandth of the language's running tokens would go.

    >>> import adaptwin_widgets as aw                                                    # doctest: +SKIP
    >>> small = aw.choose_vocabulary(aw.load("base"), "en", size=12_000)                 # doctest: +SKIP
    >>> len(small), len(aw.load("base").processor.tokenizer)                             # doctest: +SKIP
    (12000, 51865)

    Raises InputError for a language without a word list, a size that does not fit, and without wordfreq.
    """
    tokenizer, whole = model.processor.tokenizer.backend_tokenizer, model.config.vocab_size
    pieces = Pieces.of(tokenizer)
    used = _use(tokenizer.to_str(), language).copy()
    if stats is not None and stats.output is not None:
        seen = exact(stats.output.chances).cpu().numpy()[: len(used)]
        used = used / used.sum() + seen / seen.sum()
    never = [token for token in model.model.generation_config.suppress_tokens or [] if token < len(used)]
    used[never] = 0.0  # the model may not write them
    worth = used / used.sum()
    for token in sorted(pieces.parts, reverse=True):  # a part is worth at least what is made of it
        for part in pieces.parts[token]:
            worth[part] = max(worth[part], worth[token])
    always = [i for i in range(whole) if i not in pieces.parts]
    order = sorted(pieces.parts, key=lambda token: (-worth[token], token))
    if size is None:
        kept = used[[i for i in always if i < len(used)]].sum() + np.cumsum(used[order])
        size = len(always) + int((kept < (1 - SPARE) * used.sum()).sum()) + 1
    if not len(always) <= size <= whole:
        raise InputError(f"A vocabulary of {size} cannot be cut from {model.name}; give {len(always)} to {whole}.")
    return Vocabulary(language, tuple(sorted(always + order[: size - len(always)])))


class Pieces(NamedTuple):
    """The tokens that are made of two others: parts of each by id; text: every ordinary token as it is stored."""

    parts: dict[int, tuple[int, int]]
    text: dict[int, str]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Pieces:
        content = json.loads(tokenizer.to_str())["model"]
        ids = content["vocab"]
        parts = {ids[first + second]: (ids[first], ids[second]) for first, second in map(pair, content["merges"])}
        return cls(parts, {place: token for token, place in ids.items()})


@functools.lru_cache(maxsize=8)
def _use(content: str, language: str) -> np.ndarray:
    """How often each ordinary token of a tokenizer, given as JSON, is used in a language, in any unit."""
    frequencies, tokenizer = _frequencies(language), Tokenizer.from_str(content)
    pieces = Pieces.of(tokenizer)
    used = np.zeros(max(pieces.text) + 1)
    words = [word for word in frequencies if not re.search(r"\d\d", word)][:WORDS]
    for writing, share in _writings(language):
        encoded = tokenizer.encode_batch_fast([writing(w) for w in words], add_special_tokens=False)
        for word, one in zip(words, encoded, strict=True):
            used[one.ids] += share * frequencies[word]
    shapes: dict[str, list[int]] = {}
    for token in pieces.text:
        text = tokenizer.decode([token], skip_special_tokens=False).strip()
        if text.isdecimal():
            shapes.setdefault("0" * len(text), []).append(token)  # as word lists write numbers of several digits
        elif text and len(text) <= 3 and all(unicodedata.category(c)[0] in "PS" for c in text):
            used[token] += MARKS
    for shape, tokens in shapes.items():
        used[tokens] += frequencies.get(shape, 0.0) / len(tokens)
    return used


def _writings(language: str) -> Iterator[tuple[Any, float]]:
    """The ways in which words are written, and how often each."""
    if language in SPACELESS:
        yield str, 1.0
        return
    for case, share in CASES:
        yield (lambda word, case=case: " " + case(word)), share * (1 - STARTS)
    yield str.capitalize, STARTS


def _frequencies(language: str) -> Mapping[str, float]:
    try:
        import wordfreq
    except ImportError as error:
        raise InputError(
            "The word lists are not installed here; run: pip install 'adaptwin-widgets[vocabulary]'."
        ) from error
    if language not in wordfreq.available_languages():
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise InputError(f"There is no word list for language {language!r}; choose one of {known}.")
    return wordfreq.get_frequency_dict(language)


def cut_processor(processor: WhisperProcessor, words: Vocabulary) -> WhisperProcessor:
    """A copy whose tokenizer knows the kept tokens only, renumbered; raises InputError where a part is missing."""
    new, tokenizer = copy.copy(processor), copy.copy(processor.tokenizer)
    tokenizer._tokenizer = recoded(processor.tokenizer.backend_tokenizer, words.places)
    new.tokenizer = tokenizer
    return new


def recoded(tokenizer: Tokenizer, places: Mapping[int, int]) -> Tokenizer:
    """A tokenizer of some of another's tokens.

    places: the new id of every token that stays, by its old one; ids between them are filled up. Raises InputError
    where a part of a token or a special token is missing.
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    model["vocab"] = {token: places[old] for token, old in model["vocab"].items() if old in places}
    model["merges"] = [both for both in map(pair, model["merges"]) if "".join(both) in model["vocab"]]
    for first, second in model["merges"]:
        if first not in model["vocab"] or second not in model["vocab"]:
            raise InputError(f"vocabulary.kept holds {first + second!r} but not its parts; choose the vocabulary anew.")
    try:
        for token in content["added_tokens"]:
            token["id"] = places[token["id"]]
        for special in (content.get("post_processor") or {}).get("special_tokens", {}).values():
            special["ids"] = [places[old] for old in special["ids"]]
    except KeyError as error:
        raise InputError(f"vocabulary.kept lacks the special token {error}; choose the vocabulary anew.") from error
    taken = set(places.values())  # the library gives special tokens the next free ids, whatever the file says
    model["vocab"] |= {filler(i): i for i in range(max(taken)) if i not in taken}
    return Tokenizer.from_str(json.dumps(content))


def filler(place: int) -> str:
    """The name of a token that is there for its place only."""
    return f"<|cut {place}|>"


def renumbered(settings: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, Any]:
    """Those of a model's or a generation's settings that hold token ids, with the new ids (`recoded`); tokens that
    were cut leave the lists of suppressed ones.

    >>> renumbered({"eos_token_id": 7, "suppress_tokens": [1, 5], "max_length": 448}, {1: 1, 7: 3})
    {'eos_token_id': 3, 'suppress_tokens': [1]}
    """
    given = {name: value for name, value in settings.items() if value is not None}
    new: dict[str, Any] = {}
    for name in given.keys() & set(SCALARS):
        value = given[name]
        new[name] = [places[v] for v in value] if isinstance(value, list) else places.get(value)
    for name in given.keys() & set(LISTS):
        new[name] = [places[old] for old in given[name] if old in places]
    for name in given.keys() & set(TABLES):
        new[name] = {key: places[old] for key, old in given[name].items()}
    if "forced_decoder_ids" in given:
        new["forced_decoder_ids"] = [[at, places.get(old)] for at, old in given["forced_decoder_ids"]]
    return new


class Shared(NamedTuple):
    """What a model with a cut vocabulary and its original have in common.

    kept: for each token of the small model, its id in the original. nearest: for each token of the original, the
    small model's id, of a token that was cut its last piece that was not.
    """

    kept: Tensor
    nearest: Tensor


def shared(small: Whisper, original: Whisper) -> Shared | None:
    """How the tokens of two models correspond, by their texts; None where the vocabularies are as large."""
    if small.config.vocab_size == original.config.vocab_size:
        return None
    ours, theirs = (w.processor.tokenizer.get_vocab() for w in (small, original))
    if not set(ours) <= set(theirs):
        raise InputError(f"{small.source} has tokens that {original.source} has not; give the original it was made of.")
    kept = torch.tensor(sorted(theirs[token] for token in ours))
    parts = Pieces.of(original.processor.tokenizer.backend_tokenizer).parts
    nearest = torch.full((original.config.vocab_size,), -1)
    nearest[kept] = torch.arange(len(kept))
    for token in sorted(parts):  # parts come before what is made of them
        if nearest[token] < 0:
            nearest[token] = nearest[parts[token][1]]
    return Shared(kept.to(small.device), nearest.to(small.device))
