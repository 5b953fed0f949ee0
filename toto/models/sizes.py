"""The shapes of the models: the paper's three, and the six of its scaling law."""

from dataclasses import dataclass

from toto.errors import UserError, at_least, positive


@dataclass(frozen=True, kw_only=True)
class LlamaSize:
    """The shape of a LLaMA, apart from its vocabulary."""

    width: int
    """channels of the residual stream"""
    layers: int
    """number of blocks"""
    heads: int
    """attention heads in each block"""
    mlp_width: int
    """hidden channels of the SwiGLU"""
    rope_base: float = 10_000.0
    """base of the rotary embedding (the paper: 10,000; 50,000 when fine-tuning at 256 px)"""
    norm_eps: float = 1e-6
    """epsilon of RMSNorm"""
    tied_head: bool = False
    """whether the head is the embedding's own matrix"""
    init_std: float = 0.02
    """standard deviation of the initial weights"""
    mup_base: int | None = None
    """width at which muP equals the standard parametrisation; None: standard at every width"""

    def __post_init__(self) -> None:
        at_least(
            1, width=self.width, layers=self.layers, heads=self.heads, mlp_width=self.mlp_width
        )
        positive(
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
            init_std=self.init_std,
            mup_base=self.mup_base,
        )
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(
                f"width {self.width} with {self.heads} heads: the width of a head must be even"
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def growth(self) -> float:
        """Width over muP's base width, 1 in the standard parametrisation (see mup.py)."""
        return 1.0 if self.mup_base is None else self.width / self.mup_base

    def block_parameters(self) -> int:
        """Weights in all blocks' matrix products."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.mlp_width)

    def trunk_parameters(self) -> int:
        """Parameters of the blocks and the norms."""
        return self.block_parameters() + (2 * self.layers + 1) * self.width

    def parameters(self, vocabulary: int) -> int:
        """All parameters of the model with a table of `vocabulary` rows."""
        tables = 1 if self.tied_head else 2
        return self.trunk_parameters() + tables * vocabulary * self.width


# Toto, Table 1. The SwiGLU widths follow from its parameter counts (120M, 280M, 1.1B).
BASE = LlamaSize(width=768, layers=12, heads=12, mlp_width=3072)
LARGE = LlamaSize(width=1024, layers=16, heads=16, mlp_width=4096)
ONE_B = LlamaSize(width=2048, layers=22, heads=16, mlp_width=5632)


def scaled(width: int, layers: int) -> LlamaSize:
    """A model of Toto's scaling law (section 5): 16 heads at every width, under muP.

    The SwiGLU is 75/16 as wide as the model: the published numbers of parameters ask for about
    4.7, and under muP all widths must grow by the same factor.
    """
    return LlamaSize(width=width, layers=layers, heads=16, mlp_width=width * 75 // 16, mup_base=256)


# Toto, Table 15. The paper does not name its base width.
A1 = scaled(256, 12)
A2 = scaled(512, 16)
A3 = scaled(768, 20)
A4 = scaled(1024, 24)
A5 = scaled(1536, 28)
A6 = scaled(1792, 32)
