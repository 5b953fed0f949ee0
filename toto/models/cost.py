"""What training a LLaMA costs: floating-point operations, and the memory of one GPU.

Both are counted from the shape alone. L layers, d width, f width of the SwiGLU, T positions.
"""

from dataclasses import dataclass

from toto.errors import unknown
from toto.models.sizes import LlamaSize


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet."""

    device: str
    """what PyTorch's name of the device contains"""
    peak: float
    """dense bf16 FLOP/s, sums in fp32"""
    memory: int
    """bytes, as nvidia-smi reports them"""


_MIB = 2**20

# Peaks: NVIDIA's data sheets (A100, H100 SXM, H200 SXM, HGX B200, L40S) and its Ada whitepaper;
# half of a rate that is given with sparsity. Memory: the total that nvidia-smi says.
GPUS = {
    "a100-40": Gpu("A100-SXM4-40GB", 312e12, 40_960 * _MIB),
    "a100-80": Gpu("A100", 312e12, 81_920 * _MIB),
    "h100": Gpu("H100", 989e12, 81_559 * _MIB),
    "h200": Gpu("H200", 989e12, 143_771 * _MIB),
    "b200": Gpu("B200", 2250e12, 183_359 * _MIB),
    "l40s": Gpu("L40S", 362e12, 46_068 * _MIB),
    "rtx4090": Gpu("RTX 4090", 165e12, 24_564 * _MIB),
}


def gpu_named(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        UserError: it is not known.
    """
    if name not in GPUS:
        raise unknown("GPU", name, GPUS)
    return GPUS[name]


def gpu_of(device: str) -> Gpu | None:
    """The GPU that PyTorch calls `device`, if it is known."""
    return next((gpu for gpu in GPUS.values() if gpu.device in device), None)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of training on one token, forward and backward."""

    whole: int
    """6 N + 12 L d T: all pairs of positions (PaLM, nanoGPT, llm-foundry)"""
    causal: int
    """6 N + 6 L d T: the pairs that causal attention needs"""


@dataclass(frozen=True)
class Ends:
    """What lies before and behind a model's blocks."""

    products: int
    """rows of `width` that take part in matrix products: the head's, and a linear embedding's"""
    parameters: int
    outputs: int
    """of the head"""

    def of(self, size: LlamaSize) -> int:
        """All parameters of a model with these ends."""
        return size.trunk_parameters() + self.parameters


def token_ends(size: LlamaSize, vocabulary: int) -> Ends:
    """Of a model of tokens: an embedding, which is looked up, and a head."""
    tables = size.parameters(vocabulary) - size.trunk_parameters()
    return Ends(vocabulary, tables, vocabulary)


def patch_ends(size: LlamaSize, values: int, outputs: int) -> Ends:
    """Of a model of patches of so many values: linear layers, and four starts (patches.py)."""
    products = values + outputs
    return Ends(products, (products + 1 + 4) * size.width + outputs, outputs)


def training_flops(size: LlamaSize, positions: int, products: int) -> Flops:
    """N are the weights in matrix products: the blocks', and `products` rows before and behind."""
    matrices = 6 * matrix_parameters(size, products)
    attention = 12 * size.layers * size.width * positions
    return Flops(matrices + attention, matrices + attention // 2)


def matrix_parameters(size: LlamaSize, products: int) -> int:
    """Weights that take part in matrix products: all but norms and tables that are looked up."""
    return size.block_parameters() + products * size.width


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU when the loss of a micro-batch has just been differentiated, the peak."""

    weights: int
    """fp32"""
    gradients: int
    """fp32; of the micro-batches before"""
    optimizer: int
    """its running means in fp32"""
    casts: int
    """the bf16 copies of the matrices that autocast makes for a forward pass"""
    activations: int
    """what the blocks keep for their backward pass"""
    logits: int
    """fp32 log-probabilities, their gradient, and that of the logits; as much of patches"""

    @property
    def total(self) -> int:
        state = self.weights + self.gradients + self.optimizer
        return state + self.casts + self.activations + self.logits


def training_memory(
    size: LlamaSize,
    positions: int,
    ends: Ends,
    micro_batch: int,
    bf16: bool = True,
    compiled: bool = False,
    shards: int = 1,
    recompute: float = 0.0,
    muon: bool = False,
) -> Memory:
    """The memory of training on micro-batches of `micro_batch` sequences of `positions`.

    With `shards`, weights, gradients and means are divided by so many GPUs (FSDP2). The blocks that
    `recompute` keep their input, and all else of one of them at a time.
    """
    parameters = ends.of(size)
    tokens = micro_batch * positions
    block, again = block_activations(size, bf16, compiled), int(size.layers * recompute)
    kept = (size.layers - again) * block + again * 4 * size.width + (block if again else 0)
    # What the last norm and the head read.
    kept += ((2 if bf16 and compiled else 4) + (2 if bf16 else 4)) * size.width
    return Memory(
        weights=-(-4 * parameters // shards),
        gradients=-(-4 * parameters // shards),
        optimizer=-(-optimizer_bytes(size, ends, muon) // shards),
        casts=2 * matrix_parameters(size, ends.products) if bf16 else 0,
        activations=tokens * kept,
        logits=tokens * 3 * 4 * ends.outputs,
    )


def optimizer_bytes(size: LlamaSize, ends: Ends, muon: bool) -> int:
    """AdamW's two running means in fp32; Muon has one of the blocks' matrices."""
    return 8 * ends.of(size) - (4 * size.block_parameters() if muon else 0)


def block_activations(size: LlamaSize, bf16: bool, compiled: bool) -> int:
    """Bytes that one block keeps of one position for its backward pass.

    The residual stream before either norm; what the products read: the outputs of the norms, q, k,
    v and what attention gives, once more in the order of the output's product; of the SwiGLU its
    gate, its other half and their product. Eager keeps the gate's SiLU too, and the residual stream
    as the norms compute, in fp32.
    """
    width = 2 if bf16 else 4
    swiglu = 3 if compiled else 4
    residual = 2 * (width if compiled else 4) * size.width
    # The norms' inverse roots and the attention's logarithms of sums.
    statistics = 4 * (2 + size.heads)
    return residual + width * (7 * size.width + swiglu * size.mlp_width) + statistics
