import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import toto
from tests.tiny import make_dataset, make_images, make_videos, pictures, save_tokenizer
from toto.errors import MediaError, UserError
from toto.generation.sampling import Sampling
from toto.media.video import read_frames
from toto.media.view import View
from toto.models.llama import Llama
from toto.models.saved import load_model, save_model
from toto.models.sizes import LlamaSize

LAYERS, WIDTH, FRAMES, CODES = 4, 16, 6, 4  # clips of 6 frames of 2x2 codes
SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model in a run folder, and a video of 20 frames."""
    folder = tmp_path_factory.mktemp("api")
    save_tokenizer(folder / "tokenizer")
    save_tokenizer(folder / "other", seed=1)
    dataset = make_dataset(
        make_videos(folder / "videos", [20]), folder / "tokenizer", folder / "tokens"
    )
    torch.manual_seed(3)
    size = LlamaSize(width=WIDTH, layers=LAYERS, heads=2, mlp_width=24, init_std=0.4)
    model = Llama(size, dataset.vocabulary.size)
    details = {
        "vocabulary": dataset.vocabulary.to_dict(),
        "frames": FRAMES,
        "kinds": ["image", "video"],
        "view": {"stride": 2, "size": SIDE},
        "tokenizer": dataset.info.tokenizer,
    }
    save_model(model, details, folder / "tokenizer", folder / "run" / "model")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return toto.load(folder / "run", "cpu")


@pytest.fixture(scope="module")
def video(folder):
    return folder / "videos" / "video000.mp4"


def test_load_a_run_or_its_model(folder, model, video):
    alone = toto.load(str(folder / "run" / "model"), "cpu")
    for one, other in zip(model.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    assert alone.frames == FRAMES and alone.view == View(stride=2, size=SIDE)
    assert alone.device == torch.device("cpu")
    assert torch.equal(model.tokenize(video), alone.tokenize(video))


def test_tokenize_a_path_or_its_frames(model, video):
    frames = np.concatenate(list(read_frames(str(video), View(stride=1, size=SIDE))))
    codes = model.tokenize(video)
    assert codes.shape == (10, 2, 2)  # every second frame of 20
    # Of frames that are given as such, nothing is skipped.
    assert torch.equal(codes, model.tokenize(frames[::2]))
    assert torch.equal(model.tokenize(str(video)), codes)
    assert torch.equal(codes, model.tokenizer.encode(torch.from_numpy(frames[::2])))


def test_features_are_the_hidden_states_of_the_codes(model, video):
    states = model.features(video)
    assert list(states) == list(range(LAYERS + 1))
    codes = model.tokenize(video)[:FRAMES]
    # Start token 1, codes shifted by 4, in raster order.
    tokens = torch.tensor([[1, *(int(code) + 4 for code in codes.reshape(-1))]])
    by_hand = model.model.hidden_states(tokens, range(LAYERS + 1))
    embedded = model.model.model.embed_tokens(tokens)[0, 1:]
    assert torch.equal(states[0], embedded)
    for layer, hidden in states.items():
        assert hidden.shape == (FRAMES * CODES, WIDTH)
        torch.testing.assert_close(hidden, by_hand[layer][0, 1:])
    # What a code's state is does not depend on what comes after it.
    frames = np.concatenate(list(read_frames(str(video), View(stride=2, size=SIDE))))
    short = model.features(frames[:2])
    for layer, hidden in short.items():
        assert hidden.shape == (2 * CODES, WIDTH)
        torch.testing.assert_close(hidden, states[layer][: 2 * CODES])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("0.5", [2]), ("0.0", [0]), ("1.0", [4]), ("0,4", [0, 4]), ("3", [3])],
)
def test_features_of_chosen_layers(model, video, layers, expected):
    states, every = model.features(video, layers), model.features(video)
    assert sorted(states) == expected
    for layer in expected:
        torch.testing.assert_close(states[layer], every[layer])


def test_an_image_is_read_as_one(folder, model, tmp_path):
    """Its sequence begins with the token of images, as in training."""
    (picture,) = make_images(tmp_path, 1, side=SIDE).iterdir()
    read = model.features(picture)[LAYERS]
    tokens = model.vocabulary.sequence(model.tokenize(picture).numpy(), "image", 1)[None, :-1]
    expected = model.model.hidden_states(torch.from_numpy(tokens), [LAYERS])[LAYERS][0, 1:]
    torch.testing.assert_close(read, expected)
    frame = model.tokenizer.encode(torch.from_numpy(next(read_frames(str(picture), model.view))))
    assert torch.equal(model.tokenize(picture), frame)
    assert not torch.equal(
        read, model.features(next(read_frames(str(picture), model.view)))[LAYERS]
    )


def test_a_model_of_images_alone_continues_no_video(folder, video, tmp_path):
    shutil.copytree(folder / "run" / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["toto"]["kinds"] = ["image"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="trained on images alone"):
        toto.load(tmp_path / "model", "cpu").predict(video)


@pytest.mark.parametrize("layers", ["5", "-1", "1.5", "0,9", "first", ""])
def test_layers_that_are_not_there(model, video, layers):
    with pytest.raises(UserError, match="layers"):
        model.features(video, layers)


def test_predict(model, video):
    calls = []
    future = model.predict(video, frames=3, on_frame=lambda: calls.append(1))
    assert future.shape == (3, 3, SIDE, SIDE) and future.dtype == np.uint8
    assert len(calls) == 3
    assert np.array_equal(future, model.predict(video, frames=3))
    drawn = [model.predict(video, 3, sampling=Sampling(seed=seed)) for seed in range(4)]
    assert np.array_equal(drawn[0], future)
    assert any(not np.array_equal(drawn[0], other) for other in drawn[1:])
    # A longer future begins like a shorter one.
    assert np.array_equal(model.predict(video, frames=2), future[:2])


def test_predict_greedily_is_the_most_likely_code_each_time(model, video):
    seen = model.tokenize(video)[:2]
    tokens = torch.tensor([[1, *(int(code) + 4 for code in seen.reshape(-1))]])
    for _ in range(2 * CODES):
        logits = model.model(tokens)[0, -1]
        best = 4 + int(logits[4 : 4 + 30].argmax())  # 30 codes
        tokens = torch.cat((tokens, torch.tensor([[best]])), dim=1)
    codes = (tokens[0, 1 + 2 * CODES :] - 4).reshape(2, 2, 2)
    expected = model.tokenizer.decode(codes).numpy()
    got = model.predict(video, frames=2, prompt=2, sampling=Sampling(temperature=0.0))
    assert np.array_equal(got, expected)


def test_predict_reads_the_prompt_alone(model):
    frames = pictures(8, SIDE, seed=5)
    default = model.predict(frames, frames=2)
    assert np.array_equal(default, model.predict(frames[: FRAMES // 2], frames=2))
    assert np.array_equal(default, model.predict(frames, frames=2, prompt=FRAMES // 2))


def test_predict_beyond_the_context(model, video):
    future = model.predict(video, frames=3 * FRAMES, prompt=4)
    assert future.shape == (3 * FRAMES, 3, SIDE, SIDE)
    assert np.array_equal(future[:2], model.predict(video, frames=2, prompt=4))
    longer_than_it_reads = model.predict(pictures(9, SIDE, seed=6), frames=2, prompt=9)
    assert longer_than_it_reads.shape == (2, 3, SIDE, SIDE)


def test_mistakes(folder, model, video, tmp_path):
    for name in ("frames", "prompt"):
        with pytest.raises(UserError, match="at least 1"):
            model.predict(video, **{name: 0})
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "text.mp4", tmp_path / "nowhere.mp4", tmp_path):
        with pytest.raises(MediaError):
            model.tokenize(path)
    for frames in (pictures(1, 2 * SIDE, seed=0), pictures(1, SIDE, seed=0)[:0]):
        with pytest.raises(UserError, match=r"this model reads uint8 \(1 or more, 3, 8, 8\)"):
            model.tokenize(frames)
    for path in (tmp_path, tmp_path / "nowhere", folder / "tokenizer", folder / "tokens"):
        with pytest.raises(UserError, match="saved"):
            toto.load(path)
    with pytest.raises(UserError, match="'gpu9'"):
        toto.load(folder / "run", "gpu9")


# Importing transformers fails; what is loaded is saved again and read once more.
ALONE = """
import sys
sys.modules["transformers"] = None
from pathlib import Path
import numpy, toto
from toto.models.saved import load_model, save_model

