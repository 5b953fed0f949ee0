"""The contenders of `pretrain.py`: each trains without end in a process of its own.

All stop for orders in the same place, after the optimizer's step, whosever loop it is: they say how
long the steps took that they were told to take, and wait to be told of more.

    python benchmarks/trainers.py '{"contender": ..., ...}'
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset

Task = dict[str, Any]

FOREVER = 1_000_000


class Orders:
    """Called after every step: answers when the steps of an order are done, and reads the next.

    Where a step has several optimizers, the first one's counts.
    """

    def __init__(self, orders: TextIO, answers: TextIO, packages: tuple[str, ...]) -> None:
        self.orders, self.answers, self.packages = orders, answers, packages
        self.left = self.steps = 1
        self.counts: object = None
        self._start()

    def __call__(self, optimizer: object, *_: object) -> None:
        self.counts = self.counts or optimizer
        if optimizer is not self.counts:
            return
        self.left -= 1
        if self.left:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {
            "steps": self.steps,
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": time.process_time() - self.cpu,
            "memory_bytes": memory(),
            "versions": {name: version(name) for name in ("torch", *self.packages)},
        }
        print(json.dumps(answer), file=self.answers, flush=True)
        order = self.orders.readline()
        if not order:
            os._exit(0)  # from within whatever loop this is
        self.left = self.steps = int(order)
        self._start()

    def _start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()


def memory() -> int:
    """Most bytes held so far: on a GPU the allocator's, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def toto(task: Task, compile_: bool, option: str | None = None, muon: bool = False) -> None:
    """Our training loop itself, on the token data set; with what `options.py` can switch on."""
    from toto.models.sizes import LlamaSize
    from toto.tokens.loader import Sequences, freeze
    from toto.tokens.store import TokenDataset
    from toto.training.config import AdamW, Loop, Pretrain
    from toto.training.loop import train
    from toto.training.objectives.next_token import NextToken

    dataset = TokenDataset(Path(task["dataset"]))
    sequences, held_out = (
        Sequences(freeze([dataset], (), task["frames"], 0, split, task["held_out"]))
        for split in ("train", "validation")
    )
    config = Pretrain(
        model=LlamaSize(**task["shape"]),
        loop=Loop(
            steps=FOREVER, validate_every=FOREVER, checkpoint_every=FOREVER, compile=compile_
        ),
        optimizer=AdamW(warmup_steps=1),
        muon=muon,
        frames=task["frames"],
        batch=task["batch"],
        micro_batch=task["micro_batch"],
    )
    objective = NextToken(config, sequences, held_out)
    if option:
        import options

        getattr(options, option)(objective.model)
    with tempfile.TemporaryDirectory() as folder:
        train(objective, config.loop, Path(folder), "toto")


def trainer(task: Task, compile_: bool) -> None:
    """The Trainer of transformers as most people run it."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    shape = task["shape"]
    config = LlamaConfig(
        vocab_size=task["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["mlp_width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=task["positions"],
        use_cache=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=FOREVER,
            per_device_train_batch_size=task["micro_batch"],
            gradient_accumulation_steps=task["batch"] // task["micro_batch"],
            bf16=task["bf16"],
            optim="adamw_torch_fused",
            torch_compile=compile_,
            learning_rate=3e-4,
            weight_decay=0.1,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        # Attention through SDPA is the model's default.
        Trainer(LlamaForCausalLM(config), arguments, train_dataset=Rows(task, shifted=True)).train()


def litgpt(task: Task, compile_: bool) -> None:
    """The model of litgpt in the loop of its `pretrain`, but with fp32 weights like all others."""
    from lightning.fabric import Fabric
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    shape = task["shape"]
    config = Config(
        block_size=task["positions"],
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        intermediate_size=shape["mlp_width"],
        padded_vocab_size=task["vocabulary"],
        vocab_size=task["vocabulary"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    fabric = Fabric(devices=1, precision="bf16-mixed" if task["bf16"] else "32-true")
    with fabric.init_module():
        model: Any = GPT(config)
    model = fabric.setup(torch.compile(model) if compile_ else model)
    optimizer: Any = fabric.setup_optimizers(
        torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
    )
    rows: Any = DataLoader(Rows(task), task["micro_batch"], shuffle=True, pin_memory=True)
    rows = fabric.setup_dataloaders(rows)
    accumulate, step = task["batch"] // task["micro_batch"], 0
    while True:
        for batch in rows:
            step += 1
            with fabric.no_backward_sync(model, enabled=step % accumulate != 0):
                loss = chunked_cross_entropy(model(batch["inputs"]), batch["targets"])
                fabric.backward(loss / accumulate)
            if step % accumulate == 0:
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                optimizer.zero_grad()


def nano(task: Task, compile_: bool) -> None:
    """A plain loop in the style of nanoGPT."""
    from nano import train

    train(task)


class Rows(Dataset):
    """The sequences; for transformers, which shifts the labels itself, without targets."""

    def __init__(self, task: Task, shifted: bool = False) -> None:
        self.rows, self.shifted = np.load(task["sequences"], mmap_mode="r"), shifted

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.rows[index].astype(np.int64))
        if self.shifted:
            return {"input_ids": row[:-2], "labels": row[:-2]}
        return {"inputs": row[:-2], "targets": row[1:-1]}


@dataclass(frozen=True)
class Contender:
    """A training loop and how it is set."""

    train: Callable[[Task, bool], None]
    compiled: bool
    settings: str
    packages: tuple[str, ...] = ()
    """whose versions count, beside torch"""


HUGGING_FACE = "TrainingArguments(bf16, optim=adamw_torch_fused, logging_steps=10)"

_OURS = "training.loop.train, compile"
OPTIONS = {
    "toto fused": Contender(partial(toto, option="fused"), True, f"{_OURS}, fused products"),
    "toto FA3": Contender(partial(toto, option="flash3"), True, f"{_OURS}, FlashAttention-3"),
    "toto fp8": Contender(
        partial(toto, option="fp8"), True, f"{_OURS}, fp8 by tensor", ("torchao",)
    ),
    "toto Muon": Contender(partial(toto, muon=True), True, f"{_OURS}, Muon"),
}
CONTENDERS = {
    "toto compiled": Contender(toto, True, _OURS),
    "toto": Contender(toto, False, "training.loop.train"),
    "nanoGPT-style compiled": Contender(
        nano, True, "bf16 autocast, torch.compile of model and loss, fused AdamW"
    ),
    "litgpt compiled": Contender(
        litgpt,
        True,
        "Fabric bf16-mixed, torch.compile, chunked_cross_entropy, fused AdamW",
        ("litgpt", "lightning"),
    ),
    "Trainer compiled": Contender(
        trainer, True, f"{HUGGING_FACE}, torch_compile, SDPA", ("transformers", "accelerate")
    ),
    "Trainer": Contender(trainer, False, f"{HUGGING_FACE}, SDPA", ("transformers", "accelerate")),
}


def main() -> None:
    task = json.loads(sys.argv[1])
    contender = (CONTENDERS | OPTIONS)[task["contender"]]
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    register_optimizer_step_post_hook(Orders(sys.stdin, answers, contender.packages))
    contender.train(task, contender.compiled)


if __name__ == "__main__":
    main()
