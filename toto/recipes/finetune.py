"""Recipes for full fine-tuning: `toto finetune images|actions MODEL DATA --recipe NAME`."""

from toto.probing.finetune.config import FineTune


def imagenet() -> FineTune:
    """MAE's recipe for ViT-B, on codes of 256 px (Toto, Table 13).

    `torchrun --nproc-per-node 8 --no-python -- toto finetune images runs/base IMAGENET_256`
    `    --compile --out runs/base_imagenet`

    The paper's base reaches 82.6 % with full attention, 82.2 % with causal; it names neither size
    nor length. Not run by us.
    """
    return FineTune(attention="full", rope_base=50_000.0, held_out=0.01)


def k400() -> FineTune:
    """Clips of 16 frames at 128 px: MAE's recipe with fewer epochs and smaller steps.

    `torchrun --nproc-per-node 8 --no-python -- toto finetune actions runs/base K400`
    `    --compile --out runs/base_k400`

    The paper fine-tunes on no videos (base, frozen: 59.3 %). Not run by us.
    """
    return FineTune(epochs=50, batch=256, micro_batch=8, held_out=0.01)


def cater() -> FineTune:
    """Where CATER's snitch is in the end: the paper's task, with no mixing of videos.

    `torchrun --nproc-per-node 8 --no-python -- toto finetune permanence runs/large CATER`
    `    --frames 32 --compile --out runs/large_cater`

    The paper's large reaches 62.8 % with 16 frames, 72.9 % with 32 (Table 12); it names neither
    size nor pooling nor length. Not run by us.
    """
    return FineTune(
        epochs=30,
        warmup_epochs=2,
        batch=32,
        micro_batch=4,
        base_learning_rate=8e-4,
        mixup=0.0,
        cutmix=0.0,
        label_smoothing=0.0,
        pool="attention",
        held_out=0.1,
    )


def demo() -> FineTune:
    """The demo's model on a few hundred clips of the embedded world, in minutes on 2 CPU cores."""
    return FineTune(
        epochs=30,
        warmup_epochs=3,
        batch=32,
        micro_batch=32,
        base_learning_rate=8e-3,
        layer_decay=0.75,
        mixup=0.2,
        cutmix=0.2,
        checkpoint_every=100,
    )


RECIPES = {"imagenet": imagenet, "k400": k400, "cater": cater, "demo": demo}
