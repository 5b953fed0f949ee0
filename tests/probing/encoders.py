"""Small random encoders of each kind, in folders as `transformers` writes them."""

from pathlib import Path
from typing import Any

import torch
import transformers as tf

SMALL = {"num_hidden_layers": 3, "num_attention_heads": 2, "initializer_range": 0.2}
WIDTH = {"hidden_size": 24, **SMALL}
PATCHES = {"image_size": 16, "patch_size": 4}
# V-JEPA 2 divides a head's channels among time, rows and columns.
_MAE = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 8,
    "max_position_embeddings": 8,
}


def model(kind: str) -> Any:
    """A model of `transformers`, random weights drawn from a seed of its own."""
    torch.manual_seed(sum(kind.encode()))
    return _MODELS[kind]().eval()


def save(kind: str, folder: Path) -> str:
    """The model's name, for `load_baseline`."""
    model(kind).save_pretrained(folder / kind)
    return f"{kind.split('-')[0]}:{folder / kind}"


_MODELS = {
    "dinov2": lambda: tf.Dinov2Model(
        tf.Dinov2Config(**WIDTH, image_size=24, patch_size=4, layerscale_value=0.7)
    ),
    "dinov2-registers": lambda: tf.Dinov2WithRegistersModel(
        tf.Dinov2WithRegistersConfig(**WIDTH, image_size=24, patch_size=4, num_register_tokens=3)
    ),
    "dinov3": lambda: tf.DINOv3ViTModel(
        tf.DINOv3ViTConfig(**WIDTH, **PATCHES, intermediate_size=32, num_register_tokens=2)
    ),
    "mae": lambda: tf.ViTMAEForPreTraining(
        tf.ViTMAEConfig(**WIDTH, **PATCHES, **_MAE, intermediate_size=32)
    ),
    "videomae": lambda: tf.VideoMAEForPreTraining(
        tf.VideoMAEConfig(
            **WIDTH,
            **PATCHES,
            **_MAE,
            intermediate_size=32,
            num_frames=4,
            tubelet_size=2,
            decoder_intermediate_size=16,
        )
    ),
    "vjepa2": lambda: tf.VJEPA2Model(
        tf.VJEPA2Config(
            **WIDTH,
            patch_size=4,
            crop_size=16,
            frames_per_clip=4,
            tubelet_size=2,
            mlp_ratio=2,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
    ),
    "aimv2": lambda: tf.Aimv2VisionModel(
        tf.Aimv2VisionConfig(**WIDTH, **PATCHES, intermediate_size=32, is_native=True)
    ),
    "aimv2-text": lambda: tf.Aimv2Model(
        tf.Aimv2Config(
            vision_config={**WIDTH, **PATCHES, "intermediate_size": 32},
            text_config=_TEXT,
            projection_dim=8,
        )
    ),
    "clip": lambda: tf.CLIPVisionModel(
        tf.CLIPVisionConfig(**WIDTH, **PATCHES, intermediate_size=32)
    ),
    "clip-text": lambda: tf.CLIPModel(
        tf.CLIPConfig(
            vision_config={**WIDTH, **PATCHES, "intermediate_size": 32},
            text_config=_TEXT,
            projection_dim=8,
        )
    ),
}
KINDS = tuple(_MODELS)
