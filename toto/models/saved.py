"""A saved model: a folder that `transformers` opens as a LlamaForCausalLM, and that we open too.

config.json               LlamaForCausalLM's, plus one key `toto`
generation_config.json    special ids, and which ids are never sampled
model.safetensors         weights under Hugging Face's names
tokenizer/                the visual tokenizer

A model of patches is a folder of the same form under an architecture of our own: none of the
library's reads pixels so. It has no generation_config.json.

Folders that others wrote under that architecture are read too: with other precisions, with weights
in shards, without `toto`. What our LLaMA does not compute is refused by its name in `config.json`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from toto.config import from_dict, read_json, to_dict, write_json
from toto.errors import UserError, positive
from toto.files import copy_files, folder_atomically
from toto.models.llama import Llama
from toto.models.mup import fold
from toto.models.patches import PatchLlama
from toto.models.sizes import LlamaSize
from toto.progress import console
from toto.weights import unfilled, write_weights

Saved = Llama | PatchLlama

PATCHES = "toto_patches"
"""model_type of a model of patches"""

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# LlamaConfig's keys for the fields of LlamaSize, whose defaults are LlamaConfig's too.
_NUMBERS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}
_SETTINGS = {
    "norm_eps": "rms_norm_eps",
    "tied_head": "tie_word_embeddings",
    "init_std": "initializer_range",
}
# Keys on which neither logits nor features depend.
_ASIDE = {
    *("initializer_range", "max_position_embeddings", "attention_dropout", "use_cache", "toto"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype"),
    *("pretraining_tp", "transformers_version", "_name_or_path"),
}
_PRECISIONS = ("F64", "F32", "F16", "BF16")


def save_model(model: Saved, details: dict[str, Any], tokenizer_folder: Path, folder: Path) -> None:
    """Write `model` to `folder`, with `details` under the key `toto`, and its tokenizer.

    Of a model under muP the plain LLaMA with the same logits is written, and `toto` says so.
    """
    if isinstance(model, Llama) and model.size.mup_base is not None:
        details = {**details, "mup_base": model.size.mup_base}
        console.print(f"muP (base width {model.size.mup_base}) is folded into a plain LLaMA")
        model = fold(model)
    weights = model.state_dict()
    if model.size.tied_head:
        del weights[HEAD]
    with folder_atomically(folder) as partial:
        write_weights(partial / "model.safetensors", weights, {"format": "pt"})
        if isinstance(model, Llama):
            write_json(partial / "config.json", _hugging_face_config(model, details))
            write_json(partial / "generation_config.json", _generation_config(model, details))
        else:
            write_json(partial / "config.json", _patches_config(model) | {"toto": details})
        copy_files(tokenizer_folder, partial / "tokenizer")


def saved_in(folder: Path) -> Path:
    """The saved model of a run, or the folder itself."""
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def load_model(folder: Path) -> tuple[Saved, dict[str, Any]]:
    """The model in `folder`, in fp32 on the CPU, and its details, see `read_shape`.

    Raises:
        UserError: see `read_shape` and `open_weights`.
    """
    model, details = read_model(folder)
    with open_weights(folder) as get:
        model.load_state_dict({name: get(name) for name in model.state_dict()}, assign=True)
    if isinstance(model, Llama) and model.size.tied_head:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval().requires_grad_(False), details


def read_model(folder: Path) -> tuple[Saved, dict[str, Any]]:
    """The model in `folder` without its weights, and its details, see `read_shape`.

    Raises:
        UserError: see `read_shape`.
    """
    path = folder / "config.json"
    config = read_json(path, "a saved model")
    with unfilled():
        if config.get("model_type") == PATCHES:
            return _patch_model(config, path), config["toto"]
        size, rows, details = read_shape(folder)
        return Llama(size, rows), details


def read_shape(folder: Path) -> tuple[LlamaSize, int, dict[str, Any]]:
    """Shape, rows of the embedding table, and what the key `toto` holds: {} if there is none.

    Raises:
        UserError: the folder holds no LLaMA, or one that computes something that ours does not:
            grouped queries, biases, scaled rotary embeddings, a sliding window, ...
    """
    path = folder / "config.json"
    config = read_json(path, "a saved model")
    config = {key: value for key, value in config.items() if value is not None}
    if "recipe" in config:
        raise UserError(f"{folder} is a run with no model: pre-training ends with {folder}/model")
    if config.get("model_type") != "llama":
        kind = config.get("model_type")
        raise UserError(f"{path} is not that of a saved model: model_type {kind!r}, not 'llama'")
    for key in (*_NUMBERS.values(), "vocab_size"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"{path} is damaged: {key} {config.get(key)!r}, not a positive number")
    config["rope_parameters"] = _rope(config, path)
    given = {field: config[key] for field, key in _NUMBERS.items()}
    given |= {field: config[key] for field, key in _SETTINGS.items() if key in config}
    given |= {"rope_base": config["rope_parameters"]["rope_theta"]}
    size, rows = from_dict(LlamaSize, given, str(path)), config["vocab_size"]
    _refuse_others(config, _architecture(size, rows), path)
    details = config.get("toto", {})
    if not isinstance(details, dict):
        raise UserError(f"{path} is damaged: toto {details!r}, not an object")
    return size, rows, details


@contextmanager
def open_weights(folder: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function that reads one weight by Hugging Face's name, in fp32 on the CPU.

    All names and shapes are compared with `config.json` before anything is read. A tied head is
    the embedding's table, under whichever of the two names it is stored.

    Raises:
        UserError: weights are missing, unknown or damaged, or do not fit their config.
    """
    model, _ = read_model(folder)
    expected = {name: [*value.shape] for name, value in model.state_dict().items()}
    with ExitStack() as files:
        stored: dict[str, Any] = {}  # slices: of each, shape and precision are known unread
        for path in _weight_files(folder):
            try:
                file = files.enter_context(safe_open(path, "pt"))
                stored |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from error
        if model.size.tied_head:
            _tie(stored, folder)
        _refuse_misfits(stored, expected, folder)
        yield lambda name: stored[name][:].float()


