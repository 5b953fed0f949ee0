"""muP: one learning rate for every width (Yang et al. 2022, Tensor Programs V, table 8).

In the standard parametrisation a wider model needs a smaller learning rate, and one found at a
small width is of no use at a large one. muP scales initial weights, learning rates and two places
of the forward pass with the width, so that every layer's output changes by as much in a step at any
width. With m = width / `mup_base`, for Adam:

parameter                    initial std   learning rate   weight decay   forward
embedding                    s             r               w
q, k, v, o, gate, up, down   s / sqrt(m)   r / m           w m
head                         s             r               w              input / m
norms                        1             r               0
attention                                                                 q k / sqrt(d m)

The embedding's own multiplier is 1, and the depth is not looked at. At `mup_base` this is the
standard parametrisation. The number of heads is the base's, so that d, the width of a head, grows
with m: q k / sqrt(d m) is muP's q k / d times the root of the base's d, Toto's a1-a6 all have 16
heads, and the SwiGLU must grow by m too.

AdamW multiplies a group's decay by its learning rate. The decay of r / m is therefore m times as
strong, as in the `mup` package's MuAdamW: a step then shrinks weights of all widths alike, by r w,
and their running mean is over as many steps. nanoGPT-mup leaves it at w, with which wide matrices
hardly decay and the balance between update and decay depends on the width.

`Llama.fill` and `Llama.rate_factor` hold the first two columns, `build_optimizers` the third.
"""

import math
from dataclasses import replace

from toto.models.llama import Llama
from toto.weights import unfilled


def fold(model: Llama) -> Llama:
    """A plain LLaMA with the same logits and hidden states: its head is untied.

    muP's divisor of the head goes into the head, its scale of attention into the queries. All other
    weights are shared with `model`.
    """
    growth = model.size.growth
    with unfilled():
        folded = Llama(replace(model.size, mup_base=None, tied_head=False), model.vocabulary)
    weights = dict(model.state_dict())
    for name in weights:
        if name.endswith("q_proj.weight"):
            weights[name] = weights[name] / math.sqrt(growth)
    weights["lm_head.weight"] = weights["lm_head.weight"] / growth
    folded.load_state_dict(weights, assign=True)
    return folded.train(model.training)
