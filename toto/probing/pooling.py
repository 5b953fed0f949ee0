"""Read-outs of frozen hidden states."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """AIM's attention-pooling probe (apple/ml-aim: aim-v1/aim/v1/torch/layers.py).

    Batch norm without affine over the channels; keys and values linear without bias; one learned
    query for each head; softmax(q k / sqrt(d)) v; a linear classifier without bias.
    """

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.BatchNorm1d(width, eps=1e-6, affine=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.query = nn.Parameter(0.02 * torch.randn(heads, width // heads))
        self.classifier = nn.Linear(width, classes, bias=False)

    def forward(self, hidden: Float[Tensor, "b t c"]) -> Float[Tensor, "b classes"]:
        hidden = self.norm(hidden.flatten(0, 1)).view(hidden.shape)
        # With one query, keys and values need not be formed: the key projection folds into the
        # query, and the value projection is applied to what has been pooled.
        keys = self.k.weight.unflatten(0, (self.heads, -1))
        query = torch.einsum("hd,hdc->hc", self.query, keys) * self.query.shape[1] ** -0.5
        weights = torch.einsum("btc,hc->bht", hidden, query).softmax(-1)
        pooled = torch.einsum("bht,btc->bhc", weights, hidden)
        values = self.v.weight.unflatten(0, (self.heads, -1))
        return self.classifier(torch.einsum("bhc,hdc->bhd", pooled, values).flatten(1))
