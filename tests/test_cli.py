import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.commands import ENVIRONMENT, TOTO, begin, made, stop_when, toto
from tests.tiny import make_images, make_videos, save_tokenizer
from toto import cli
from toto.config import from_dict
from toto.media.sources import read_sources
from toto.media.video import read_clip
from toto.media.view import View
from toto.tokenizers.base import load_tokenizer
from toto.tokenizers.dvae import DVAE
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.loader import Sequences
from toto.tokens.mixture import Manifest

# 24 videos of 4 kept frames of 32 px: 4x4 codes of 32.
TOKENIZER = (
    "--steps 3 --size 32 --width 8 --codebook-size 32 --pool 64 --init-frames 40 --batch 4 "
    "--micro-batch 2 --validation-frames 8"
).split()
MODEL = (
    "--width 16 --layers 2 --mlp-width 32 --frames 4 --curriculum 0.5 2 --batch 4 --micro-batch 2"
).split()
SPLITS = ("train", "val", "test")
VIDEO = "world/videos/000002.mp4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The whole way, each command in its process; every one says where its work is, and no more."""
    folder = tmp_path_factory.mktemp("cli")
    world = [f"world/{split}.csv" for split in SPLITS]
    for result, *command in (
        ("world", *"world make actions world --count 24 --size 32 --frames 13 --workers 1".split()),
        (
            "tok/tokenizer",
            *"tokenizer train demo --source world/train.csv --run tok".split(),
            *TOKENIZER,
        ),
        ("tokens", "tokenize", *world, *"--tokenizer tok/tokenizer --out tokens --size 32".split()),
        ("run/model", *"pretrain demo --data tokens --run run --steps 3".split(), *MODEL),
    ):
        assert made(folder, *command) == [result]
    return folder


@pytest.fixture(scope="module")
def mistakes(folder):
    """Beside what is right, folders and files to be wrong about."""
    (folder / "empty").mkdir()
    (folder / "alien").mkdir()
    (folder / "alien" / "dataset.json").write_text("{}")
    for i, odd in enumerate(('{"recipe": []}', '{"toto": {}}', '{"fingerprint": 3}', "{}")):
        (folder / f"odd{i}").mkdir()
        (folder / f"odd{i}" / "config.json").write_text(odd)
    for name, row in (("noted", "[1]"), ("worded", '{"step": 1, "loss": "low"}')):
        shutil.copytree(folder / "run", folder / name)
        (folder / name / "metrics.jsonl").write_text(f"{row}\n")
    (folder / "text.txt").write_text("no video\n")
    make_videos(folder / "flat", [13, 13, 13, 13, 13], side=32)
    save_tokenizer(folder / "other", seed=1)
    shutil.copytree(folder / "tokens", folder / "unfinished")
    (folder / "unfinished" / "index.parquet").unlink()
    items = read_sources([str(folder / "flat")])
    for out, tokenizer in (("unlabelled", "tok/tokenizer"), ("foreign", "other")):
        how = Ingest(View(4, 32))
        ingest(items, folder / tokenizer, folder / out, how, "toto tokenize", workers=0)
    shutil.copytree(folder / "run", folder / "swapped")
    shutil.rmtree(folder / "swapped" / "model" / "tokenizer")
    shutil.copytree(folder / "other", folder / "swapped" / "model" / "tokenizer")
    assert made(folder, *"features run tokens --out begun --layers 0".split()) == ["begun"]
    return folder


def rows_of_world(folder: Path) -> list[tuple[str, str, str]]:
    """Key, label and split of each video, read from the CSV files by hand."""
    names = (folder / "world" / "classes.txt").read_text().split("\n")
    rows = []
    for split in SPLITS:
        for line in (folder / "world" / f"{split}.csv").read_text().splitlines():
            path, label = line.split(" ")
            rows.append((path, names[int(label)], split))
    return rows