def check_table(folder: Path, rows: int, vocabulary: dict[str, Any]) -> None:
    """Compare the rows of a model's table with a layout of tokens (`Vocabulary.to_dict`).

    Raises:
        UserError: the table is too small for its ids.
    """
    codes, offset = vocabulary["codebook_size"], vocabulary["offset"]
    if rows < offset + codes:
        raise UserError(
            f"{folder} has a table of {rows} rows (vocab_size): {codes} codes after {offset} "
            f"special ids take {offset + codes}"
        )


def _weight_files(folder: Path) -> list[Path]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return [whole]
    shards = read_json(index, "a saved model").get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"{index} is damaged: it has no weight_map")
    return [folder / str(name) for name in sorted(set(shards.values()))]


def _tie(stored: dict[str, Any], folder: Path) -> None:
    """Let a table that is stored under one of its two names answer to both."""
    tables = [stored[name] for name in (EMBEDDING, HEAD) if name in stored]
    if len(tables) == 2 and not torch.equal(tables[0][:], tables[1][:]):
        raise UserError(
            f"{folder}/config.json: tie_word_embeddings is true, but {HEAD} is not {EMBEDDING}"
        )
    if tables:
        stored |= {EMBEDDING: tables[0], HEAD: tables[0]}


def _refuse_misfits(stored: dict[str, Any], expected: dict[str, list[int]], folder: Path) -> None:
    """Compare the stored names, shapes and precisions with those that the config asks for."""
    misfits = [f"{name} is missing" for name in expected if name not in stored]
    misfits += [f"{name} is unknown" for name in stored if name not in expected]
    for name in expected.keys() & stored.keys():
        shape, precision = stored[name].get_shape(), stored[name].get_dtype()
        if shape != expected[name]:
            misfits.append(f"{name} is {shape}, not {expected[name]}")
        if precision not in _PRECISIONS:
            misfits.append(f"{name} is {precision}, not one of {', '.join(_PRECISIONS)}")
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(misfits[:3])}{more}"
        )


