import json

import av
import numpy as np
import pytest
from PIL import Image

from toto.world.ego import INTERACTIONS, sample_ego
from toto.world.layouts import LAYOUTS, write_world
from toto.world.layouts.ego4d import box
from toto.world.render import render_geometry

COUNT, FRAMES, FPS = 6, 72, 30
SIDES = (48, 64)
GOLDEN = [(3, 2), (2, 0), (1, 0), (3, 0), (0, 3), (1, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "ego4d"
    write_world(LAYOUTS["ego4d"], out, COUNT, 0, size=48, frames=FRAMES, workers=1)
    return out


def table(folder, split):
    return json.loads((folder / f"fho_sta_{split}.json").read_text())


def annotations(folder):
    return table(folder, "train")["annotations"] + table(folder, "val")["annotations"]


def test_the_tables_have_ego4ds_fields(folder):
    uids = set()
    for split, clips in (("train", 5), ("val", 1)):
        made = table(folder, split)
        assert set(made) == {
            *("version", "date", "description", "info"),
            *("noun_categories", "verb_categories", "annotations"),
        }
        metadata = made["info"]["video_metadata"]
        assert len(metadata) == clips
        assert set(map(json.dumps, metadata.values())) == {
            json.dumps({"frame_width": 64, "frame_height": 48, "fps": FPS})
        }
        nouns, verbs = (
            {c["id"]: c["name"] for c in made[f"{kind}_categories"]} for kind in ("noun", "verb")
        )
        for row in made["annotations"]:
            assert set(row) == {"uid", "video_uid", "frame", "clip_uid", "clip_frame", "objects"}
            assert row["video_uid"] in metadata
            (thing,) = row["objects"]
            pair = (nouns[thing["noun_category_id"]], verbs[thing["verb_category_id"]])
            assert pair in INTERACTIONS
            uids.add(row["uid"])
    assert len(uids) == len(annotations(folder))
    assert len({uid.split("_")[0] for uid in uids}) == COUNT


def test_golden_interactions(folder):
    rows = {row["video_uid"]: row["objects"][0] for row in annotations(folder)}
    found = [(rows[k]["noun_category_id"], rows[k]["verb_category_id"]) for k in sorted(rows)]
    assert found == GOLDEN


def scene_of(row):
    thing = row["objects"][0]
    nouns, verbs = ("cube", "sphere", "cylinder", "cone"), ("take", "push", "pull", "turn")
    kind = nouns[thing["noun_category_id"]], verbs[thing["verb_category_id"]]
    return sample_ego(0, int(row["video_uid"][-6:]), *kind, FRAMES, FPS)


def test_boxes_are_the_tight_boxes_of_the_masks(folder):
    for row in annotations(folder):
        drawn = scene_of(row)
        _, seen = render_geometry(drawn.scene, SIDES, np.array([row["frame"]]))
        rows, cols = np.nonzero(seen[0] == 1)
        edges = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert row["objects"][0]["box"] == edges
        assert 0 <= edges[0] < edges[2] <= 64
        assert 0 <= edges[1] < edges[3] <= 48


def test_the_contact_comes_nearer_frame_by_frame(folder):
    clips = {}
    for row in annotations(folder):
        clips.setdefault(row["clip_uid"], []).append(row)
    for rows in clips.values():
        frames = np.array([row["clip_frame"] for row in rows])
        seconds = np.array([row["objects"][0]["time_to_contact"] for row in rows])
        assert (np.diff(frames) > 0).all()
        assert (seconds > 0).all()
        contact = scene_of(rows[0]).contact
        np.testing.assert_allclose(seconds, (contact - frames) / FPS, atol=1e-6)


def test_frames_and_clips_are_there_and_the_same(folder):
    rows = annotations(folder)
    files = {p.name for p in (folder / "object_frames").iterdir()}
    assert files == {f"{row['video_uid']}_{row['frame']:07d}.jpg" for row in rows}
    for row in rows[::5]:
        with av.open(str(folder / f"clips/{row['clip_uid']}.mp4")) as container:
            clip = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert len(clip) == FRAMES
        name = f"{row['video_uid']}_{row['frame']:07d}.jpg"
        picture = np.asarray(Image.open(folder / "object_frames" / name)).mean(-1)
        distance = [np.abs(frame.mean(-1) - picture).mean() for frame in clip]
        assert distance[row["clip_frame"]] < 4
        assert distance[row["clip_frame"]] < distance[0]


def test_a_box_ends_at_the_far_edges_of_its_last_pixels():
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = mask[3, 4] = True
    assert box(mask) == [2, 1, 5, 4]
