"""A compressed model as an ordinary Whisper again, so that everything made for originals works on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration

from adaptwin_widgets.anatomy import attention_name, attention_of, full_rank, module_path, pair_of, twins_of
from adaptwin_widgets.embedding import EMBEDDING
from adaptwin_widgets.layers import bias_of
from adaptwin_widgets.model import is_compressed
from adaptwin_widgets.packed import packed_attention
from adaptwin_widgets.whisper import Whisper


def expand(model: Whisper) -> Whisper:
    """An ordinary Whisper that computes the same: ranks and neurons that are gone come back as zeros.

    `observe`, `spectra` and `compress` look at a compressed model this way, so that it can be compressed further; and
    programs that know nothing of twins can load what is saved of it. The weights are copies. A model that is not
    compressed is returned as it is.

    >>> import adaptwin_widgets as aw                                                     # doctest: +SKIP
    >>> aw.expand(aw.load("small")).save_pretrained("plain")                              # doctest: +SKIP
    PosixPath('plain')
    """
    small = model.model
    if not is_compressed(small.config):
        return model
    own = ("model_type", "architectures", "ranks", "embedding_rank")
    config = WhisperConfig(**{key: value for key, value in small.config.to_dict().items() if key not in own})
    config._attn_implementation = small.config._attn_implementation
    with torch.device("meta"):
        plain = WhisperForConditionalGeneration(config)
    weights = {name: value for name, value in small.state_dict().items() if name != "proj_out.weight"}
    if getattr(small.config, "embedding_rank", None):
        weights[EMBEDDING] = weights[EMBEDDING] @ weights.pop(EMBEDDING.replace("weight", "basis"))
    for twin in twins_of(config):
        prefix, full = module_path(twin.part, twin.layer), full_rank(config, twin)
        if twin.kind == "feed_forward":
            new = _neurons(pair_of(small, twin), full)
        elif twin.kind == "query_key":
            prefix += f".{attention_name(twin.part)}"
            new = _heads(attention_of(small, twin.part, twin.layer), full)
        else:
            continue
        weights |= {f"{prefix}.{name}": value for name, value in new.items()}
    plain.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, strict=False, assign=True)
    plain.tie_weights()
    plain.model.encoder.embed_positions.requires_grad_(False)
    plain.generation_config = small.generation_config
    return Whisper(plain.to(small.device).eval(), model.processor, model.source)


def _heads(attention: nn.Module, dim: int) -> dict[str, Tensor]:
    """One attention with heads of the original's size; a zero row of a query meets a zero row of a key."""
    packed = packed_attention(attention).padded(dim)
    return {
        "q_proj.weight": packed.q_weight, "q_proj.bias": bias_of(packed, "q"), "k_proj.weight": packed.k_weight,
        "v_proj.weight": packed.v_weight, "v_proj.bias": bias_of(packed, "v"), "out_proj.weight": packed.out_weight,
        "out_proj.bias": bias_of(packed, "out"),
    }  # fmt: skip


def _neurons(pair: dict[str, nn.Module], neurons: int) -> dict[str, Tensor]:
    """A feed-forward pair with all neurons; those that are gone say gelu(0) = 0 to nobody."""
    (name1, first), (name2, second) = pair.items()
    more, taps = neurons - len(first.weight), (0, 0) * (first.weight.dim() - 2)
    return {
        f"{name1}.weight": F.pad(first.weight, (0, 0, *taps, 0, more)), f"{name1}.bias": F.pad(first.bias, (0, more)),
        f"{name2}.weight": F.pad(second.weight, (*taps, 0, more)), f"{name2}.bias": second.bias,
    }  # fmt: skip
