"""VQGAN checkpoints of others as tokenizers: CompVis' own, and those whose names alone differ."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from toto.config import differences, from_dict, to_dict
from toto.errors import UserError
from toto.files import refuse_occupied
from toto.tokenizers.pickles import describe, load_pickle
from toto.tokenizers.sizes import VQGANSize
from toto.tokenizers.vqgan import VQGAN
from toto.tokenizers.vqgan_names import CODES, compvis_weights, without_prefix
from toto.weights import write_weights

# What training leaves beside the weights: callbacks of Lightning, arguments, a best score.
_ALLOWED = ("pytorch_lightning.*", "lightning.*", "argparse.Namespace", "numpy.*", "_codecs.encode")
# Where weights lie, the running mean first.
_PLACES = ("ema", "state_dict", "model")
_PIXELS = "encoder.conv_in.weight"
_PERCEPTUAL = re.compile(r"loss\.perceptual_loss\.((net|lin\d)\..*)")
# What a VQModel of diffusers has to say of itself where its weights do not show it.
_DIFFUSERS = {
    "act_fn": "silu",
    "norm_type": "group",
    "mid_block_add_attention": True,
    "in_channels": 3,
    "out_channels": 3,
}


def convert_taming(
    checkpoint: Path, config: Path | None, out: Path, perceptual: Path | None = None
) -> None:
    """Write the VQGAN in a checkpoint to `out` as a tokenizer.

    Its shape is read from the weights themselves. LlamaGen's names and those of diffusers' VQModel
    are known too; LlamaGen's codes have length 1.

    Args:
        checkpoint: what `torch.save` wrote, or safetensors.
        config: CompVis' `model.yaml`, or diffusers' `config.json`; the weights must be as it says.
        out: folder to write to.
        perceptual: file for the weights of LPIPS, which CompVis' checkpoints hold beside.

    Raises:
        UserError: a file is damaged or something else, or the two do not fit.
    """
    refuse_occupied(out)
    held = without_prefix(_held_in(checkpoint), str(checkpoint))
    weights, family = compvis_weights(held)
    if not weights:
        raise UserError(f"{checkpoint} holds no VQGAN: it is {describe(held)}")
    if family == "diffusers" and config is None:
        raise UserError(
            f"{checkpoint} has diffusers' names: its weights do not say how many channels are "
            "normalised together, so it needs the config.json beside it as --config"
        )
    stated = _size_in(config) if config is not None else VQGANSize()
    stated = replace(stated, unit_codes=family == "LlamaGen")
    size = _size_of(weights, stated, str(checkpoint))
    tokenizer = VQGAN.of_weights(size, weights, str(checkpoint))
    different = differences(to_dict(size), to_dict(stated))
    if config is not None and different:
        raise UserError(f"{checkpoint} has {', '.join(different)} as {config} says")
    if perceptual is not None:
        lpips = {m[1]: held[n] for n in held if (m := _PERCEPTUAL.match(n))}
        if not lpips:
            raise UserError(f"{checkpoint} holds no weights of LPIPS")
        write_weights(perceptual, lpips)
    tokenizer.save(out)


def _held_in(checkpoint: Path) -> dict[str, Tensor]:
    """All weights of a checkpoint."""
    if checkpoint.suffix == ".safetensors":
        try:
            return load_file(checkpoint)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{checkpoint} cannot be read: {reason}") from error
    found = load_pickle(checkpoint, _ALLOWED)
    if not isinstance(found, Mapping):
        raise UserError(f"{checkpoint} holds no weights: it is {describe(found)}")
    places = (_tensors(found.get(place)) for place in _PLACES)
    return next(filter(None, places), _tensors(found))


def _tensors(held: object) -> dict[str, Tensor]:
    """The tensors of a dict, by those of its keys that are text."""
    items = held.items() if isinstance(held, Mapping) else ()
    return {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}


def _size_of(weights: Mapping[str, Tensor], stated: VQGANSize, where: str) -> VQGANSize:
    """The shape that the weights have; what they do not show is as `stated`.

    Raises:
        UserError: one that shows it is missing or strange, or there is no such shape.
    """
    width = _shape(weights, _PIXELS, 4, where)[0]
    codebook_size, code_width = _shape(weights, CODES, 2, where)
    levels = _count(weights, r"encoder\.down\.(\d+)\.")
    multipliers = []
    for i in range(levels):
        name = f"encoder.down.{i}.block.0.conv1.weight"
        channels = _shape(weights, name, 4, where)[0]
        if channels % width:
            raise UserError(
                f"{where} holds no VQGAN that we compute: {name} has {channels} channels, no "
                f"multiple of the {width} of {_PIXELS}"
            )
        multipliers.append(channels // width)
    try:
        return replace(
            stated,
            codebook_size=codebook_size,
            code_width=code_width,
            latent_width=_shape(weights, "encoder.conv_out.weight", 4, where)[0],
            width=width,
            multipliers=tuple(multipliers),
            blocks=_count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
            attention=tuple(
                i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in weights
            ),
        )
    except UserError as error:
        shown = (f"{name} is {[*weights[name].shape]}" for name in (_PIXELS, CODES))
        raise UserError(
            f"{where} holds no VQGAN that we compute: {error} ({', '.join(shown)})"
        ) from error


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int, where: str) -> list[int]:
    """The shape of a weight that has so many dimensions.

    Raises:
        UserError: there is no such weight, or it has no such shape.
    """
    if name not in weights:
        raise UserError(f"{where} holds no VQGAN: it has no {name}")
    shape = [*weights[name].shape]
    if len(shape) != dimensions or 0 in shape:
        raise UserError(
            f"{where} holds no VQGAN: {name} is {shape}, not of {dimensions} dimensions"
        )
    return shape


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _size_in(config: Path) -> VQGANSize:
    """The shape that a `model.yaml` or diffusers' `config.json` states.

    Raises:
        UserError: it is not one of a VQGAN that we compute.
    """
    try:
        values = yaml.safe_load(config.read_text())
        if "block_out_channels" in values:
            return from_dict(VQGANSize, _diffusers_size(values, config), str(config))
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
    except (LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        said = f"it has no {error.args[0]}" if isinstance(error, KeyError) else "it is another's"
        raise UserError(f"{config} does not describe a VQGAN: {said}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{config} cannot be read as YAML: {reason}") from error


def _diffusers_size(values: dict[str, Any], config: Path) -> dict[str, Any]:
    """The fields of the shape that diffusers' `config.json` states.

    Raises:
        UserError: it is of a VQModel that we do not compute.
        KeyError: it does not say all of it.
    """
    for key, ours in _DIFFUSERS.items():
        if values.get(key, ours) != ours:
            raise UserError(f"{config} has {key} {values[key]!r:.50}: we compute {ours!r} alone")
    channels = values["block_out_channels"]
    return {
        "codebook_size": values["num_vq_embeddings"],
        "code_width": values.get("vq_embed_dim") or values["latent_channels"],
        "latent_width": values["latent_channels"],
        "width": channels[0],
        "multipliers": [n_out // channels[0] for n_out in channels],
        "blocks": values["layers_per_block"],
        "attention": [
            i for i, kind in enumerate(values["down_block_types"]) if kind.startswith("Attn")
        ],
        "norm_groups": values.get("norm_num_groups", 32),  # a constant of its first versions
    }