model = toto.load("moved", "cpu")
frames = numpy.load("frames.npy")
numpy.savez("made.npz", future=model.predict(frames, frames=2), layer=model.features(frames)[4])
save_model(model.model, load_model(Path("moved"))[1], Path("moved/tokenizer"), Path("again"))
again = toto.load("again", "cpu").features(frames)[4]
assert numpy.array_equal(again, numpy.load("made.npz")["layer"])
"""


def test_the_folder_alone_is_enough_and_no_transformers(folder, model, tmp_path):
    shutil.copytree(folder / "run" / "model", tmp_path / "moved")
    frames = pictures(4, SIDE, seed=9)
    np.save(tmp_path / "frames.npy", frames)
    child = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    made = np.load(tmp_path / "made.npz")
    assert np.array_equal(made["future"], model.predict(frames, frames=2))
    np.testing.assert_allclose(made["layer"], model.features(frames)[4], atol=1e-5, rtol=1e-5)


def test_a_swapped_tokenizer_is_refused(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    inside = tmp_path / "run" / "model" / "tokenizer"
    shutil.rmtree(inside)
    with pytest.raises(UserError, match="not a tokenizer"):
        toto.load(tmp_path / "run")
    shutil.copytree(folder / "other", inside)
    _, details = load_model(tmp_path / "run" / "model")
    with pytest.raises(UserError, match=details["tokenizer"]):
        toto.load(tmp_path / "run")


def another(config: dict, name: str, value: object) -> None:
    config["toto"]["vocabulary"][name] = value


MISFITS = {
    "no word of videos": (lambda c: c.pop("toto"), "toto adopt"),
    "no frames": (lambda c: c["toto"].pop("frames"), "damaged: KeyError.'frames'"),
    "no vocabulary": (lambda c: c["toto"].pop("vocabulary"), "damaged: KeyError.'vocabulary'"),
    "frames in words": (lambda c: c["toto"].update(frames="few"), "damaged: Type"),
    "clips of no frames": (lambda c: c["toto"].update(frames=0), "frames 0: at least 1"),
    "a finer grid": (lambda c: another(c, "grid", [4, 4]), r"grid \[4, 4\], .* \[2, 2\]"),
    "larger pictures": (lambda c: c["toto"]["view"].update(size=16), r"grid \[2, 2\], .* \[4, 4\]"),
    "more codes": (lambda c: another(c, "codebook_size", 64), "codebook_size 64, .* 30"),
    "codes from 0 on": (lambda c: another(c, "offset", 0), "offset 0, .* 4"),
}


@pytest.mark.parametrize("misfit", MISFITS, ids=str)
def test_a_vocabulary_or_grid_that_does_not_fit_is_refused(folder, tmp_path, misfit):
    shutil.copytree(folder / "run" / "model", tmp_path / "model")
    change, words = MISFITS[misfit]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    change(config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words) as caught:
        toto.load(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_table_that_is_too_small_is_refused(folder, model, tmp_path):
    _, details = load_model(folder / "run" / "model")
    small = Llama(model.model.size, 33)  # 30 codes after 4 other ids
    save_model(small, details, folder / "tokenizer", tmp_path / "model")
    with pytest.raises(UserError, match=r"33 rows .* take 34"):
        toto.load(tmp_path / "model")
