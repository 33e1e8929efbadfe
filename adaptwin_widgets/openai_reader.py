"""Read OpenAI's own checkpoints (``tiny.en.pt``, ``large-v3.pt`` and fine-tunes of them), without its package.

A checkpoint is a dictionary of ``dims``, the sizes, and ``model_state_dict``, the weights. It is read as weights
only: nothing in it is run.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from adaptwin_widgets.assemble import assemble, forbidden_tokens, tokenizer_of
from adaptwin_widgets.errors import InputError, reason
from adaptwin_widgets.files import read_json
from adaptwin_widgets.offline import known_tokenizer

SIZES = {  # OpenAI's names and transformers'; the text's width is the audio's
    "n_mels": "num_mel_bins", "n_audio_ctx": "max_source_positions", "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads", "n_audio_layer": "encoder_layers", "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions", "n_text_head": "decoder_attention_heads", "n_text_layer": "decoder_layers",
}  # fmt: skip
NAMES = [  # of weights, applied one after the other
    (r"^", "model."), (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."), (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."), (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."), (r"\.key\.", ".k_proj."), (r"\.value\.", ".v_proj."), (r"\.out\.", ".out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."), (r"\.mlp\.0\.", ".fc1."), (r"\.mlp\.2\.", ".fc2."),
    (r"encoder\.ln_post\.", "encoder.layer_norm."), (r"decoder\.ln\.", "decoder.layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."), (r"\.positional_embedding$", ".embed_positions.weight"),
]  # fmt: skip
# The heads whose attention follows the audio ("layer.head"), as OpenAI published them, by tokens, decoder layers and
# width. The two older large models have one shape; the second is the one in use.
ALIGNMENT_HEADS = {
    (51864, 4, 384): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (51865, 4, 384): "2.2 3.0 3.2 3.3 3.4 3.5",
    (51864, 6, 512): "3.3 4.7 5.1 5.5 5.7",
    (51865, 6, 512): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (51864, 12, 768): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    (51865, 12, 768): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (51864, 24, 1024): "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 "
    "21.12",
    (51865, 24, 1024): "13.15 15.4 15.15 16.1 20.0 23.4",
    (51865, 32, 1280): "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 "
    "23.5 23.7 23.13 25.5 26.1 26.12 27.15",
    (51866, 32, 1280): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (51866, 4, 1280): "2.4 2.11 3.3 3.6 3.11 3.14",
}


def read(path: Path, where: str, dtype: torch.dtype | None) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """The model of a checkpoint and its processor; weights that are stored in `dtype` stay in the mapped file.

    The tokenizer is the ``tokenizer.json`` beside the file, or the one every Whisper with as many tokens has. where:
    what to call the file in messages. Raises `InputError` if it is no such checkpoint.
    """
    checkpoint = _checkpoint(path, where)
    try:
        dims = dict(checkpoint["dims"])
        sizes = {ours: int(dims[theirs]) for theirs, ours in SIZES.items()}
        state = {
            rename(name): tensor if dtype is None else tensor.to(dtype)
            for name, tensor in checkpoint["model_state_dict"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where} is no checkpoint of OpenAI's Whisper; it lacks dims or model_state_dict ({reason(error)})."
        ) from error
    for part in ("encoder", "decoder"):
        sizes[f"{part}_ffn_dim"] = 4 * sizes["d_model"]
    beside = path.parent / "tokenizer.json"
    content = read_json(beside) if beside.is_file() else known_tokenizer(sizes["vocab_size"], where)
    tokenizer = tokenizer_of(content, sizes["vocab_size"], where)
    settings = {**forbidden_tokens(tokenizer), "alignment_heads": alignment_heads(sizes)}
    return assemble(state, sizes, tokenizer, settings, where)


def rename(name: str) -> str:
    """Transformers' name of a weight.

    >>> rename("decoder.blocks.3.cross_attn.key.weight")
    'model.decoder.layers.3.encoder_attn.k_proj.weight'
    """
    for theirs, ours in NAMES:
        name = re.sub(theirs, ours, name)
    return name


def alignment_heads(sizes: dict[str, int]) -> list[list[int]] | None:
    """Pairs (decoder layer, head) whose attention follows the audio, where they are known for a model of these sizes.

    >>> alignment_heads({"vocab_size": 51866, "decoder_layers": 4, "d_model": 1280})[0]
    [2, 4]
    """
    known = ALIGNMENT_HEADS.get((sizes["vocab_size"], sizes["decoder_layers"], sizes["d_model"]))
    return [[int(number) for number in pair.split(".")] for pair in known.split()] if known else None


def _checkpoint(path: Path, where: str) -> dict[str, Any]:
    """The content of the file: tensors, numbers and words, nothing that would have to be run."""
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            content = torch.load(path, mmap=True, **options)
        except RuntimeError:  # a file of before PyTorch 1.6 cannot be mapped; if it is damaged, this says so as well
            content = torch.load(path, **options)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{where} holds more than weights, or is damaged; save only dims, as a dictionary of numbers, and "
            "model_state_dict (what would have to be unpickled is not read)."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{where} cannot be read as a PyTorch checkpoint; {reason(error)}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{where} is no checkpoint of OpenAI's Whisper; it holds no dims and no model_state_dict.")
    return content
