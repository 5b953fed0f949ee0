"""VQGAN checkpoints of others as tokenizers: CompVis' own, and those whose names alone differ."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from safetensors.torch import save
from torch import Tensor

from toto.config import differences, from_dict, to_dict
from toto.errors import UserError
from toto.files import folder_atomically, refuse_occupied, write_atomically
from toto.tokenizers.pickles import describe, load_pickle
from toto.tokenizers.sizes import VQGANSize
from toto.tokenizers.vqgan import VQGAN

# What training leaves beside the weights: callbacks of Lightning, arguments, a best score.
_ALLOWED = ("pytorch_lightning.*", "lightning.*", "argparse.Namespace", "numpy.*", "_codecs.encode")
# Where weights lie, the running mean first.
_PLACES = ("ema", "state_dict", "model")
# Beside them: the loss' networks, counts of codes.
_OURS = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.|quantize\.embedding\.weight$")
_CODES = "quantize.embedding.weight"
_PERCEPTUAL = re.compile(r"loss\.perceptual_loss\.((net|lin\d)\..*)")


def convert_taming(
    checkpoint: Path, config: Path | None, out: Path, perceptual: Path | None = None
) -> None:
    """Write the VQGAN in a checkpoint to `out` as a tokenizer.

    Its shape is read from the weights themselves. LlamaGen's names (FoundationVision/LlamaGen:
    tokenizer/tokenizer_image/vq_model.py) are known too; its codes have length 1.

    Args:
        checkpoint: what `torch.save` wrote.
        config: CompVis' `model.yaml`; the weights must be as it says.
        out: folder to write to.
        perceptual: file for the weights of LPIPS, which CompVis' checkpoints hold beside.

    Raises:
        UserError: a file is damaged or something else, or the two do not fit.
    """
    refuse_occupied(out)
    held = _held_in(checkpoint)
    weights, unit_codes = _weights_in(held, checkpoint)
    try:
        size = replace(_size_of(weights), unit_codes=unit_codes)
    except KeyError as error:
        raise UserError(f"{checkpoint} holds no VQGAN: it has no {error.args[0]}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{checkpoint} holds no VQGAN: its weights have other shapes") from error
    tokenizer = VQGAN.of_weights(size, weights, str(checkpoint))
    if config is not None:
        stated = replace(_size_in(config), unit_codes=unit_codes)
        different = differences(to_dict(size), to_dict(stated))
        if different:
            raise UserError(f"{checkpoint} has {', '.join(different)} as {config} says")
    if perceptual is not None:
        lpips = {m[1]: held[n].contiguous() for n in held if (m := _PERCEPTUAL.match(n))}
        if not lpips:
            raise UserError(f"{checkpoint} holds no weights of LPIPS")
        write_atomically(perceptual, save(lpips))
    with folder_atomically(out) as partial:
        tokenizer.save(partial)


def _held_in(checkpoint: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint."""
    found = load_pickle(checkpoint, _ALLOWED)
    held = found
    for place in _PLACES:
        if isinstance(found, Mapping) and isinstance(found.get(place), Mapping):
            held = found[place]
            break
    if not isinstance(held, Mapping):
        raise UserError(f"{checkpoint} holds no weights: it is {describe(found)}")
    return {
        name: value
        for name, value in held.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _weights_in(held: Mapping[str, Tensor], checkpoint: Path) -> tuple[dict[str, Tensor], bool]:
    """A VQGAN's weights under CompVis' names, and whether their own were LlamaGen's."""
    weights = {name: value for name, value in held.items() if _OURS.match(name)}
    if not weights:
        raise UserError(f"{checkpoint} holds no VQGAN: it is {describe(held)}")
    numbers = (re.match(r"\w+\.conv_blocks\.(\d+)\.", name) for name in weights)
    last = max((int(number[1]) for number in numbers if number), default=None)
    if last is None:
        return weights, False
    return {_compvis_name(name, last): value for name, value in weights.items()}, True


def _compvis_name(name: str, last: int) -> str:
    """CompVis' name for LlamaGen's; `last` is the number of its last resolution."""
    name = re.sub(r"\.res\.(\d+)", r".block.\1", name)
    name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
    # Its decoder counts from the lowest resolution up.
    up = re.match(r"decoder\.conv_blocks\.(\d+)", name)
    if up:
        name = f"decoder.up.{last - int(up[1])}{name[up.end() :]}"
    middle = {"0": "block_1", "1": "attn_1", "2": "block_2"}
    return re.sub(r"\.mid\.([012])\.", lambda match: f".mid.{middle[match[1]]}.", name)


def _size_of(weights: Mapping[str, Tensor]) -> VQGANSize:
    """The shape that the weights have.

    Raises:
        KeyError: one is missing that says it.
    """
    width = len(weights["encoder.conv_in.weight"])
    codebook_size, code_width = weights[_CODES].shape
    levels = _count(weights, r"encoder\.down\.(\d+)\.")
    outs = [len(weights[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(levels)]
    return VQGANSize(
        codebook_size=codebook_size,
        code_width=code_width,
        latent_width=len(weights["encoder.conv_out.weight"]),
        width=width,
        multipliers=tuple(n_out // width for n_out in outs),
        blocks=_count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
        attention=tuple(i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in weights),
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _size_in(config: Path) -> VQGANSize:
    """The shape that a `model.yaml` states.

    Raises:
        UserError: it is not one of a VQGAN that we compute.
    """
    try:
        values = yaml.safe_load(config.read_text())
        values = values["model"]["params"] if "model" in values else values
        network = values["ddconfig"]
        if network.get("double_z") or values.get("remap"):
            raise UserError(f"{config}: double_z and remap are none of a VQGAN that we compute")
        sides = [network["resolution"] // 2**i for i in range(len(network["ch_mult"]))]
        size = {
            "codebook_size": values["n_embed"],
            "code_width": values["embed_dim"],
            "latent_width": network["z_channels"],
            "width": network["ch"],
            "multipliers": network["ch_mult"],
            "blocks": network["num_res_blocks"],
            "attention": [i for i, s in enumerate(sides) if s in network["attn_resolutions"]],
        }
        return from_dict(VQGANSize, size, str(config))
    except (KeyError, TypeError, AttributeError) as error:
        said = f"it has no {error.args[0]}" if isinstance(error, KeyError) else "it is another's"
        raise UserError(f"{config} does not describe a VQGAN: {said}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{config} cannot be read as YAML: {reason}") from error
