import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from toto.studies.report.page import write_report
from toto.studies.report.records import (
    Continuation,
    Data,
    Losses,
    Report,
    Stage,
    TokenizerQuality,
)
from toto.studies.yardsticks import Yardsticks
from toto.tasks.results import Curve, ProbeResult

CODES, FRAMES, PROMPT = 64, 16, 6


def squares(frames: int, speed: float, size: int = 64, blur: int = 1) -> np.ndarray:
    """A square that crosses the picture, uint8 (frames, 3, size, size)."""
    y, x = np.mgrid[:size, :size] // blur * blur
    video = np.empty((frames, 3, size, size), np.uint8)
    for t in range(frames):
        inside = (abs(x - 12 - speed * t) < 8) & (abs(y - 20 - 8 * speed) < 8)
        ground = np.stack((60 + x, 90 + y, 160 - y))
        video[t] = np.where(inside, np.array([230, 70, 60])[:, None, None], ground)
    return video


def make_continuation(samples: int, prompt: int = PROMPT) -> Continuation:
    truth, coded = squares(FRAMES, 2.5), squares(FRAMES, 2.5, blur=4)
    futures = [
        np.concatenate([coded[:prompt], squares(FRAMES, 2.5 - i, blur=4)[prompt:]])
        for i in range(samples)
    ]
    return Continuation(truth, coded, futures, prompt, f"clip 12, {samples} futures")


def make_metrics(steps: int = 600) -> list[dict[str, float | int]]:
    rows: list[dict[str, float | int]] = []
    noise = np.random.default_rng(0).normal(0, 0.04, steps + 1)
    for step in range(10, steps + 1, 10):
        loss = 0.55 + 4.5 * np.exp(-step / 60) + (0.35 if step < 450 else 0) + noise[step]
        rows.append(
            {
                "step": step,
                "seconds": step * 0.3,
                "loss": float(loss),
                "model/learning_rate": 5e-3
                * min(step / 40, 0.5 + 0.5 * np.cos(np.pi * step / 620)),
                "frames": 3.0 if step < 450 else 16.0,
            }
        )
        if step % 300 == 0:
            rows.append(
                {"step": step, "seconds": step * 0.3, "validation_loss": float(loss) + 0.03}
            )
    return rows


def make_report() -> Report:
    rng = np.random.default_rng(1)
    row = np.linspace(-1, 1, CODES)
    first = 2.2 + 0.8 * np.exp(-((row / 0.5) ** 2))
    later = [0.45 + 0.3 * np.exp(-np.arange(CODES) / 3) for _ in range(FRAMES - 1)]
    positions = np.concatenate([first, *later]) + rng.normal(0, 0.08, CODES * FRAMES)
    frames = np.stack([squares(16, 1 + 0.4 * i)[i] for i in range(8)])
    coded = np.stack([squares(16, 1 + 0.4 * i, blur=4)[i] for i in range(8)])
    return Report(
        title="toto demo: 1,500 videos of a small world",
        created="2025-03-01T12:00:00",
        seed=7,
        config={"tokenizer": {"size": 64}, "pretrain": {"batch": 8, "note": "<b>&</b>"}},
        versions={"python": "3.11.2", "torch": "2.13.0", "platform": "Linux x86_64", "cores": 2},
        stages=[
            Stage("world", 41.0, 1500, "videos", 300_000_000, reused=True),
            Stage("tokenizer", 95.5, 57_600, "frames", 900_000_000),
            Stage("tokenize", 30.25, 60_000, "frames", 700_000_000),
            Stage("pretrain", 184.0, 2_300_000, "tokens", 1_300_000_000, note="600 steps"),
            Stage("probe", 62.0, 1500, "clips", 1_100_000_000),
            Stage("generate", 9.0, 40, "frames", 800_000_000),
        ],
        data=Data(1498, 1.25, 60_000, CODES, [("a/<b>.mp4", "no video stream"), ("c.mp4", "cut")]),
        tokenizer=TokenizerQuality(24.1, 15.2, 243, 256, 131.7, frames, coded),
        metrics=make_metrics(),
        whole_clip=Losses(0.584, Yardsticks(5.545, 3.912, 0.973)),
        later_frames=Losses(0.471, Yardsticks(5.545, 3.905, 0.802)),
        position_losses=positions.astype(np.float32),
        continuations=[make_continuation(2), make_continuation(1)],
        probe=ProbeResult(
            classes=["slide", "spin", "rotate", "contain", "pick and place", "no action"],
            clips=[960, 240, 300],
            views=1,
            unread={},
            held_out_accuracy=[0.31, 0.38, 0.44, 0.49, 0.46, 0.41],
            test_accuracy=[0.30, 0.40, 0.43, 0.47, 0.48, 0.39],
            probe="attention",
            best_layer=3,
            accuracy=0.47,
            interval=(0.41, 0.53),
            top5=0.98,
            mean_per_class=0.46,
            mean_per_class_interval=(0.4, 0.52),
            confusion=[[50] * 6] * 6,
            curves={},
            knn=Curve([], [], None, [], []),
            chance=0.17,
            pixels={"attention": 0.37, "linear": 0.58},
            paper=[],
        ),
    )


