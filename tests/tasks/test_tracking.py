"""Tracking from its command on, on videos of the embedded world in DAVIS's layout."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toto
from tests.children import run_until_write
from tests.commands import ENVIRONMENT, TOTO
from tests.probing import encoders
from tests.tiny import contents, save_model_of, save_tokenizer
from toto.config import from_dict
from toto.errors import UserError
from toto.media.masks import palette, read_mask, write_mask
from toto.probing.baselines import load_baseline
from toto.probing.config import Tracking
from toto.recipes.tracking import dino
from toto.tasks.davis import read_davis
from toto.tasks.frames import frame_reader
from toto.tasks.tracking import TrackingResult, track
from toto.world.layouts import LAYOUTS, write_world

FRAMES, SIDE, SIZE = 6, 16, 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five videos, of which two are for validation, and a random model of 16 px: 4x4 codes."""
    folder = tmp_path_factory.mktemp("tracking")
    write_world(LAYOUTS["davis"], folder / "davis", 5, 0, size=48, frames=FRAMES, workers=1)
    save_model_of(save_tokenizer(folder / "tokenizer"), SIDE, folder / "model")
    return folder


@pytest.fixture(scope="module")
def alone(folder, warm) -> Path:
    warm.made(folder, *command(folder, "alone"))
    return folder / "alone"


def command(folder: Path, out: str, *more: str) -> list[str]:
    where = ["probe", "tracking", str(folder / "model"), str(folder / "davis")]
    return [*where, "--out", str(folder / out), "--device", "cpu", "--size", str(SIZE), *more]


def result_in(out: Path) -> TrackingResult:
    return from_dict(TrackingResult, json.loads((out / "result.json").read_text()), str(out))


def test_masks_and_measures_of_every_layer(folder, alone):
    result = result_in(alone)
    names = (folder / "davis/ImageSets/2017/val.txt").read_text().split()
    assert (result.videos, result.unmeasured, result.grid) == (len(names), 0, (24, 24))
    assert result.layers == [0, 1, 2] and len(result.scores) == 3
    assert result.best_layer == int(np.argmax([score.jf for score in result.scores]))
    assert {path.name for path in (alone / "masks").iterdir()} == {
        *("layer-0", "layer-1", "layer-2", "pixels", "still")
    }
    for name in names:
        true = read_mask(folder / f"davis/Annotations/480p/{name}/00000.png")
        for reading in (alone / "masks").iterdir():
            masks = sorted((reading / name).iterdir())
            assert [mask.name for mask in masks] == [f"{i:05d}.png" for i in range(FRAMES)]
            assert np.array_equal(read_mask(masks[0]), true)
            assert read_mask(masks[-1]).shape == true.shape
            if reading.name == "still":
                assert all(np.array_equal(read_mask(mask), true) for mask in masks)
    # Solids move across the picture in these few frames: what looks alike says more than nothing.
    pixels, still, grid = (result.yardsticks[x].jf for x in ("pixels", "still", "grid"))
    assert grid > pixels > still + 0.1


def test_masks_are_laid_over_the_frames(folder, alone):
    """At the middle of an object of the first frame, between its colour and the picture's."""
    video = read_davis(folder / "davis", "val")[0]
    sheet = np.asarray(Image.open(alone / "masks.png")).astype(float)
    wide = round(144 * 86 / 48)
    assert sheet.shape == (2 * 144, FRAMES * wide, 3)
    mask = read_mask(video.masks[0])
    frame = np.asarray(Image.open(video.frames[0])).astype(float)
    ys, xs = np.nonzero(mask == 1)
    y, x = (int(np.median(v)) for v in (ys, xs))
    assert (mask[y - 1 : y + 2, x - 1 : x + 2] == 1).all()
    expected = (160 * palette()[1].astype(float) + 95 * frame[y, x]) / 255
    assert abs(sheet[3 * y + 1, round(wide * (x + 0.5) / 86)] - expected).max() < 40
    far_y, far_x = np.argwhere(mask == 0)[0]
    assert abs(sheet[3 * far_y + 1, 3 * far_x + 1] - frame[far_y, far_x]).max() < 40


def test_j_is_that_of_the_masks_that_lie_there(folder, alone):
    """By its definition, over objects: the first and the last frame do not count."""
    means = []
    for video in read_davis(folder / "davis", "val"):
        for number in video.numbers:
            values = []
            for path in video.masks[1:-1]:
                true = read_mask(path) == number
                own = read_mask(alone / "masks/pixels" / video.name / path.name) == number
                values.append((own & true).sum() / (own | true).sum())
            means.append(np.mean(values))
    assert result_in(alone).yardsticks["pixels"].j_mean == pytest.approx(np.mean(means))


