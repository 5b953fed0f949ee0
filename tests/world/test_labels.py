from itertools import product

import numpy as np
import pytest

from toto.world.labels import (
    ATOMIC,
    actions_order,
    actions_present,
    cell,
    compound_name,
    compounds,
    localize,
    order,
)

SHAPES = ("sphere", "spl", "cylinder", "cube", "cone")


def random_record(seed: int) -> dict:
    """A record of random movements, most of them sharing ends, some that CATER has no class for."""
    rng = np.random.default_rng(seed)
    shapes = [SHAPES[i] for i in rng.integers(5, size=5)]
    actions = ["_slide", "_pick_place", "_rotate", "_contain", "_no_op"]
    objects, movements = [], {}
    for i, shape in enumerate(shapes):
        starts = np.sort(rng.integers(0, 12, rng.integers(3)) * 10)
        moves = [[actions[rng.integers(5)], None, int(s), int(s) + 20] for s in starts]
        objects.append({"shape": shape, "instance": f"{shape}_{i}", "locations": {}})
        movements[f"{shape}_{i}"] = moves
    return {"objects": objects, "movements": movements}


def holds(record: dict, first: int, second: int, when: str) -> bool:
    """Whether two different movements are of these kinds and lie so in time, by trying all."""
    events = [
        (thing["instance"], k, (thing["shape"], m[0]), m[2], m[3])
        for thing in record["objects"]
        for k, m in enumerate(record["movements"][thing["instance"]])
    ]
    for a, b in product(events, events):
        if a[:2] == b[:2] or a[2] != ATOMIC[first] or b[2] != ATOMIC[second]:
            continue
        before, after = a[4] <= b[3], b[4] <= a[3]
        if {"before": before, "after": after and not before}.get(when, not before and not after):
            return True
    return False


def test_there_are_14_atomic_and_301_compound_classes():
    assert len(set(ATOMIC)) == 14
    assert len(set(compounds())) == 301
    names = [compound_name(c) for c in compounds()]
    assert names[:3] == [
        "sphere_slide before sphere_slide",
        "sphere_slide during sphere_slide",
        "sphere_slide before sphere_pick_place",
    ]
    assert names[-1] == "cone_slide during cone_slide"
    assert len(set(names)) == 301


def test_no_compound_class_is_the_mirror_image_of_another():
    turned = {"before": "after", "after": "before", "during": "during"}
    for a, b, when in compounds():
        if (b, a, turned[when]) != (a, b, when):
            assert (b, a, turned[when]) not in compounds()


@pytest.mark.parametrize("seed", range(8))
def test_compound_labels_are_what_trying_every_pair_gives(seed):
    record = random_record(seed)
    expected = [i for i, c in enumerate(compounds()) if holds(record, *c)]
    assert actions_order(record) == expected
    present = {
        (thing["shape"], m[0])
        for thing in record["objects"]
        for m in record["movements"][thing["instance"]]
    }
    assert [ATOMIC[i] for i in actions_present(record)] == [k for k in ATOMIC if k in present]


def test_order_in_time():
    assert order((0, 10), (10, 20)) == "before"
    assert order((10, 20), (0, 10)) == "after"
    assert order((0, 11), (10, 20)) == "during"
    assert order((3, 5), (3, 5)) == "during"


def test_cells_go_row_by_row_and_end_at_the_plane():
    assert cell(-3.0, -3.0) == 0
    assert cell(2.9, -3.0) == 5
    assert cell(-0.001, 0.0) == 3 * 6 + 2
    assert cell(3.0, 3.0) == 35
    spots = {"2": [0.0, 0.0, 0.3], "10": [1.5, -1.5, 0.3]}
    snitch = {"shape": "spl", "locations": spots}
    assert localize({"objects": [{"shape": "cone"}, snitch]}) == 1 * 6 + 4