class Page(HTMLParser):
    """The text of a page, the addresses it refers to, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def images(self) -> list[Image.Image]:
        data = [a.split(",", 1)[1] for a in self.addresses if a.startswith("data:image/")]
        return [Image.open(io.BytesIO(base64.b64decode(d, validate=True))) for d in data]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    report, folder = make_report(), tmp_path_factory.mktemp("run") / "report"
    path = write_report(report, folder)
    return report, folder, path


@pytest.fixture(scope="module")
def page(written):
    return Page(written[2].read_text())


def verdicts(report, folder) -> str:
    text = Page(write_report(report, folder).read_text()).text
    return text[: text.index("media tokenizer")]


def test_the_page_refers_to_nothing_outside_itself(written, page):
    html = written[2].read_text()
    for address in page.addresses:
        assert address.startswith(("#", "data:image/")), address[:80]
        if address.startswith("#"):
            assert address[1:] in page.ids
    assert not {"link", "script", "iframe", "object", "embed"} & set(page.tags)
    urls = re.findall(r"url\(([^)]*)\)", html)
    assert urls and all(url.startswith("#") and url[1:] in page.ids for url in urls)
    assert "@import" not in html


def test_ids_in_the_charts_do_not_clash(page):
    clips = [i for i in page.ids if re.fullmatch("p[0-9a-f]{10}", i)]
    assert clips and len(clips) == len(set(clips))


def test_the_folder_holds_the_two_files_alone(written):
    _, folder, path = written
    assert path == folder / "report.html"
    assert {p.name for p in folder.iterdir()} == {"report.html", "summary.json"}


def test_pictures_decode_and_films_have_every_frame(written, page):
    report = written[0]
    films = [image for image in page.images if image.format == "GIF"]
    stills = [image for image in page.images if image.format == "PNG"]
    assert len(films) == len(report.continuations)
    assert len(stills) == len(report.tokenizer.frames) + len(report.continuations)
    for film, continuation in zip(films, report.continuations, strict=True):
        assert film.n_frames == FRAMES
        assert film.info["loop"] == 0
        assert film.width == (2 + len(continuation.samples)) * (128 + 6)
    for still in stills:
        still.load()


def test_films_keep_their_frames_when_nothing_moves(tmp_path):
    still = np.full((FRAMES, 3, 64, 64), 90, np.uint8)
    report = replace(make_report(), continuations=[Continuation(still, still, [still], 4, "still")])
    page = Page(write_report(report, tmp_path).read_text())
    (film,) = [image for image in page.images if image.format == "GIF"]
    assert film.n_frames == FRAMES


def test_what_the_model_made_has_another_edge(page):
    film = next(image for image in page.images if image.format == "GIF")
    truth, edges = [], []
    for t in range(FRAMES):
        film.seek(t)
        picture = np.asarray(film.convert("RGB")).astype(int)
        truth.append(picture[1, 60])
        edges.append(picture[1, 2 * 134 + 60])
    blue = [edge[2] > edge[0] + 60 for edge in edges]
    orange = [edge[0] > edge[2] + 60 for edge in edges]
    assert blue == [t < PROMPT for t in range(FRAMES)]
    assert orange == [t >= PROMPT for t in range(FRAMES)]
    assert all(np.ptp(edge) < 40 for edge in truth)


def test_pairs_hold_the_frame_and_its_reconstruction(written, page):
    pair = np.asarray(next(image for image in page.images if image.format == "PNG"))
    quality = written[0].tokenizer
    assert np.array_equal(pair[::2, :128:2].transpose(2, 0, 1), quality.frames[0])
    assert np.array_equal(pair[::2, 128::2].transpose(2, 0, 1), quality.reconstructions[0])


def test_the_summary_holds_the_numbers_of_the_report(written):
    report, folder, _ = written
    assert json.loads((folder / "summary.json").read_text()) == {
        "validation_loss": 0.584,
        "uniform_loss": 5.545,
        "unigram_loss": 3.912,
        "previous_frame_loss": 0.973,
        "later_frames": {
            "validation_loss": 0.471,
            "uniform_loss": 5.545,
            "unigram_loss": 3.905,
            "previous_frame_loss": 0.802,
        },
        "probe_accuracy": [0.30, 0.40, 0.43, 0.47, 0.48, 0.39],
        "chance_accuracy": 0.17,
        "pixel_accuracy": 0.37,
        "pixel_linear_accuracy": 0.58,
        "best_layer": 3,
        "best_layer_accuracy": 0.47,
        "seconds": {
            "world": 41.0,
            "tokenizer": 95.5,
            "tokenize": 30.25,
            "pretrain": 184.0,
            "probe": 62.0,
            "generate": 9.0,
        },
        "tokens_per_second": {"pretrain": 12500.0},
        "peak_memory_bytes": 1_300_000_000,
        "tokenizer": {
            "psnr": 24.1,
            "mean_colour_psnr": 15.2,
            "codes_used": 243,
            "codebook_size": 256,
            "perplexity": 131.7,
        },
        "versions": report.versions,
        "seed": 7,
        "failures": 2,
    }


def test_the_page_says_the_verdicts_in_words(page):
    assert "0.58 nats a code against 0.97 for the best yardstick, the previous frame" in page.text
    assert "0.47 nats a code against 0.80 for the best yardstick" in page.text
    assert (
        "Layer 3 of 5 reads the action in 47 % of test clips; chance 17 %, pixels 37 %" in page.text
    )
    assert "✗" not in page.text and "not below" not in page.text


def test_what_users_named_is_escaped(page):
    assert "b" not in page.tags[page.tags.index("details") : page.tags.index("details") + 12]
    assert "a/<b>.mp4" in page.text
    assert "<b>&</b>" in page.text


def test_without_probe_and_continuations(tmp_path):
    report = replace(make_report(), probe=None, continuations=[])
    path = write_report(report, tmp_path)
    page = Page(path.read_text())
    assert not {"future", "features"} & set(page.ids)
    assert not {"#future", "#features"} & set(page.addresses)
    assert not [image for image in page.images if image.format == "GIF"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    names = "probe_accuracy chance_accuracy pixel_accuracy best_layer best_layer_accuracy"
    assert [summary[name] for name in names.split()] == [None] * 5


def test_where_no_pixels_could_be_probed(tmp_path):
    """The videos have gone since they were tokenized."""
    report = make_report()
    report = replace(report, probe=replace(report.probe, pixels={}))
    assert "in 47 % of test clips; chance 17 % " in verdicts(report, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    features = page.text[page.text.index("Features With the model frozen") :]
    assert "pixels" not in features and "always the commonest class 17 %" in features
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["pixel_accuracy"] is None and summary["pixel_linear_accuracy"] is None


def test_a_loss_above_a_yardstick_is_said(tmp_path):
    above = Losses(1.2, Yardsticks(5.545, 3.912, 0.973))
    report = replace(make_report(), whole_clip=above)
    said = verdicts(report, tmp_path)
    assert "✗ Whole clip 1.20 nats a code against 0.97" in said
    assert "no better than counting" in said
    page = Page((tmp_path / "report.html").read_text())
    assert "The model's loss is not below the previous frame" in page.text


def test_close_losses_are_told_apart(tmp_path):
    close = Losses(0.9712, Yardsticks(5.545, 3.912, 0.9734))
    said = verdicts(replace(make_report(), whole_clip=close), tmp_path)
    assert "0.9712 nats a code against 0.9734" in said


@pytest.mark.parametrize(
    ("accuracy", "clips", "words"),
    [
        (0.36, 300, "no better than pixels"),
        (0.37, 300, "no better than pixels"),
        (0.47, 40, "too close to pixels to tell with 40 test clips"),
    ],
)
def test_features_that_say_no_more_than_pixels(tmp_path, accuracy, clips, words):
    report = make_report()
    probe = replace(report.probe, accuracy=accuracy, clips=[960, 240, clips])
    said = verdicts(replace(report, probe=probe), tmp_path)
    assert "✗ Features Layer 3 of 5" in said and words in said


def test_a_blind_tokenizer_is_said(tmp_path):
    report = make_report()
    report = replace(report, tokenizer=replace(report.tokenizer, psnr=15.2))
    text = Page(write_report(report, tmp_path).read_text()).text
    assert "the tokenizer has not learned to see" in text


def test_many_failures_are_counted_and_some_are_shown(tmp_path):
    report = make_report()
    failures = [(f"clip-{i:03d}.mp4", "cut") for i in range(50)]
    report = replace(report, data=replace(report.data, failures=failures))
    text = Page(write_report(report, tmp_path).read_text()).text
    assert "the first 20 of 50" in text
    assert "clip-019.mp4" in text and "clip-020.mp4" not in text
    assert json.loads((tmp_path / "summary.json").read_text())["failures"] == 50


def test_charts_take_the_colours_of_the_page(written):
    html = written[2].read_text()
    charts = html[html.index("<svg") :]
    assert charts.count("<svg") == 3
    colours = {c.lower() for c in re.findall(r"(?:fill|stroke): (#[0-9a-fA-F]{6})", charts)}
    assert not colours
    assert "Loss while training" in html and ">3 → 16 frames<" in charts