def test_tables_are_those_of_the_official_evaluation(alone):
    result = result_in(alone)
    (row,) = csv.DictReader((alone / "global_results-val.csv").open())
    best = result.scores[result.best_layer]
    assert list(row) == [
        *("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    ]
    assert [*row.values()] == [f"{value:.3f}" for value in best.values]
    rows = [*csv.DictReader((alone / "per-sequence_results-val.csv").open())]
    assert len(rows) == result.objects and rows[0]["Sequence"].endswith("_1")
    assert np.mean([float(row["J-Mean"]) for row in rows]) == pytest.approx(best.j_mean, abs=1e-3)


def test_done_before_it_says_the_same_at_once(folder, alone, warm):
    before = contents(alone)
    said = warm.made(folder, *command(folder, "alone"))
    assert contents(alone) == before
    assert said[0].startswith("2 videos, ") and said[-1] == str(alone)
    assert sum("<- best" in line for line in said) == 1
    other = warm.toto(folder, *command(folder, "alone", "--top-k", "3"))
    assert other.returncode == 2 and "top_k" in other.stderr


def ask(folder: Path, out: Path) -> None:
    track(toto.load(folder / "model", "cpu"), folder / "davis", out, Tracking(size=SIZE))


def test_killed_anywhere_it_goes_on(folder, alone, tmp_path):
    for moment in (2, 9, 30, 36, 20, 33):
        code = run_until_write(moment, tmp_path / "out", ask, folder, tmp_path / "out")
        assert code == -9
    ask(folder, tmp_path / "out")
    assert (tmp_path / "out/result.json").read_bytes() == (alone / "result.json").read_bytes()


def test_two_processes_share_the_videos(folder, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "--", TOTO, *command(folder, "two")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert contents(folder / "two").keys() == contents(alone).keys()
    assert result_in(folder / "two") == result_in(alone)
    assert done.stdout.count("2 videos") == 1


def test_a_first_mask_alone_is_tracked_and_not_measured(folder, tmp_path):
    """A folder of one's own, without lists."""
    own = tmp_path / "own"
    shutil.copytree(folder / "davis/JPEGImages", own / "JPEGImages")
    name = sorted(path.name for path in (own / "JPEGImages/480p").iterdir())[0]
    masks = own / "Annotations/480p" / name
    masks.mkdir(parents=True)
    shutil.copy(folder / f"davis/Annotations/480p/{name}/00000.png", masks)
    result = track(toto.load(folder / "model"), own, tmp_path / "out", Tracking(layers="1"))
    assert (result.videos, result.unmeasured, result.scores) == (1, 1, [])
    assert result.best_layer is None and result.yardsticks == {}
    assert len([*(tmp_path / "out/masks/layer-1" / name).iterdir()]) == FRAMES
    assert "first mask alone" in result.table()
    assert not [*(tmp_path / "out").glob("*.csv")]


@torch.no_grad()
def test_states_are_of_single_frames_or_of_what_came_before(folder):
    """Against the model's own features of a clip whose last frame it is."""
    model = toto.load(folder / "model", "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, SIDE, SIDE), np.uint8)
    layout, codes = model.layout, model.tokenize(frames).numpy()

    def states(kept: np.ndarray, kind: str) -> torch.Tensor:
        tokens = torch.from_numpy(layout.sequence(kept, kind, len(kept))[None, :-1])
        return model.model.hidden_states(tokens, [2])[2][0, -16:]

    for context, kind in ((1, "image"), (3, "video")):
        found = [x[2] for x in frame_reader(model, None, context).states(frames, [0, 2])]
        for number, own in enumerate(found):
            seen = [max(0, i) for i in range(number + 1 - context, number + 1)]
            expected = states(codes[seen], kind)
            error = (own - expected).norm() / expected.norm()
            assert error < 0.03  # a CPU may compute in bf16


def test_encoders_of_images_track_too(folder, tmp_path):
    encoder = load_baseline(encoders.save("dinov2", tmp_path))
    reader = frame_reader(encoder, 32)
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    found = [x[3] for x in reader.states(frames, [3])]
    assert reader.grid == (8, 8) and [x.shape for x in found] == [(64, 24)] * 3
    assert encoder.pixels.size != 32  # the one that was given is as it was
    result = track(encoder, folder / "davis", tmp_path / "out", replace(dino(), size=32))
    assert len(result.scores) == 4
    fixed, videos = (load_baseline(encoders.save(k, tmp_path)) for k in ("mae", "videomae"))
    with pytest.raises(UserError, match="size 32: this encoder reads 16 pixels alone"):
        frame_reader(fixed, 32)
    with pytest.raises(UserError, match="this encoder reads videos"):
        frame_reader(videos, None)
    with pytest.raises(UserError, match="context 2: of others than trained models 1"):
        frame_reader(fixed, None, 2)


def test_mistakes_are_one_line(folder, tmp_path, warm):
    broken = tmp_path / "davis"
    shutil.copytree(folder / "davis", broken)
    name = (broken / "ImageSets/2017/val.txt").read_text().split()[0]
    frame, mask = (
        broken / f"JPEGImages/480p/{name}/00003.jpg",
        broken / f"Annotations/480p/{name}/00003.png",
    )

    def said(*more: str, root: Path = broken) -> str:
        words = [
            str(root) if word == str(folder / "davis") else word for word in command(folder, "")
        ]
        words[words.index("--out") + 1] = str(tmp_path / "out")
        done = warm.toto(folder, *words, *more)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "split 'vall'" in said("--split", "vall") and "train, val" in said("--split", "vall")
    assert "split '../2017/val': the name of a list" in said("--split", "../2017/val")
    assert "holds no JPEGImages" in said(root=tmp_path)
    assert "did you mean 'dino'" in said("--recipe", "dina")
    assert "size 30: this encoder needs a multiple of 4" in said("--size", "30")
    assert "context 9" in said("--context", "9")
    assert "layers '7'" in said("--layers", "7")
    whole = frame.read_bytes()
    frame.write_bytes(whole[: len(whole) // 2])
    assert said().startswith(f"toto: {frame}: truncated or corrupt")
    frame.write_bytes(whole)
    small = read_mask(mask)[:-2]
    write_mask(mask, small)
    assert f"videos.{name} " in said()  # `out` has been begun with other masks
    shutil.rmtree(tmp_path / "out")
    assert f"{mask} is of" in said()
    listed = broken / "ImageSets/2017/val.txt"
    for line in (f"480p/{name}", "..", "x" * 300):
        listed.write_text(f"{line}\n")
        assert "is no name of a video" in said()
    listed.write_bytes(b"\xff\xfe")
    assert "val.txt': not UTF-8 text" in said()
    listed.write_text(f"{name}\n")
    shutil.copy(frame, frame.with_suffix(".png"))
    assert "holds two frames of one number" in said()
    frame.with_suffix(".png").unlink()
    mask.unlink()
    assert f"{mask} is missing" in said()
    write_mask(broken / f"Annotations/480p/{name}/00000.png", np.zeros((48, 86), np.uint8))
    write_mask(mask, np.zeros((48, 86), np.uint8))
    assert "shows no object" in said()
    assert "trained on images alone" in images_alone(folder, tmp_path)


def images_alone(folder: Path, tmp_path: Path) -> str:
    """What a model of images says of a context."""
    shutil.copytree(folder / "model", tmp_path / "images")
    path = tmp_path / "images/config.json"
    config = json.loads(path.read_text())
    config["toto"]["kinds"] = ["image"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        frame_reader(toto.load(tmp_path / "images", "cpu"), None, 2)
    return str(error.value)


def test_objects_are_what_the_first_mask_shows_whatever_their_numbers(folder, tmp_path):
    """With gaps, in white, and in frames whose names are plain numbers; as they were by 1 and 2."""
    name = (folder / "davis/ImageSets/2017/val.txt").read_text().split()[0]
    source = folder / "davis/Annotations/480p" / name
    numbered = {"plain": [0, 1, 2, 3, 4], "gaps": [0, 7, 200, 9, 4], "grey": [0, 7, 200, 9, 4]}
    results = {}
    for kind, numbers in numbered.items():
        own = tmp_path / kind
        masks = own / "Annotations/480p/video"
        shutil.copytree(folder / f"davis/JPEGImages/480p/{name}", own / "JPEGImages/480p/video")
        masks.mkdir(parents=True)
        for frame in (own / "JPEGImages/480p/video").iterdir():
            mask = np.array(numbers, np.uint8)[read_mask(source / f"{frame.stem}.png")]
            path = masks / f"{int(frame.stem)}.png"
            Image.fromarray(mask).save(path) if kind == "grey" else write_mask(path, mask)
            frame.rename(frame.with_stem(str(int(frame.stem))))
        results[kind] = track(
            toto.load(folder / "model", "cpu"), own, tmp_path / f"{kind}-out", HOW
        )
    assert results["plain"] == results["gaps"] == results["grey"]
    (video,) = read_davis(tmp_path / "gaps", "val")
    assert set(video.numbers) <= {7, 200, 9, 4}
    last = read_mask(tmp_path / "gaps-out/masks/still/video/5.png")
    assert set(np.unique(last).tolist()) == {0, *video.numbers}
    rows = (tmp_path / "gaps-out/per-sequence_results-val.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"video_{i}" for i in video.numbers]


HOW = Tracking(size=SIZE, layers="0")


@pytest.mark.real
def test_a_natural_video_is_tracked_better_than_left_alone(folder, real, tmp_path):
    davis = real / "davis/MathLee_EOR-VOS/DAVIS"
    own = tmp_path / "davis"
    for kind in ("JPEGImages", "Annotations"):
        (own / kind / "480p").mkdir(parents=True)
        (own / kind / "480p/horsejump-high").symlink_to(davis / kind / "480p/horsejump-high")
    how = Tracking(size=SIZE, layers="0", queue=5)
    result = track(toto.load(folder / "model", "cpu"), own, tmp_path / "out", how)
    with Image.open(tmp_path / "out/masks/pixels/horsejump-high/00010.png") as mask:
        assert mask.size == (854, 480)
    assert result.yardsticks["pixels"].jf > result.yardsticks["still"].jf + 0.05
