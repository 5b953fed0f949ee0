import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from toto.errors import UserError
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.training.device import own_device, recompute, round_hidden

SIZE = LlamaSize(width=32, layers=4, heads=4, mlp_width=64)


def build() -> tuple[nn.ModuleDict, Llama, Tensor]:
    torch.manual_seed(0)
    model = Llama(SIZE, 40)
    return nn.ModuleDict({"model": model}), model, torch.randint(0, 40, (2, 24))


def kept(compute: Callable[[], Tensor]) -> int:
    """Bytes of all that autograd keeps for the backward pass, parameters left out."""
    sizes: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        compute()
    return sum(sizes.values())


@pytest.mark.parametrize("part", [0.25, 0.5, 1.0])
def test_blocks_that_recompute_keep_less_and_give_the_same_gradients(part):
    def measure(part: float) -> tuple[int, dict[str, Tensor]]:
        modules, model, tokens = build()
        recompute(modules, part)
        size = kept(lambda: model(tokens))
        model(tokens).logsumexp(-1).sum().backward()
        return size, {name: p.grad for name, p in model.named_parameters()}

    whole, expected = measure(0.0)
    nothing, _ = measure(1.0)
    size, found = measure(part)
    # Each block that recomputes keeps its input alone.
    assert size == pytest.approx(whole + (nothing - whole) * part, rel=0.02)
    assert nothing < whole / 3
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)


def test_the_residual_stream_is_bf16_under_autocast_alone():
    modules, model, tokens = build()
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        before = model.hidden_states(tokens, range(5))
    round_hidden(modules)
    assert torch.equal(model(tokens), exact)
    with torch.autocast("cpu", torch.bfloat16):
        states, logits = model.hidden_states(tokens, range(5)), model(tokens)
    assert {value.dtype for value in before.values()} == {torch.float32}
    assert {value.dtype for value in states.values()} == {torch.bfloat16}
    assert torch.nn.functional.cosine_similarity(logits.float(), exact, -1).min() > 0.999


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    cpu, gpu, second = (torch.device(name) for name in ("cpu", "cuda", "cuda:1"))
    assert own_device(gpu) == torch.device("cuda", 0) and own_device(second) == second
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_device(gpu) == torch.device("cuda", 3) and own_device(cpu) == cpu
    with pytest.raises(UserError, match="cuda:1: of several processes each has its own"):
        own_device(second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_on_a_cpu_freed_memory_is_kept_until_it_is_given_back():
    script = """
import psutil, resource, sys, torch
from toto.processes import give_back_memory
from toto.training.device import pick_device
torch.ones(1)
if sys.argv[1] == "kept":
    pick_device("cpu")
def faults():
    torch.ones(16 * 2**20)  # 64 MiB: 16,384 pages, or 32 huge ones
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
every = [faults() for _ in range(6)]
before = psutil.Process().memory_info().rss
give_back_memory()
print(every[5] - every[3], before - psutil.Process().memory_info().rss)
"""
    (kept, held), (given_back, _) = (
        map(int, subprocess.check_output([sys.executable, "-c", script, how]).split())
        for how in ("kept", "given back")
    )
    assert kept + 20 < given_back
    assert held > 60 * 2**20