def test_what_the_chain_made(folder):
    rows = rows_of_world(folder)
    assert len(rows) == 24
    index = pq.read_table(folder / "tokens" / "index.parquet").to_pylist()
    assert [(row["key"], row["label"], row["split"]) for row in index] == rows
    assert [row["frames"] for row in index] == [4] * 24
    codes = np.load(folder / "tokens" / "shards" / "00000.npy")
    assert codes.shape == (96, 4, 4) and codes.max() < 32
    config = json.loads((folder / "run" / "model" / "config.json").read_text())
    assert config["hidden_size"] == 16 and config["toto"]["frames"] == 4
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    assert metrics[-1]["step"] == 3
    # Every step's tokens: 4 sequences of 4 frames of 16 codes, whole or cut.
    assert max(row.get("tokens", 0) for row in metrics) == 3 * 4 * 4 * 16


def test_tokenizer_eval(folder, warm):
    *said, out = warm.made(
        folder, *"tokenizer eval tok/tokenizer --source world --size 32 --out judged".split()
    )
    assert out == "judged" and said[0] == "96 frames of 32 px, on cpu"
    (result,) = json.loads((folder / "judged" / "tokenizers.json").read_text())["tokenizers"]
    # The same 96 frames as the data set's, so the same codes.
    codes = np.load(folder / "tokens" / "shards" / "00000.npy")
    assert result["used"] == len(np.unique(codes)) and result["codebook_size"] == 32
    assert (folder / "judged" / "reconstructions.png").stat().st_size > 0
    assert (
        warm.made(folder, *"tokenizer eval tok/tokenizer --source world --size 32".split())[:1]
        == said[:1]
    )


def test_study_tokens(folder, warm):
    *said, out = warm.made(folder, *"study tokens tokens --out statistics".split())
    codes = np.load(folder / "tokens" / "shards" / "00000.npy")
    assert out == "statistics" and said[0] == "tokens: 32 codes, 4x4 of them a frame"
    assert said[2].split()[1:3] == [f"{codes.size:,}", str(len(np.unique(codes)))]
    assert "1-grams" in (folder / "statistics" / "tokens.svg").read_text()
    # The same from the tokenizer and the media.
    more = ["--source", "world", "--size", "32", "--out", "of-media"]
    *its, _ = warm.made(folder, "study", "tokens", "tok/tokenizer", *more)
    assert its[0] == "of-media/datasets/tok-tokenizer: 32 codes, 4x4 of them a frame"
    assert its[1:] == said[1:]


def test_inspect(folder, warm):
    said = "\n".join(warm.made(folder, "inspect", "tokens"))
    assert "24 (24 videos)" in said and "96 kept, one in 4" in said and "4x4" in said
    codes = np.load(folder / "tokens" / "shards" / "00000.npy")
    assert f"{len(np.unique(codes))} of 32 codes used" in said
    labels = [label for _, label, _ in rows_of_world(folder)]
    for name in set(labels):
        assert f"{name} {labels.count(name)}" in said
    deep = "\n".join(warm.made(folder, "inspect", "tokens", "--deep"))
    assert "everything as recorded" in deep

    for path, words in (
        ("run", "pretrain run, step 3 of 3"),
        ("run/model", "width 16, 2 layers, 2 heads"),
        ("tok", "dvae run, step 3 of 3"),
        ("tok/tokenizer", "tokenizer dvae"),
        (VIDEO, "video, 32x32, 13 frames, 30 frames/s"),
    ):
        assert words in "\n".join(warm.made(folder, "inspect", path))


def test_inspect_shows_what_training_reads(folder, warm):
    """The names are those of the loader, the pictures the tokenizer's of their codes."""
    said = warm.made(folder, *"inspect run --sequences 3 --sheet sheet.png".split())
    config = json.loads((folder / "run" / "config.json").read_text())
    manifest = from_dict(Manifest, config["manifests"]["train"], "config.json")
    read = Sequences(manifest)
    for index in range(3):
        ((item, first),) = read.describe(index)
        line = said[said.index(f"sequence {index}") + 1]
        assert line == f"  video {item.key}, kept frames {first} to {first + 3}"
    sheet = np.asarray(Image.open(folder / "sheet.png")).astype(int)
    assert sheet.shape == (3 * 34 + 2, 4 * 34 + 2, 3)
    visual = load_tokenizer(folder / "tok" / "tokenizer")
    frames = visual.decode(torch.from_numpy(read.codes(1).astype(np.int64))).numpy()
    assert np.array_equal(sheet[36:68, 70:102], frames[2].transpose(1, 2, 0))

    warm.made(folder, *"inspect tokens --sheet contact.png".split())
    assert np.asarray(Image.open(folder / "contact.png")).shape == (3 * 34 + 2, 10 * 34 + 2, 3)


