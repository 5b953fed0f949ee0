"""The world on disk, each layout as the real data set is published."""

from toto.world.layouts.actions import ACTIONS_LAYOUT, write_actions
from toto.world.layouts.cater import CATER_LAYOUT
from toto.world.layouts.davis import DAVIS_LAYOUT
from toto.world.layouts.driver import Layout, World, write_world
from toto.world.layouts.ego4d import EGO4D_LAYOUT
from toto.world.layouts.images import IMAGES_LAYOUT

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (ACTIONS_LAYOUT, IMAGES_LAYOUT, DAVIS_LAYOUT, CATER_LAYOUT, EGO4D_LAYOUT)
}

__all__ = ["LAYOUTS", "Layout", "World", "write_actions", "write_world"]
