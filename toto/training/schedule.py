"""Values that change with the step."""

import math

from toto.training.config import AdamW


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at `steps` and after."""
    progress = min(step / max(steps, 1), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate(config: AdamW, step: int, steps: int) -> float:
    """Linear warm-up to the peak, then half a cosine to its final fraction."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    decay_steps = config.decay_steps or steps - 1 - config.warmup_steps
    end = config.learning_rate * config.final_fraction
    return cosine(step - config.warmup_steps, decay_steps, config.learning_rate, end)