def test_online_trains_like_stored(folder, warm):
    """Scanned, the same videos give the same first validation loss; a rerun continues."""
    world = [f"world/{split}.csv" for split in SPLITS]
    scan = "--tokenizer tok/tokenizer --out scan --size 32 --online".split()
    assert warm.made(folder, "tokenize", *world, *scan) == ["scan"]
    said = "\n".join(warm.made(folder, *"inspect scan --sequences 1 --sheet online.png".split()))
    assert "no codes are stored" in said and "24 (24 videos)" in said
    command = [*"pretrain demo --data scan --run online --workers 1".split(), *MODEL]
    assert warm.made(folder, *command, "--steps", "3") == ["online/model"]
    rows = [json.loads(line) for line in (folder / "online" / "metrics.jsonl").open()]
    assert sum("validation_loss" in row for row in rows) == 1
    assert rows[-1]["step"] == 3


def test_manifest(folder, warm):
    lines = ["video_id,category_1,category_2,rank,task_id", "000002,Hobbies,Toys,1,7"]
    (folder / "HowTo100M_v1.csv").write_text("\n".join([*lines, "none,Hobbies,Toys,1,7", ""]))
    where = "--videos world/videos --out howto.parquet"
    command = f"manifest howto100m HowTo100M_v1.csv {where}".split()
    done = warm.toto(folder, *command)
    assert done.returncode == 0 and done.stdout == "howto.parquet\n"
    assert "1 videos; 1 more are listed" in done.stderr
    (item,) = read_sources([str(folder / "howto.parquet")])
    assert item.location.path == str(folder / VIDEO) and item.label == "Hobbies"


def test_inspect_deep_finds_a_changed_byte(folder, warm):
    changed = folder / "changed"
    shutil.copytree(folder / "tokens", changed)
    shard = changed / "shards" / "00000.npy"
    data = bytearray(shard.read_bytes())
    data[-2] ^= 1  # the last code's low byte: still a code of the 32
    shard.write_bytes(data)
    warm.made(folder, "inspect", "changed")
    refused = warm.toto(folder, "inspect", "changed", "--deep")
    assert refused.returncode == 2 and "changed/shards/00000.npy" in refused.stderr


def test_generate_mp4(folder, warm):
    out = "new/folder/future.mp4"
    assert warm.made(
        folder, "generate", "run", "--prompt", VIDEO, "--out", out, "--frames", "3"
    ) == [out]
    with av.open(str(folder / out)) as container:
        assert container.streams.video[0].average_rate == pytest.approx(30 / 4)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    # By default half of the model's four frames are read.
    assert np.shape(frames) == (2 + 3, 32, 32, 3)
    tokenizer = DVAE.load(folder / "tok" / "tokenizer")
    seen = read_clip(str(folder / VIDEO), 0, 2, View(4, 32))
    through = tokenizer.decode(tokenizer.encode(torch.from_numpy(seen))).numpy()
    shown = np.stack(frames[:2]).transpose(0, 3, 1, 2).astype(int)
    # H.264 changes what is almost noise, but less than the untrained tokenizer does.
    assert abs(shown - through).mean() < 8 < abs(shown - seen).mean()


def test_generate_keeps_the_rate_that_the_model_reads_at(folder, warm):
    """Of a model of every fourth of 12 frames a second, whatever the file's own rate."""
    shutil.copytree(folder / "run" / "model", folder / "paced")
    path = folder / "paced" / "config.json"
    config = json.loads(path.read_text())
    config["toto"]["view"]["rate"] = 12.0
    path.write_text(json.dumps(config))
    warm.made(folder, "generate", "paced", "--prompt", VIDEO, "--out", "paced.mp4")
    with av.open(str(folder / "paced.mp4")) as container:
        assert container.streams.video[0].average_rate == pytest.approx(12 / 4)


