"""Recipes for tracking: `toto probe tracking MODEL DAVIS --recipe NAME`."""

from toto.probing.config import Tracking


def stc() -> Tracking:
    """STC's settings for DAVIS-2017 (Jabri et al. 2020), which the paper names.

    `toto probe tracking runs/large DAVIS --size 512 --out runs/large_davis`

    The paper's large reaches J&F 62.4 at 512 px, 44.8 at 256 px (Table 10); it names neither queue
    nor radius nor temperature. Not run by us.
    """
    return Tracking()


def dino() -> Tracking:
    """DINO's settings for DAVIS-2017 (Caron et al. 2021).

    (facebookresearch/dino: eval_video_segmentation.py)
    """
    return Tracking(
        queue=7,
        top_k=5,
        keep_ties=True,
        neighbourhood="square",
        near_first=True,
        repeat_first=False,
        temperature=0.1,
        soft_first=False,
        stretch=True,
    )


RECIPES = {"stc": stc, "dino": dino}
