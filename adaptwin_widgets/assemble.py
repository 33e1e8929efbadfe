"""A model from plain weights: what layouts other than transformers' leave out, tokenizer and settings, is made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from adaptwin_widgets import ct2_reader
from adaptwin_widgets.errors import InputError

ENGLISH_TOKENS = 51864  # English-only Whispers have so many; multilingual ones one more, those with Cantonese two
FIRST_NEW_LANGUAGE = 50358  # where large-v3 and turbo have Cantonese, and the others the task of translation
MARKS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
SYMBOLS = (*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', *MARKS.split())
NOTES_OF_MUSIC = "♩♪♫♬♭♮♯"  # some are several tokens; the first, which few others begin with, is forbidden


def assemble(
    state: dict[str, Tensor],
    sizes: Mapping[str, int],
    tokenizer: WhisperTokenizer,
    settings: Mapping[str, Any],
    where: str,
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A model and its processor from weights under transformers' names, the embedding once.

    sizes: of a `transformers.WhisperConfig`. settings: as for `generation_config`. where: what to call the model in
    messages. The tensors become the model's own. Raises `InputError` if they do not make a Whisper of these sizes.
    """
    generation = generation_config(tokenizer, settings)
    shared = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "begin_suppress_tokens")
    config = WhisperConfig(**sizes, **{key: getattr(generation, key) for key in shared})
    with torch.device("meta"):  # makes no random weights only to throw them away
        model = WhisperForConditionalGeneration(config)
    embedding = state.get("model.decoder.embed_tokens.weight")
    try:
        model.load_state_dict({**state, "proj_out.weight": embedding}, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: the weights do not make a plain Whisper; convert the model again.") from error
    model.tie_weights()
    model.generation_config = generation
    features = WhisperFeatureExtractor(feature_size=sizes["num_mel_bins"])
    return model.eval(), WhisperProcessor(feature_extractor=features, tokenizer=tokenizer)


def from_ct2(
    weights: ct2_reader.Buffer,
    settings: Mapping[str, Any],
    tokenizer_json: dict[str, Any],
    where: str,
    dtype: torch.dtype | None = torch.float32,
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """A model and its processor from the content of CTranslate2's files.

    weights: ``model.bin``, its bytes or the file mapped into memory. settings: ``config.json`` (suppressed tokens,
    alignment heads). tokenizer_json: ``tokenizer.json``. where: what to call the model in messages. Raises
    `InputError` if they do not make a Whisper.
    """
    variables = ct2_reader.read_variables(weights, where)
    sizes = ct2_reader.architecture(variables, where)
    tokenizer = tokenizer_of(tokenizer_json, sizes["vocab_size"], where)
    return assemble(ct2_reader.state_dict(variables, where, dtype), sizes, tokenizer, settings, where)


def tokenizer_of(content: dict[str, Any], vocab_size: int, where: str) -> WhisperTokenizer:
    """Whisper's tokenizer from a ``tokenizer.json``, with the 1501 timestamps that older files leave out."""
    try:
        vocab, merges = content["model"]["vocab"], content["model"]["merges"]
        added = sorted((token["id"], token["content"]) for token in content["added_tokens"] if token["special"])
        special = [token for _, token in added]
        tokenizer = WhisperTokenizer(
            vocab=vocab,
            merges=[tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges],
            pad_token="<|endoftext|>",
            extra_special_tokens=special,
        )
        places = tokenizer.convert_tokens_to_ids(special)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: tokenizer.json is not a Whisper tokenizer (no {error}).") from error
    if places != [place for place, _ in added] or special[-1:] != ["<|notimestamps|>"]:
        raise InputError(f"{where}: tokenizer.json is not a Whisper tokenizer (its special tokens are others).")
    missing = range(vocab_size - len(tokenizer))
    tokenizer.add_tokens([AddedToken(f"<|{0.02 * step:.2f}|>", normalized=False) for step in missing])
    return tokenizer


def tokenizer_with(content: dict[str, Any], vocab_size: int, where: str) -> dict[str, Any]:
    """A ``tokenizer.json`` for a Whisper with so many tokens, from that of one with as many or without Cantonese.

    Raises `InputError` for a number of tokens no Whisper has.
    """
    kind = vocab_size - ENGLISH_TOKENS
    if kind not in (0, 1, 2):
        raise InputError(f"{where} has {vocab_size} tokens, which no Whisper has; put its tokenizer.json beside it.")
    if kind < 2:
        return content
    added = [{**token, "id": token["id"] + (token["id"] >= FIRST_NEW_LANGUAGE)} for token in content["added_tokens"]]
    new = {**added[-1], "id": FIRST_NEW_LANGUAGE, "content": "<|yue|>"}
    return {**content, "added_tokens": sorted([*added, new], key=lambda token: token["id"])}


def forbidden_tokens(tokenizer: WhisperTokenizer) -> dict[str, list[int]]:
    """What OpenAI's decoding never writes (symbols, markup, what steers the decoder), and what not at the start.

    The keys are those of CTranslate2's ``config.json``. Source: OpenAI's ``whisper.tokenizer``.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    never = {ids(" -")[0], ids(" '")[0]}  # inside words they are allowed
    for symbol in (*SYMBOLS, *NOTES_OF_MUSIC):
        for tokens in (ids(symbol), ids(" " + symbol)):
            if len(tokens) == 1 or symbol in NOTES_OF_MUSIC:
                never.add(tokens[0])
    vocabulary = tokenizer.get_vocab()
    start, first = vocabulary["<|startoftranscript|>"], vocabulary["<|translate|>"]
    steering = [start, *range(first, vocabulary["<|notimestamps|>"])]
    return {
        "suppress_ids": sorted(never) + steering,
        "suppress_ids_begin": [*ids(" "), vocabulary["<|endoftext|>"]],
    }


def generation_config(tokenizer: WhisperTokenizer, settings: Mapping[str, Any]) -> GenerationConfig:
    """The settings that OpenAI's hub repositories ship as ``generation_config.json``.

    settings: CTranslate2's ``config.json``. Its language ids are not used: for English-only models they are
    those of the multilingual vocabulary. All ids come from the tokenizer.
    """
    ids = tokenizer.get_vocab()
    start, end, no_stamps = (ids[f"<|{name}|>"] for name in ("startoftranscript", "endoftext", "notimestamps"))
    multilingual = end != 50256  # English-only Whispers have GPT-2's vocabulary, which ends there
    tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    languages = range(start + 1, tasks["translate"])
    names = tokenizer.convert_ids_to_tokens(list(languages))
    only_multilingual = {"lang_to_id": dict(zip(names, languages, strict=True)), "task_to_id": tasks}
    return GenerationConfig(
        bos_token_id=50257,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        prev_sot_token_id=ids["<|startofprev|>"],
        no_timestamps_token_id=no_stamps,
        is_multilingual=multilingual,
        forced_decoder_ids=[[1, None], [2, tasks["transcribe"]]] if multilingual else [[1, no_stamps]],
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        alignment_heads=settings.get("alignment_heads"),
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
        **(only_multilingual if multilingual else {}),
    )


def complete(settings: GenerationConfig, tokenizer: WhisperTokenizer) -> None:
    """Fill in what tells languages and tasks apart, which older fine-tuned models leave to the tokenizer."""
    wanted = ("no_timestamps_token_id", "is_multilingual", "lang_to_id", "task_to_id", "prev_sot_token_id")
    if any(getattr(settings, key, None) is None for key in wanted[:2]):
        known = generation_config(tokenizer, {})
        for key in wanted:
            if getattr(settings, key, None) is None and hasattr(known, key):
                setattr(settings, key, getattr(known, key))