def _rope(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the config says of the rotary embedding, taken from where each version puts it."""
    rope = {"rope_type": "default", "rope_theta": config.get("rope_theta", LlamaSize.rope_base)}
    for key in ("rope_parameters", "rope_scaling"):  # since transformers 5, and before
        said = config.pop(key, {})
        if not isinstance(said, dict):
            raise UserError(f"{path} is damaged: {key} {said!r}, not an object")
        for name, value in said.items():
            if value is not None:
                rope["rope_type" if name == "type" else name] = value
    return rope


def _refuse_others(config: dict[str, Any], ours: dict[str, Any], path: Path) -> None:
    """Refuse what our LLaMA does not compute, and what nothing is known of unless it is off."""
    for key, found in config.items():
        if key in ours and found != ours[key]:
            raise UserError(f"{path}: {key} is {found!r:.100}, this LLaMA has {ours[key]!r}")
        if key not in ours and key not in _ASIDE and found:
            raise UserError(
                f"{path}: {key} is {found!r:.100}, which this LLaMA does not have; "
                "where it changes nothing, remove it"
            )


def _architecture(size: LlamaSize, rows: int) -> dict[str, Any]:
    """All keys of LlamaConfig on which the computation depends, with their values for ours."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": size.width,
        "intermediate_size": size.mlp_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": size.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.rope_base},
        "rope_theta": size.rope_base,  # where transformers before 5 looks for it
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": size.tied_head,
    }


def _hugging_face_config(model: Llama, details: dict[str, Any]) -> dict[str, Any]:
    vocabulary = details["vocabulary"]
    rows, cols = vocabulary["grid"]
    return {
        **_architecture(model.size, model.vocabulary),
        **_special_ids(vocabulary),
        "max_position_embeddings": details["frames"] * rows * cols + 2,
        "initializer_range": model.size.init_std,
        "dtype": str(model.model.embed_tokens.weight.dtype).removeprefix("torch."),
        "toto": details,
    }


def _generation_config(model: Llama, details: dict[str, Any]) -> dict[str, Any]:
    vocabulary = details["vocabulary"]
    offset = vocabulary["offset"]
    past = range(offset + vocabulary["codebook_size"], model.vocabulary)
    return {
        **_special_ids(vocabulary),
        "suppress_tokens": [*range(offset), *past],
        "do_sample": True,
    }


def _special_ids(vocabulary: dict[str, Any]) -> dict[str, int]:
    special = vocabulary["special"]
    return {
        "bos_token_id": special["video"],
        "eos_token_id": special["end"],
        "pad_token_id": special["padding"],
    }


def _patches_config(model: PatchLlama) -> dict[str, Any]:
    """The shape under our own names, with nothing that a reader of LLaMAs could mistake for one."""
    return {
        "architectures": ["PatchLlama"],
        "model_type": PATCHES,
        "size": to_dict(model.size),
        "patch": model.patch,
        "vocabulary": model.vocabulary,
    }


def _patch_model(config: dict[str, Any], path: Path) -> PatchLlama:
    size = from_dict(LlamaSize, config.get("size"), str(path))
    patch, rows = config.get("patch"), config.get("vocabulary")
    is_whole = rows is None or type(rows) is int
    if type(patch) is not int or not is_whole or type(config.get("toto")) is not dict:
        raise UserError(f"{path} is damaged: patch {patch!r}, vocabulary {rows!r}")
    positive(patch=patch, vocabulary=rows)
    return PatchLlama(size, patch, rows)
