import gc
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.tiny import make_dataset, make_images, make_videos, save_patches, save_tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.probing.clips import probe_splits
from toto.probing.config import ProbeTraining
from toto.probing.encoder import TrainedEncoder
from toto.probing.features import FrozenFeatures
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import IMAGES, VIDEO

TRAINING = ProbeTraining(
    epochs=12,
    batch=16,
    probes=("mean", "attention"),
    learning_rates=(1e-3, 2e-2),
    weight_decays=(0.1,),
    held_out=0.3,
)
CLASSES = ("black", "blue", "green", "red", "white", "yellow")

DAMAGED = "not media (text)"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TokenDataset:
    """Pictures of noise on six colours, in folders by split and class, and a few videos of one."""
    folder = tmp_path_factory.mktemp("recognition")
    random = np.random.default_rng(0)
    for name in CLASSES:
        colour = np.array(Image.new("RGB", (8, 8), name), np.int64)
        for split, count in (("train", 24), ("val", 6)):
            (folder / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                noisy = (colour + random.integers(-30, 31, (8, 8, 3))).clip(0, 255)
                path = folder / "source" / split / name / f"{i}.png"
                Image.fromarray(noisy.astype(np.uint8)).save(path)
    (folder / "source" / "val" / "red" / "damaged.png").write_bytes(b"no picture")
    make_videos(folder / "source" / "train" / "red", [4, 5])
    tokenizer = save_tokenizer(folder / "tokenizer")
    return make_dataset(folder / "source", tokenizer, folder / "data")


@pytest.fixture(scope="module")
def model(data) -> TrainedEncoder:
    torch.manual_seed(0)
    size = LlamaSize(width=16, layers=2, heads=2, mlp_width=24, init_std=0.2)
    return TrainedEncoder(Llama(size, data.vocabulary.size).eval().requires_grad_(False))


def test_an_image_is_its_start_and_its_codes(data):
    train, chosen_by, test, classes = probe_splits(data, 0.3, 1, "image")
    assert classes == list(CLASSES)
    assert len(train) + len(chosen_by) == 6 * 24 and len(test) == 6 * 6
    for part in (train, chosen_by, test):
        clips = part.middle()
        inputs = clips.inputs()
        assert inputs.shape == (len(part), 1 + 4)
        for tokens, item in zip(inputs.tolist(), clips.items, strict=True):
            assert item.kind == "image"
            assert tokens == [IMAGES, *(data.codes(item).ravel() + 4).tolist()]
    with pytest.raises(UserError, match="too few labelled videos"):
        probe_splits(data, 0.3, 4, "video")
    assert VIDEO not in train.middle().inputs()[:, 0]


def test_images_are_recognised_and_what_was_chosen_is_said(data, model, tmp_path):
    result = recognise(Question(model, data, "image", 1, TRAINING), tmp_path / "out")
    assert result.accuracy > 0.5 > result.chance == pytest.approx(1 / 6)
    assert min(result.pixels["attention"], result.pixels["linear"]) > 0.5
    low, high = result.interval
    assert low <= result.accuracy <= high
    assert result.top5 is not None and result.top5 >= result.accuracy
    # What is chosen is best on the held-out clips, whatever the test clips say.
    assert set(result.curves) == {"mean", "attention"}
    for curve in (*result.curves.values(), result.knn):
        assert len(curve.held_out_accuracy) == len(curve.test_accuracy) == 3
    best = {name: max(curve.held_out_accuracy) for name, curve in result.curves.items()}
    chosen = result.curves[result.probe]
    assert best[result.probe] == max(best.values())
    assert chosen.held_out_accuracy[result.best_layer] == best[result.probe]
    assert chosen.test_accuracy[result.best_layer] == result.accuracy
    assert set(chosen.learning_rates) <= {1e-3, 2e-2}
    confusion = np.array(result.confusion)
    assert confusion.sum() == result.clips[2] == 36
    assert confusion.diagonal().sum() / 36 == pytest.approx(result.accuracy)
    assert result.mean_per_class == pytest.approx(result.accuracy)  # as many clips of each class
    # The pictures differ by colour alone, so that the nearest ones are of the same class.
    assert max(result.knn.test_accuracy) > 0.5
    table = result.table()
    assert f"layer  1  {chosen.test_accuracy[1]:6.1%}" in table
    assert "Table 7" in table and "Table 8" not in table


class Colours:
    """An encoder of frames: its states are colours of their quarters, by layer shuffled or not."""

    layers, width, heads, device = 1, 3, 1, torch.device("cpu")

    def __init__(self, fingerprint: str = "0" * 16) -> None:
        self.fingerprint = fingerprint

    def hidden_states(self, inputs, layers):
        assert inputs.dtype == torch.uint8 and inputs.shape[1:] == (1, 3, 8, 8)
        x = F.adaptive_avg_pool2d(inputs[:, 0].float(), 2).flatten(2).mT / 255
        return {layer: x if layer else torch.rand_like(x) for layer in layers}


@pytest.fixture(scope="module")
def pixels(data, tmp_path_factory) -> TokenDataset:
    folder = tmp_path_factory.mktemp("pixels")
    patches = save_patches(folder / "patches")
    return make_dataset(data.folder.parent / "source", patches, folder / "data")


def test_other_encoders_read_frames(pixels, tmp_path):
    result = recognise(
        Question(Colours(), pixels, "image", 1, replace(TRAINING, probes=("mean",))), tmp_path
    )
    assert result.best_layer == 1
    assert result.accuracy > 0.8 and result.knn.test_accuracy[1] > 0.8
    assert result.test_accuracy[0] < 0.5
    assert min(result.pixels["attention"], result.pixels["linear"]) > 0.5
    assert result.unread == {"val": [f"val/red/damaged.png: {DAMAGED}"]}
    assert "1 of val could not be read: val/red/damaged.png" in result.table()
    with pytest.raises(UserError, match=r"begun with other settings.*encoder"):
        recognise(
            Question(Colours("1" * 16), pixels, "image", 1, replace(TRAINING, probes=("mean",))),
            tmp_path,
        )


def test_views_are_trained_on_and_averaged_over(data, model, tmp_path):
    """Random boxes to train on, three crops to test on, of a data set of its own."""
    source, tokenizer = data.folder.parent / "source", data.folder.parent / "tokenizer"
    views = {
        "train": View(size=8, crops=2, scale=(0.3, 1.0), flip=True),
        "val": View(size=8, crops=3, spread="even"),
    }
    train, test = (
        ingest(
            read_sources([str(source / split)]), tokenizer, tmp_path / split, Ingest(view), "it", 0
        )
        for split, view in views.items()
    )
    result = recognise(Question(model, train, "image", 1, TRAINING, test), tmp_path / "out")
    assert result.views == 3 and result.clips[2] == 36 and sum(result.clips[:2]) == 6 * 24
    assert result.accuracy > 0.5 > result.chance
    assert "36 test items in 3 views each" in result.table()
    pictures = make_dataset(source / "val", save_patches(tmp_path / "patches"), tmp_path / "other")
    with pytest.raises(UserError, match="must agree"):
        recognise(Question(model, train, "image", 1, TRAINING, pictures), tmp_path / "new")


def test_a_result_is_there_to_stay(data, model, tmp_path):
    brief = replace(TRAINING, epochs=1)
    result = recognise(Question(model, data, "image", 1, brief), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert recognise(Question(model, data, "image", 1, brief), tmp_path) == result
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {p.name for p in before if before[p] != after[p]} <= {".lock"}
    (tmp_path / "result.json").unlink()  # as if it had been killed before the end
    assert recognise(Question(model, data, "image", 1, brief), tmp_path) == result
    assert json.loads((tmp_path / "result.json").read_text())["probe"] == result.probe
    with pytest.raises(UserError, match="begun with other settings"):
        recognise(Question(model, data, "image", 1, TRAINING), tmp_path)


def test_test_items_without_labels_leave_the_validation_to_test_on(tmp_path):
    rows = ["path,label,split"]
    for split, count in (("train", 12), ("val", 2), ("test", 3)):
        for i, name in enumerate(("cat", "dog")):
            make_videos(tmp_path / "videos" / split / name, [4] * count, seed=i)
            label = "" if split == "test" else name
            rows += [
                f"videos/{split}/{name}/video{n:03d}.mp4,{label},{split}" for n in range(count)
            ]
    (tmp_path / "all.csv").write_text("\n".join(rows))
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    data = make_dataset(tmp_path / "all.csv", tokenizer, tmp_path / "data")
    *_, test, classes = probe_splits(data, 0.3, 4)
    assert classes == ["cat", "dog"]
    assert [item.split for item in test.middle().items] == ["val"] * 4


def test_nothing_that_is_kept_outlives_its_question(data, model, tmp_path):
    """States of a question take gigabytes, and a study asks many."""
    gc.collect()
    gc.disable()
    try:
        recognise(Question(model, data, "image", 1, replace(TRAINING, epochs=1)), tmp_path)
        left = [x for x in gc.get_objects() if type(x) is FrozenFeatures]
        assert sum(features.bytes for features in left) == 0
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_pixels_are_left_out_where_the_pictures_are_gone(model, tmp_path, capsys):
    for split, count in (("train", 12), ("val", 3)):
        for name in ("cat", "dog"):
            make_images(tmp_path / "media" / split / name, count, seed=len(name))
    visual = save_tokenizer(tmp_path / "tokenizer")
    data = make_dataset(tmp_path / "media", visual, tmp_path / "data")
    shutil.rmtree(tmp_path / "media" / "train" / "dog")
    result = recognise(
        Question(model, data, "image", 1, replace(TRAINING, epochs=1)), tmp_path / "out"
    )
    assert result.pixels == {} and "pixels" not in result.table()
    said = capsys.readouterr().err.replace("\n", "")
    assert "pixels are not probed: " in said and "media/train/dog/image" in said


def test_heads_divide_the_width(data, model, tmp_path):
    with pytest.raises(UserError, match="3 probe heads do not divide the model's width 16"):
        recognise(Question(model, data, "video", 4, replace(TRAINING, heads=3)), tmp_path)
