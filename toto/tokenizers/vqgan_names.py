"""Names that others give the weights of a VQGAN, as CompVis', which are ours."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from toto.errors import UserError

Family = Literal["CompVis", "LlamaGen", "diffusers"]
"""whose names they are"""

CODES = "quantize.embedding.weight"

# Beside them lie the loss' networks and counts of codes.
_OURS = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.|quantize\.embedding\.weight$")

_NUMBER = r"(\d{1,4})(?=\.)"  # of millions of digits Python makes none

# FoundationVision/LlamaGen: tokenizer/tokenizer_image/vq_model.py.
_LLAMAGEN = {
    r"\.res\.(\d+)": r".block.\1",
    r"^encoder\.conv_blocks\.": "encoder.down.",
    r"\.mid\.0\.": ".mid.block_1.",
    r"\.mid\.1\.": ".mid.attn_1.",
    r"\.mid\.2\.": ".mid.block_2.",
}
# huggingface/diffusers: models/autoencoders/{vq_model,vae}.py, models/unets/unet_2d_blocks.py; of
# the names of attention's products the second ones are those of its first versions.
_DIFFUSERS = {
    r"\.mid_block\.resnets\.0\.": ".mid.block_1.",
    r"\.mid_block\.resnets\.1\.": ".mid.block_2.",
    r"\.mid_block\.attentions\.0\.": ".mid.attn_1.",
    r"^encoder\.down_blocks\.": "encoder.down.",
    r"\.resnets\.(\d+)\.": r".block.\1.",
    r"\.attentions\.(\d+)\.": r".attn.\1.",
    r"\.conv_shortcut\.": ".nin_shortcut.",
    r"\.group_norm\.": ".norm.",
    r"\.(?:to_q|query)\.": ".q.",
    r"\.(?:to_k|key)\.": ".k.",
    r"\.(?:to_v|value)\.": ".v.",
    r"\.(?:to_out\.0|proj_attn)\.": ".proj_out.",
    r"\.(down|up)samplers\.0\.": r".\1sample.",
    r"\.conv_norm_out\.": ".norm_out.",
}


def without_prefix(held: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights beside the codes, without what stands before all their names.

    That is what was wrapped around the model: `module.`, `_orig_mod.`, `first_stage_model.`.

    Raises:
        UserError: there are several codebooks, none of them without a prefix.
    """
    prefixes = [name.removesuffix(CODES) for name in held if f".{name}".endswith(f".{CODES}")]
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    if len(prefixes) > 1 and prefix not in prefixes:
        named = " ".join(", ".join(sorted(prefixes)).split())
        raise UserError(f"{where} holds {len(prefixes)} codebooks, under {named:.200}: which one?")
    return {name[len(prefix) :]: held[name] for name in held if name.startswith(prefix)}


def compvis_weights(held: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Family]:
    """A VQGAN's weights under CompVis' names, and whose names theirs were."""
    weights = {name: value for name, value in held.items() if _OURS.match(name)}
    last = _last(weights, r"\w+\.conv_blocks\.")
    if last is not None:
        return {
            _renamed(name, _LLAMAGEN, last): value for name, value in weights.items()
        }, "LlamaGen"
    last = _last(weights, r"\w+\.(?:down|up)_blocks\.")
    if last is not None:
        renamed = {_renamed(name, _DIFFUSERS, last): value for name, value in weights.items()}
        return {name: _as_convolution(name, value) for name, value in renamed.items()}, "diffusers"
    return weights, "CompVis"


def _last(names: Iterable[str], before: str) -> int | None:
    """The number of the last resolution, which follows on `before`."""
    found = (re.match(before + _NUMBER, name) for name in names)
    return max((int(match[1]) for match in found if match), default=None)


def _renamed(name: str, names: Mapping[str, str], last: int) -> str:
    for theirs, ours in names.items():
        name = re.sub(theirs, ours, name)
    # Their decoders count from the lowest resolution up.
    up = re.match(r"decoder\.(?:conv|up)_blocks\." + _NUMBER, name)
    return f"decoder.up.{last - int(up[1])}{name[up.end() :]}" if up else name


def _as_convolution(name: str, value: Tensor) -> Tensor:
    """A matrix of attention as a convolution of one place."""
    product = re.search(r"\.(q|k|v|proj_out)\.weight$", name)
    return value[:, :, None, None] if product and value.ndim == 2 else value