def test_generate_gif(folder, warm):
    arguments = "--frames 6 --prompt-frames 3 --temperature 0.5 --top-k 5 --top-p 0.9".split()
    for out in ("a.gif", "b.gif"):
        warm.made(folder, "generate", "run/model", "--prompt", VIDEO, "--out", out, *arguments)
    assert (folder / "a.gif").read_bytes() == (folder / "b.gif").read_bytes()
    with Image.open(folder / "a.gif") as image:
        assert image.size == (32, 32)
        times = []
        for frame in range(image.n_frames):
            image.seek(frame)
            times.append(image.info["duration"])
    # A frame like the one before makes that one longer. 30/4 frames/s in steps of 10 ms.
    assert sum(times) == (3 + 6) * 130


def test_features(folder, warm):
    rows = rows_of_world(folder)
    found = {}
    for pool in ("none", "mean", "last"):
        out = f"features-{pool}"
        assert warm.made(folder, "features", "run", "tokens", "--out", out, "--pool", pool) == [out]
        found[pool] = load_file(folder / out / "00000.safetensors")
        table = pq.read_table(folder / out / "items.parquet").to_pylist()
        assert [(row["key"], row["label"], row["split"]) for row in table] == rows
        assert {row["first_frame"] for row in table} == {0}
    names = {"layer_0", "layer_1", "layer_2"}
    assert all(set(states) == names for states in found.values())
    for name in names:
        assert found["none"][name].shape == (24, 4 * 16, 16)
        np.testing.assert_allclose(
            found["mean"][name], found["none"][name].mean(1), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(found["last"][name], found["none"][name][:, -1])


def test_plan_of_a_data_set(folder, warm):
    """3 steps of 4 sequences from 16 training videos, of 4 frames of 16 codes each."""
    command = "plan demo --gpu rtx4090 --data tokens --steps 3".split()
    said = warm.made(folder, *command, *MODEL, "--curriculum")
    assert any("768 tokens: 3 steps, batch 4, 64 codes a sequence" in line for line in said)
    videos = [split for _, _, split in rows_of_world(folder)].count("train")
    (row,) = [line.split() for line in said if line.split()[0] == "tokens" and "%" in line]
    assert row == ["tokens", "100.0%", "768", f"{64 * videos / 1000:.2f}k", f"{12 / videos:.3g}"]


def test_features_of_media(folder, warm):
    """Media are tokenized as the model's own data were."""
    warm.made(folder, *"features run world/test.csv --out media --layers 0,2 --workers 1".split())
    warm.made(folder, *"features run tokens --out tokens-02 --layers 0,2".split())
    ours = load_file(folder / "media" / "00000.safetensors")
    all_of_them = load_file(folder / "tokens-02" / "00000.safetensors")
    assert set(ours) == {"layer_0", "layer_2"}
    test = [i for i, (_, _, split) in enumerate(rows_of_world(folder)) if split == "test"]
    for name, states in ours.items():
        np.testing.assert_allclose(states, all_of_them[name][test], rtol=1e-2, atol=1e-3)
    assert (folder / "media" / "tokens" / "index.parquet").exists()


def test_probe_actions(folder, warm):
    *table, path = warm.made(folder, *"probe actions run tokens --out probe --epochs 1".split())
    assert path == "probe"
    result = json.loads((folder / "probe" / "result.json").read_text())
    splits = [split for _, _, split in rows_of_world(folder)]
    kept, chosen_by, test = result["clips"]
    assert kept + chosen_by == splits.count("train") and test == splits.count("test")
    assert result["classes"] == sorted({label for _, label, _ in rows_of_world(folder)})
    assert len(result["test_accuracy"]) == 3
    for layer, accuracy in enumerate(result["test_accuracy"]):
        assert f"layer {layer:2d}  {accuracy:6.1%}" in "\n".join(table)


def test_probe_images(folder, warm):
    """Of a folder of pictures in folders of their classes, tokenized on the way."""
    for split, count in (("train", 12), ("val", 3)):
        for seed, name in enumerate(("cat", "dog")):
            make_images(folder / "pictures" / split / name, count, 32, seed)
    command = (
        "probe images run pictures --out probed --epochs 1 --probes mean attention --workers 1"
    )
    *table, path = warm.made(folder, *command.split())
    assert path == "probed"
    result = json.loads((folder / "probed" / "result.json").read_text())
    assert result["classes"] == ["cat", "dog"]
    assert sum(result["clips"][:2]) == 24 and result["clips"][2] == 6
    assert set(result["curves"]) == {"mean", "attention"}
    assert "Table 7" in "\n".join(table)


def test_finetune_actions(folder, warm):
    command = "finetune actions run tokens --recipe demo --epochs 1 --batch 4 --micro-batch 2"
    *table, path = warm.made(folder, *command.split(), "--out", "tuned", "--attention", "full")
    assert path == "tuned" and "it fine-tunes on no videos" in "\n".join(table)
    result = json.loads((folder / "tuned" / "result.json").read_text())
    splits = [split for _, _, split in rows_of_world(folder)]
    trained, watched, test = result["clips"]
    assert trained + watched == splits.count("train") and test == splits.count("test")
    assert f"full      {result['accuracy']:6.1%}" in "\n".join(table)
    # What it has made is there, and no LLaMA that anything would take for a causal one.
    refused = warm.toto(folder, *f"generate tuned --prompt {VIDEO} --out new.mp4".split())
    assert refused.returncode == 2 and "not that of a saved model" in refused.stderr
    assert (folder / "tuned" / "head.safetensors").exists()


def test_finetune_images(folder, warm):
    """The trunk that causal fine-tuning leaves behind is a saved model again."""
    for split, count in (("train", 12), ("val", 3)):
        for seed, name in enumerate(("cat", "dog")):
            make_images(folder / "photos" / split / name, count, 32, seed)
    command = "finetune images run photos --recipe=demo --epochs 1 --batch 4 --micro-batch 4"
    *table, path = warm.made(folder, *command.split(), "--out", "tuned-images", "--workers", "1")
    assert path == "tuned-images" and "Table 13" in "\n".join(table)
    assert json.loads((folder / path / "result.json").read_text())["clips"][2] == 6
    warm.made(folder, *"features tuned-images photos --out again --workers 1".split())


MISTAKES = {
    # command line: words of the one line that answers it
    "nonsense": ["nonsense", "world make"],
    "pretrian demo": ["did you mean 'pretrain'?"],
    "world": ["world make"],
    "world render": ["world render", "world make"],
    "world make": ["LAYOUT", "OUT"],
    "world make action new": ["'action'", "did you mean 'actions'?"],
    "world make actions new --count 0": ["count 0", "at least 1"],
    "world make actions new --size big": ["--size", "'big'"],
    "world make actions world --count 24 --size 64": ["world", "size 32", "64"],
    "world make actions empty/../text.txt": ["text.txt"],
    "tokenizer train dmo --run new": ["'dmo'", "did you mean 'demo'?"],
    "tokenizer train demo --source world": ["--run"],
    "tokenizer train demo --run no-source": ["source"],
    "tokenizer train demo --run not-there --source nowhere": ["nowhere"],
    "tokenizer train demo --run new --source world --size 33": ["size 33", "8"],
    "tokenizer train demo --run new --source world --batch 5 --micro-batch 2": ["batch 5", "2"],
    "tokenizer train demo --run tok --source world --steps 4": ["tok", "loop.steps 3, not 4"],
    "tokenize nowhere --tokenizer tok/tokenizer --out new": ["nowhere"],
    "tokenize empty --tokenizer tok/tokenizer --out new": ["empty"],
    "tokenize world/train.csv --tokenizer empty --out new": ["empty", "not a tokenizer"],
    "tokenize world/train.csv --tokenizer tokens --out new": ["its own is tokens/tokenizer"],
    "tokenize world/train.csv --tokenizer run --out new": ["its own is run/model/tokenizer"],
    "tokenize world/train.csv --tokenizer run/model --out new": ["its own is run/model/tokenizer"],
    "tokenize world/train.csv --tokenizer tok --out new": ["tok is no", "its own is tok/tokenizer"],
    "tokenize world/train.csv --tokenizer tok/tokenizer --out new --size 33": ["33", "8"],
    "tokenize world/train.csv --tokenizer tok/tokenizer --out new --stride 0": ["stride 0"],
    "tokenize world/train.csv --tokenizer tok/tokenizer --out text.txt": ["text.txt"],
    "tokenize world --tokenizer tok/tokenizer --out world/new": ["world/new", "in the source"],
    "tokenize world --tokenizer tok/tokenizer --out new --seconds 0": ["seconds 0", "more than 0"],
    "tokenize world --tokenizer tok/tokenizer --out new --online --crops 2": ["crops 2"],
    "tokenize world --tokenizer tok/tokenizer --out new --online --compiled": ["compiled"],
    "tokenize world/train.csv --tokenizer tok/tokenizer --out world --size 32": ["world"],
    "tokenize world/test.csv --tokenizer tok/tokenizer --out tokens --size 32": ["tokens"],
    "tokenizer train demo --run narrow --source world --width 2": ["width 2", "4"],
    "tokenizer patches --out tok/tokenizer": ["tok/tokenizer", "holds something already"],
    "tokenizer eval --source world": ["no tokenizer"],
    "tokenizer eval tok/tokenizer": ["--source"],
    "tokenizer eval tok/tokenizer --source nowhere": ["nowhere"],
    "tokenizer eval empty --source world": ["empty", "not a tokenizer"],
    "tokenizer eval tok/tokenizer --source world --size 33": ["33x33", "8"],
    "tokenizer eval tok/tokenizer --source world --frames 0": ["frames 0", "at least 1"],
    "study tokens --out new": ["no token data set"],
    "study tokens tokens --source world --size 32 --out new": ["its own is tokens/tokenizer"],
    "study tokens run --out new": ["run", "not a token data set"],
    "study tokens unfinished --out new": ["unfinished", "toto tokenize", "again"],
    "inspect nowhere": ["nowhere"],
    "inspect empty": ["empty"],
    "inspect text.txt": ["text.txt"],
    "inspect tokens --sheet sheet.doc": ["sheet.doc", ".png"],
    "inspect tokens --sequences -1": ["sequences -1"],
    "inspect alien": ["alien", "not a token data set"],
    "inspect begun": ["begun"],
    "pretrain demo --run new --data nowhere": ["nowhere", "not a token data set"],
    "pretrain demo --run new --data run": ["run", "not a token data set"],
    "pretrain demo --run new --data unfinished": ["unfinished", "toto tokenize", "again"],
    "pretrain demo --run new": ["no token data set"],
    "pretrain demo --data tokens": ["--run"],
    "pretrain demo --run new --setps 3": ["--setps", "--steps"],
    "pretrain demo --run new --steps three": ["--steps", "'three'"],
    "pretrain demo --run new --steps 0": ["steps 0", "at least 1"],
    "pretrain demo --run new --precision fp8": ["--precision", "fp32"],
    "pretrain demo --run new --batch 5 --micro-batch 2": ["batch 5", "micro_batch 2"],
    "pretrain demo --run new --width 15 --heads 2": ["width 15", "2 heads"],
    "pretrain demo --run new --data tokens tokens --weights 1": ["1 weights", "2 data sets"],
    "pretrain demo --run new --data tokens foreign": ["tokens", "foreign", "cannot be mixed"],
    "pretrain demo --run run --data tokens --steps 4": ["run", "steps", "3"],
    "pretrain demo --run tok --data tokens": ["tok", "another kind: dvae"],
    "plan lrage --gpu h100": ["'lrage'", "did you mean 'large'?"],
    "plan large": ["--gpu"],
    "plan large --gpu h20": ["unknown GPU 'h20'", "did you mean 'h200'?"],
    "plan large --gpu h100 --gpus 0": ["gpus 0", "at least 1"],
    "plan large --gpu h100 --gpus 3": ["batch 256", "3 GPUs", "2 or 4"],
    "plan large --gpu h100 --gpus 32": ["batch 256", "micro_batch 16 x 32 GPUs", "micro_batch 8"],
    "plan large --gpu h100 --data nowhere": ["nowhere", "not a token data set"],
    "plan large --gpu h100 --weights 1": ["1 weights", "0 data sets"],
    "plan large --gpu h100 --precision fp32": ["precision fp32", "bf16"],
    "pretrain --resume": ["RUN"],
    "pretrain --resume nowhere": ["nowhere", "not a run"],
    "pretrain --resume tokens": ["tokens", "not a run"],
    "pretrain --resume run --steps 9": ["--steps"],
    f"generate nowhere --prompt {VIDEO} --out new.mp4": ["nowhere", "not a saved model"],
    f"generate tok --prompt {VIDEO} --out new.mp4": ["tok is a run with no model"],
    f"generate tokens --prompt {VIDEO} --out new.mp4": ["tokens", "not a saved model"],
    f"generate swapped --prompt {VIDEO} --out new.mp4": ["swapped", "tokenizer"],
    f"generate run --prompt {VIDEO} --out new.avi": ["new.avi", ".mp4 or .gif"],
    f"generate run --prompt {VIDEO} --out new.mp4 --frames 0": ["frames 0"],
    f"generate run --prompt {VIDEO} --out new.mp4 --prompt-frames 0": ["prompt_frames 0"],
    f"generate run --prompt {VIDEO} --out new.mp4 --top-p 2": ["top_p 2"],
    f"generate run --prompt {VIDEO} --out new.mp4 --device gpu": ["device 'gpu'"],
    "generate run --prompt nowhere.mp4 --out new.mp4": ["nowhere.mp4"],
    "generate run --prompt text.txt --out new.mp4": ["text.txt"],
    "generate run --prompt world --out new.mp4": ["world", "a folder"],
    "features run nowhere --out new": ["nowhere"],
    "features run tokens --out new --pool max": ["'max'", "mean"],
    "features run tokens --out new --layers 3": ["'3'", "0 to 2"],
    "features run tokens --out begun --layers 1": ["begun", "choose another folder"],
    "features run foreign --out new": ["foreign", "tokenizer"],
    "features run unfinished --out new": ["unfinished", "again"],
    "probe": ["probe actions", "probe images"],
    "probe images run tokens --out no-images": ["tokens", "too few labelled images"],
    "probe actions run unlabelled --out new-probe": ["unlabelled", "label"],
    "probe actions run foreign --out new": ["foreign", "tokenizer"],
    "probe actions tokens tokens --out new": ["tokens", "not a saved model"],
    "probe actions run tokens --out new --crops 4": ["crops, scale, flip and test_crops"],
    "probe actions run tokens --out new --test-clips 0": ["test_clips 0"],
    "finetune": ["finetune images", "finetune actions"],
    "finetune actions run tokens --out new --recipe demmo": ["'demmo'", "did you mean 'demo'?"],
    "finetune actions run tokens": ["--out"],
    "finetune actions run tokens --out new --batch 6 --micro-batch 4": ["batch 6", "micro_batch 4"],
    "finetune actions run tokens --out new --drop-path 1": ["drop_path 1.0"],
    "finetune actions run foreign --out new": ["foreign", "tokenizer"],
    "finetune actions nowhere tokens --out new": ["nowhere", "not a saved model"],
    "finetune images dinov2:nowhere tokens --out new": ["dinov2:nowhere", "cannot be fine-tuned"],
    "finetune images run tokens --out no-photos": ["tokens", "too few labelled images"],
    "finetune actions run unlabelled --out new-tuned": ["unlabelled", "label"],
    "probe actions run tokens --out new --trunk-update all": ["--trunk-update", "next_token"],
    **{f"inspect odd{i}": [f"odd{i}", "is not"] for i in range(4)},
    "inspect noted": ["noted/metrics.jsonl", "damaged", "line 1"],
    "inspect worded": ["worded/metrics.jsonl", "damaged", "line 1"],
    "demo --count many": ["--count", "'many'"],
    "demo --futures -1": ["futures -1", "at least 0"],
    "demo --prompt 16": ["prompt 16", "from 1 to 15"],
    "demo --videos nowhere --out new-demo": ["nowhere"],
    "demo --out text.txt": ["text.txt"],
    "tokenize world/train.csv --tokenizer tok/tokenizer --out zero-batch --size 32 --batch 0": [
        "batch 0"
    ],
    "tokenize world/val.csv --tokenizer tok/tokenizer --out zero --size 32 --shard-items 0": [
        "shard_items 0"
    ],
    "world make actions zero-workers --count 2 --workers -1": ["workers -1"],
    "pretrain demo --data tokens --run zero --batch 0": ["batch 0"],
    "pretrain demo --data tokens --run zero --micro-batch 0": ["micro_batch 0"],
    "pretrain demo --data tokens --run zero-validation --steps 1 --validation-sequences 0": [
        "validation_sequences 0"
    ],
    "pretrain --resume run/model": ["no run"],
    "probe actions run tokens --out zero-probe --batch 0": ["batch 0"],
    "probe actions run tokens --out no-rates --learning-rates": ["learning_rates 0"],
    "probe actions run tokens --out no-epochs --epochs 0": ["epochs 0"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_one_line(mistakes, warm, line):
    done = warm.toto(mistakes, *line.split())
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("toto: ") and not done.stdout
    for words in MISTAKES[line]:
        assert words in done.stderr, done.stderr


def test_a_mistake_does_not_spoil_the_next_try(mistakes):
    """What a refused command left behind must not be in the way of the right one."""
    wrong = ["pretrain", "demo", "--run", "second", "--steps", "1", *MODEL]
    assert toto(mistakes, *wrong).returncode == 2
    assert made(mistakes, *wrong, "--data", "tokens") == ["second/model"]


def test_a_missing_source_does_not_spoil_the_next_try(mistakes):
    wrong = ["tokenizer", "train", "demo", "--run", "second-tok", *TOKENIZER]
    assert toto(mistakes, *wrong).returncode == 2
    assert made(mistakes, *wrong, "--source", "world/train.csv") == ["second-tok/tokenizer"]


def test_parsing_needs_nothing_heavy(tmp_path):
    code = "import toto.cli, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=None)
    loaded = {name.split(".")[0] for name in modules.stdout.split()}
    assert "tyro" in loaded
    assert not loaded & {"torch", "av", "pyarrow", "matplotlib", "PIL", "tensorboard"}

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    made(tmp_path, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_signals_stop_a_run_that_then_continues(folder):
    run = folder / "stopped"
    steps = "--steps 300 --log-every 1 --validate-every 300 --checkpoint-every 300".split()

    def rows() -> list[str]:
        path = run / "metrics.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    first = begin(folder, *"pretrain demo --data tokens --run stopped".split(), *steps, *MODEL)
    said = stop_when(first, lambda: len(rows()) > 2, signal.SIGINT)
    assert first.returncode == 130 and "Traceback" not in said
    before = rows()
    assert 2 < len(before) < 250

    second = begin(folder, "pretrain", "--resume", "stopped")
    said = stop_when(second, lambda: len(rows()) > len(before) + 2, signal.SIGTERM)
    assert second.returncode == 143 and "Traceback" not in said
    between = rows()
    assert len(before) < len(between) < 300 and between[: len(before)] == before

    assert made(folder, "pretrain", "--resume", "stopped") == ["stopped/model"]
    assert rows()[: len(between)] == between
    trained = [json.loads(row)["step"] for row in rows() if "tokens" in json.loads(row)]
    assert trained == list(range(1, 301))
    assert (run / "model" / "model.safetensors").exists()


def test_ctrl_c_outside_training(tmp_path):
    """The whole process group gets it from a terminal, and only the command speaks."""
    making = begin(tmp_path, *"world make actions world --count 3000 --workers 1".split())
    videos = tmp_path / "world" / "videos"
    said = stop_when(making, lambda: videos.exists() and any(videos.iterdir()), signal.SIGINT)
    assert making.returncode == 130
    assert "Traceback" not in said and "toto: interrupted" in said


def test_a_reader_may_leave_early(tmp_path):
    command = f"{TOTO} plan base --gpus 8 --gpu h100 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    first, status = done.stdout.splitlines()
    assert "parameters" in first and status in ("0", "141")  # 0: all was written before it left
    assert not done.stderr

    # A pipe that nobody reads at all.
    read, write = os.pipe()
    os.close(read)
    left = subprocess.run([TOTO, "--help"], env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert left.returncode == 128 + signal.SIGPIPE and not left.stderr


def test_an_unexpected_error_keeps_its_traceback(folder, tmp_path):
    """A bug, or a file of ours that something has damaged, is no mistake of the command line."""
    broken = tmp_path / "toto"
    shutil.copytree(Path(cli.__file__).parents[1], broken)
    (broken / "studies" / "inspect.py").write_text(
        "def describe(path, deep):\n    return 1 / 0\nsequences_at = describe\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    code = "import sys; from toto.cli import main; sys.argv[1:] = ['inspect', 'tokens']; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
