"""A saved model: a folder that `transformers` opens as a LlamaForCausalLM, and that we open too.

config.json               LlamaForCausalLM's, plus one key `toto`
generation_config.json    special ids, and which ids are never sampled
model.safetensors         weights under Hugging Face's names
tokenizer/                the visual tokenizer
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from toto.config import from_dict, read_json, write_json
from toto.errors import UserError
from toto.files import folder_atomically
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize


def weights_fingerprint(module: nn.Module) -> str:
    """16 hex digits of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_model(model: Llama, details: dict[str, Any], tokenizer_folder: Path, folder: Path) -> None:
    """Write `model` to `folder`, with `details` under the key `toto`, and its tokenizer."""
    weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    if model.size.tied_head:
        del weights["lm_head.weight"]
    with folder_atomically(folder) as partial:
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        write_json(partial / "config.json", _hugging_face_config(model, details))
        write_json(partial / "generation_config.json", _generation_config(model, details))
        shutil.copytree(tokenizer_folder, partial / "tokenizer")


def load_model(folder: Path) -> tuple[Llama, dict[str, Any]]:
    """The model in `folder`, in fp32 on the CPU, and its details.

    Raises:
        UserError: the folder holds no saved model of ours, or its weights do not fit.
    """
    config = read_json(folder / "config.json", "a saved model")
    if config.get("model_type") != "llama" or "toto" not in config:
        raise UserError(f"{folder}/config.json is not that of a saved Toto model")
    try:
        shape = {
            "width": config["hidden_size"],
            "layers": config["num_hidden_layers"],
            "heads": config["num_attention_heads"],
            "mlp_width": config["intermediate_size"],
            "rope_base": config["rope_parameters"]["rope_theta"],
            "norm_eps": config["rms_norm_eps"],
            "tied_head": config["tie_word_embeddings"],
            "init_std": config["initializer_range"],
        }
        vocabulary = config["vocab_size"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json is damaged: {error!r}") from error
    size = from_dict(LlamaSize, shape, f"{folder}/config.json")
    model = Llama(size, vocabulary)
    try:
        weights = load_file(folder / "model.safetensors")
        if size.tied_head:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict(weights)
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}/model.safetensors does not fit its config: {reason}") from error
    return model.eval().requires_grad_(False), config["toto"]


def _hugging_face_config(model: Llama, details: dict[str, Any]) -> dict[str, Any]:
    size, vocabulary = model.size, details["vocabulary"]
    rows, cols = vocabulary["grid"]
    special = vocabulary["special"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": size.mlp_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": details["frames"] * rows * cols + 2,
        "rms_norm_eps": size.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_base},
        "rope_theta": size.rope_base,  # where transformers before 5 looks for it
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": size.tied_head,
        "initializer_range": size.init_std,
        "bos_token_id": special["video"],
        "eos_token_id": special["end"],
        "pad_token_id": special["padding"],
        "dtype": str(model.model.embed_tokens.weight.dtype).removeprefix("torch."),
        "toto": details,
    }


def _generation_config(model: Llama, details: dict[str, Any]) -> dict[str, Any]:
    vocabulary = details["vocabulary"]
    special, offset = vocabulary["special"], vocabulary["offset"]
    past = range(offset + vocabulary["codebook_size"], model.vocabulary)
    return {
        "bos_token_id": special["video"],
        "eos_token_id": special["end"],
        "pad_token_id": special["padding"],
        "suppress_tokens": [*range(offset), *past],
        "do_sample": True,
    }
