"""Other encoders through one interface, for rows side by side: `KIND:FOLDER_OR_HUB_NAME`."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from toto.config import read_json
from toto.errors import UserError, unknown
from toto.probing.baselines.base import Baseline, Pixels

# By kind the class, in the file of that name.
_KINDS = {
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
    "mae": "MAE",
    "videomae": "VideoMAE",
    "vjepa2": "VJEPA2",
    "aimv2": "AIMv2",
    "clip": "CLIP",
}
# Processors of videos may have a file of their own.
_PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
# As Pillow numbers them.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
# What no state depends on, and checkpoints may lack: what comes after the blocks.
_AFTER = ("layernorm", "norm", "rms_norm", "post_layernorm", "head", "predictor")


def is_baseline(model: str) -> bool:
    """Whether it names another encoder, `KIND:...`, and no folder."""
    kind, colon, _ = model.partition(":")
    return bool(colon) and kind.isalnum() and len(kind) > 1 and not Path(model).exists()


def load_baseline(name: str, device: str | torch.device = "cpu") -> Baseline:
    """The encoder that `KIND:FOLDER_OR_HUB_NAME` names, frozen and in fp32.

    Weights are read from safetensors alone; what the hub has is kept in its own cache.

    Raises:
        UserError: the kind is unknown, `transformers` is missing, or the folder does not hold an
            encoder of that kind.
    """
    kind, _, place = name.partition(":")
    if kind not in _KINDS:
        raise unknown("encoder", kind, _KINDS)
    if not place:
        raise UserError(f"encoder {name!r}: {kind}: and a folder, or a name on the hub")
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{name} needs transformers: pip install 'toto[hf]'") from error
    module = importlib.import_module(f"toto.probing.baselines.{kind}")
    baseline: type[Baseline] = getattr(module, _KINDS[kind])
    config = _ask(transformers.AutoConfig, name, place)
    if config.model_type not in baseline.models:
        fits = " or ".join(baseline.models)
        raise UserError(f"{name}: its model_type is {config.model_type!r}, not {fits}")
    model, said = _ask(
        getattr(transformers, baseline.models[config.model_type]),
        name,
        place,
        dtype="float32",
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = [key for key in said["missing_keys"] if key.split(".")[0] not in _AFTER]
    if missing:
        raise UserError(f"{name} lacks weights, like {min(missing)}")
    return baseline(model, _pixels(baseline.usual, place)).to(device)


def _ask(opens: Any, name: str, place: str, **how: Any) -> Any:
    """What a class of `transformers` opens, which is quiet about weights that are not read."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return opens.from_pretrained(place, **how)
    # What it says of a folder or of the hub, and of files that are damaged or another model's.
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name} cannot be opened: {str(error).splitlines()[0]}") from error
    finally:
        logging.set_verbosity(before)


def _pixels(usual: Pixels, place: str) -> Pixels:
    """As the processor in the folder says, or as is usual."""
    from transformers.utils import cached_file

    for file in _PROCESSORS:
        path = cached_file(place, file, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            return _told(read_json(Path(path), "an encoder"), usual)
    return usual


def _told(processor: dict[str, Any], pixels: Pixels) -> Pixels:
    """What the processor's config says, and what it leaves open as it was."""
    cropped = processor.get("do_center_crop") and "crop_size" in processor
    side = processor.get("crop_size" if cropped else "size", pixels.size)
    if isinstance(side, dict):
        side = side.get("height") or side["shortest_edge"]
    return replace(
        pixels,
        size=side,
        mean=tuple(processor.get("image_mean", pixels.mean)),
        std=tuple(processor.get("image_std", pixels.std)),
        resample=_RESAMPLE.get(processor.get("resample", 0), pixels.resample),
    )
