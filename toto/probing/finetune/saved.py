"""A fine-tuned model on disk, and back.

model/             the trunk; a saved model where attention is causal, else weights and tokenizer/
head.safetensors   the pooled head; its metadata say what it is, and the names of the classes
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from toto.config import from_dict, to_dict
from toto.errors import UserError
from toto.files import copy_files, folder_atomically
from toto.models.llama import Llama
from toto.models.saved import save_model
from toto.models.sizes import LlamaSize
from toto.probing.finetune.network import Classifier
from toto.weights import unfilled, write_weights

_HEAD, _TRUNK = "head.safetensors", "trunk."


def save_classifier(
    model: Classifier,
    weights: dict[str, Tensor],
    classes: list[str],
    details: dict[str, Any],
    tokenizer_folder: Path,
    folder: Path,
) -> None:
    """Write a fine-tuned model.

    Args:
        model: what it is; its weights are not looked at
        weights: by their names in `model`, whole and on the CPU
        classes: names, in the order of the logits
        details: what is saved with the trunk, see `details_of`
        tokenizer_folder: the visual tokenizer's
        folder: where `model/` and the head are written
    """
    size, rows = model.trunk.size, model.trunk.vocabulary
    trunk, head = (
        {name.removeprefix(part): x for name, x in weights.items() if name.startswith(part)}
        for part in (_TRUNK, "head.")
    )
    if model.attention == "causal":
        with unfilled():
            plain = Llama(size, rows)
        plain.load_state_dict(trunk, assign=True)
        save_model(plain, details, tokenizer_folder, folder / "model")
    else:
        # No LLaMA by any config.json: whoever opened it as one would make it causal.
        if size.tied_head:
            del trunk["lm_head.weight"]
        with folder_atomically(folder / "model") as partial:
            write_weights(partial / "model.safetensors", trunk)
            copy_files(tokenizer_folder, partial / "tokenizer")
    about = {
        "attention": model.attention,
        "pool": model.head.pool,
        "classes": classes,
        "size": to_dict(size),
        "rows": rows,
    }
    write_weights(folder / _HEAD, head, {"toto": json.dumps(about)})


def load_classifier(folder: Path) -> tuple[Classifier, list[str]]:
    """The fine-tuned model in a folder, in fp32 on the CPU, and the names of its classes.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    try:
        with safe_open(folder / _HEAD, "pt") as file:
            about = json.loads(file.metadata()["toto"])
            head = {f"head.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stored = load_file(folder / "model" / "model.safetensors")
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no fine-tuned model: {error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the fine-tuned model in {folder} is damaged: {error}") from error
    size = from_dict(LlamaSize, about["size"], str(folder / _HEAD))
    classes = about["classes"]
    with unfilled():
        trunk = Llama(size, about["rows"])
        model = Classifier(trunk, about["attention"], about["pool"], len(classes))
    if size.tied_head:
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    weights = {f"{_TRUNK}{name}": x.float() for name, x in stored.items()} | head
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False), classes
