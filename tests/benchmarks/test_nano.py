"""The peer written for the benchmark is the model that we train."""

import sys
from dataclasses import asdict
from pathlib import Path

import torch

from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.tokens.vocabulary import inputs_and_targets

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from nano import NanoLlama

SIZE = LlamaSize(width=32, layers=2, heads=2, mlp_width=48, init_std=0.3)


def test_nano_has_our_loss_and_gradient() -> None:
    torch.manual_seed(0)
    ours, nano = Llama(SIZE, 128), NanoLlama(asdict(SIZE), 128, 24)
    nano.load_state_dict(renamed(ours))
    inputs, targets = inputs_and_targets(torch.randint(4, 128, (3, 26)))

    loss = torch.nn.functional.cross_entropy(ours(inputs).flatten(0, 1), targets.flatten())
    other = nano(inputs, targets.contiguous())

    torch.testing.assert_close(other, loss)
    loss.backward()
    other.backward()
    torch.testing.assert_close(nano.embedding.weight.grad, ours.model.embed_tokens.weight.grad)


def renamed(llama: Llama) -> dict[str, torch.Tensor]:
    """Our weights under the peer's names."""
    state = llama.state_dict()
    weights = {"embedding.weight": state["model.embed_tokens.weight"]}
    weights |= {"norm.weight": state["model.norm.weight"], "head.weight": state["lm_head.weight"]}
    names = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"}
    names |= {"attention.out": "self_attn.o_proj"}
    names |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    for layer in range(SIZE.layers):
        ours, theirs = f"model.layers.{layer}", f"blocks.{layer}"
        for name, source in names.items():
            weights[f"{theirs}.{name}.weight"] = state[f"{ours}.{source}.weight"]
        qkv = [state[f"{ours}.self_attn.{part}_proj.weight"] for part in "qkv"]
        weights[f"{theirs}.attention.qkv.weight"] = torch.cat(qkv)
    return weights
