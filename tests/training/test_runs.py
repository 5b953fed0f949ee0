import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.children import run_until_write, start
from tests.tiny import make_dataset, make_videos, save_tokenizer
from tests.training.toys import PRETRAIN, TRAIN_DVAE
from toto.errors import UserError
from toto.files import only_writer
from toto.media.sources import read_sources
from toto.media.view import View
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.training.config import Pretrain, TrainDVAE, TrainTokenizer
from toto.training.runs import pretrain, resume, train_tokenizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Pretrain:
    folder = tmp_path_factory.mktemp("data")
    visual = save_tokenizer(folder / "tokenizer")
    make_dataset(make_videos(folder / "videos", [9, 4, 6] * 4), visual, folder / "data")
    return replace(PRETRAIN, data=(folder / "data",))


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def test_a_run_is_rebuilt_from_its_config_alone(recipe, tmp_path):
    pretrain(recipe, tmp_path / "whole")
    killed = tmp_path / "killed"
    for moment in range(8, 100):
        assert run_until_write(moment, killed, pretrain, recipe, killed) != 0
        if (killed / "checkpoints/step-000005").exists():
            break
    assert not (killed / "model").exists()
    resume(Pretrain, killed)
    assert weights(killed) == weights(tmp_path / "whole")


def hold(folder: Path) -> None:
    import time

    with only_writer(folder):
        (folder / "ready").touch()
        time.sleep(60)


def test_a_second_process_on_the_same_run_is_refused(recipe, tmp_path):
    child = start(hold, tmp_path)
    while not (tmp_path / "ready").exists():
        assert child.is_alive()
    with pytest.raises(UserError, match="another process is writing"):
        pretrain(recipe, tmp_path)
    child.kill()
    child.join()
    assert not (tmp_path / "config.json").exists()


def test_other_settings_and_other_data_are_refused(recipe, tmp_path):
    pretrain(recipe, tmp_path)
    before = weights(tmp_path)
    with pytest.raises(UserError, match="batch 8, not 4"):
        pretrain(replace(recipe, batch=4), tmp_path)
    with pytest.raises(UserError, match="another kind"):
        train_tokenizer(replace(TRAIN_DVAE, source=(str(recipe.data[0]),)), tmp_path, 0)
    info = recipe.data[0] / "dataset.json"
    recorded = info.read_text()
    changed = json.loads(recorded)
    name = next(iter(changed["checksums"]))
    changed["checksums"][name] = "0" * 64
    info.write_text(json.dumps(changed))
    with pytest.raises(UserError, match=f"{recipe.data[0]} has changed under this run"):
        resume(Pretrain, tmp_path)
    info.write_text(recorded)
    resume(Pretrain, tmp_path)
    assert weights(tmp_path) == before
    with pytest.raises(UserError, match="is not a run"):
        resume(Pretrain, tmp_path / "nowhere")


def test_a_tokenizer_run_goes_on_after_a_kill(tmp_path):
    source = make_videos(tmp_path / "videos", [12] * 8, side=8)
    recipe: TrainDVAE = replace(
        TRAIN_DVAE, source=(str(source),), stride=1, pool=60, zoom=(1.0, 1.5), flip=True
    )
    train_tokenizer(recipe, tmp_path / "whole", 0)
    for moment in (3, 6, 9, 12, 15, 18):
        killed = tmp_path / str(moment)
        run_until_write(moment, killed, train_tokenizer, recipe, killed, 0)
        train_tokenizer(recipe, killed, 0)
        for name in ("config.json", "model.safetensors"):
            whole = (tmp_path / "whole/tokenizer" / name).read_bytes()
            assert (killed / "tokenizer" / name).read_bytes() == whole


def test_a_run_goes_on_as_the_machine_now_wants_it(recipe, tmp_path, capsys):
    pretrain(recipe, tmp_path / "whole")
    killed = tmp_path / "killed"
    assert run_until_write(12, killed, pretrain, recipe, killed) == -signal.SIGKILL
    loop = replace(recipe.loop, log_every=2, checkpoint_every=4, skip_bad_steps=1, recompute=1.0)
    pretrain(replace(recipe, micro_batch=2, loop=loop), killed)
    said = " ".join(capsys.readouterr().err.split())
    assert "goes on with" in said and "micro_batch 4, not 2" in said
    one, other = (
        load_file(run / "model/model.safetensors") for run in (tmp_path / "whole", killed)
    )
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=1e-3, atol=1e-5)
    recorded = json.loads((killed / "config.json").read_text())
    assert recorded["recipe"]["micro_batch"] == 2 and "manifests" in recorded
    resume(Pretrain, killed)
    with pytest.raises(UserError, match="precision fp32, not bf16"):
        pretrain(replace(recipe, loop=replace(loop, precision="bf16")), killed)


def test_micro_batches_are_part_of_a_tokenizers_training(tmp_path):
    source = make_videos(tmp_path / "videos", [12] * 8, side=8)
    recipe: TrainDVAE = replace(TRAIN_DVAE, source=(str(source),), stride=1, pool=60)
    train_tokenizer(recipe, tmp_path / "run", 0)
    with pytest.raises(UserError, match="micro_batch 4, not 2"):
        train_tokenizer(replace(recipe, micro_batch=2), tmp_path / "run", 0)


def test_training_on_codes_needs_few_packages():
    blocked = "PIL av yaml fsspec matplotlib torchmetrics jinja2 tensorboard tyro".split()
    program = f"""
import sys
sys.modules.update(dict.fromkeys({blocked}))
import toto, toto.training.runs, toto.training.objectives.next_patch
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tokenizer_run_goes_on_without_its_source(tmp_path):
    source = make_videos(tmp_path / "videos", [12] * 8, side=8)
    recipe: TrainDVAE = replace(TRAIN_DVAE, source=(str(source),), stride=1, pool=60)
    train_tokenizer(recipe, tmp_path / "whole", 0)
    killed = tmp_path / "killed"
    run_until_write(15, killed, train_tokenizer, recipe, killed, 0)
    assert (killed / "validation.npy").exists() and not (killed / "tokenizer").exists()
    shutil.rmtree(source)
    resume(TrainTokenizer, killed, 0)
    name = "tokenizer/model.safetensors"
    assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_with_muon_goes_on_after_a_kill(recipe, tmp_path):
    recipe = replace(recipe, muon=True)
    pretrain(recipe, tmp_path / "whole")
    for moment in (12, 16):
        killed = tmp_path / str(moment)
        assert run_until_write(moment, killed, pretrain, recipe, killed) == -signal.SIGKILL
        assert list((killed / "checkpoints").glob("step-*"))
        pretrain(recipe, killed)
        assert weights(killed) == weights(tmp_path / "whole")


def test_a_run_begins_with_the_weights_of_another(recipe, tmp_path):
    pretrain(recipe, tmp_path / "first")
    still = replace(recipe.optimizer, learning_rate=0.0)
    loop = replace(recipe.loop, steps=1)
    # More positions, and another base of the rotary embedding, as in the continuation at 256 px.
    longer = replace(recipe.model, rope_base=500.0)
    again = replace(recipe, optimizer=still, loop=loop, model=longer, frames=6, curriculum=())
    pretrain(replace(again, init_from=tmp_path / "first"), tmp_path / "second")
    assert weights(tmp_path / "second") == weights(tmp_path / "first")
    config = json.loads((tmp_path / "second/model/config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 500.0
    pretrain(again, tmp_path / "drawn")
    assert weights(tmp_path / "drawn") != weights(tmp_path / "first")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"width": 64}, "has width 32, this run 64"), ({"tied_head": False}, "has tied_head True")],
)
def test_weights_of_another_shape_are_refused(recipe, tmp_path, changes, said):
    pretrain(replace(recipe, loop=replace(recipe.loop, steps=1)), tmp_path / "first")
    other = replace(recipe, model=replace(recipe.model, **changes), init_from=tmp_path / "first")
    with pytest.raises(UserError, match=said):
        pretrain(other, tmp_path / "second")


def test_a_mistake_leaves_the_folder_free(recipe, tmp_path):
    with pytest.raises(UserError):
        pretrain(replace(recipe, init_from=tmp_path / "nowhere"), tmp_path / "run")
    pretrain(replace(recipe, loop=replace(recipe.loop, steps=1)), tmp_path / "run")
    with pytest.raises(UserError, match="a run of another kind: pretrain"):
        resume(TrainTokenizer, tmp_path / "run")


def test_data_sets_of_another_pace_are_named(recipe, tmp_path, capsys):
    (data,) = recipe.data
    visual = data / "tokenizer"
    make_videos(tmp_path / "videos", [9, 4, 6])
    items = read_sources([str(tmp_path / "videos")])
    ingest(items, visual, tmp_path / "slow", Ingest(View(stride=2, size=8)), "it", workers=0)
    mixed = replace(recipe, data=(data, tmp_path / "slow"), loop=replace(recipe.loop, steps=1))
    pretrain(mixed, tmp_path / "run")
    assert f"slow: stride 2, not 1 of {data}" in capsys.readouterr().err.replace("\n", "")


def test_codes_of_another_tokenizer_are_refused(recipe, tmp_path):
    pretrain(replace(recipe, loop=replace(recipe.loop, steps=1)), tmp_path / "first")
    visual = save_tokenizer(tmp_path / "tokenizer", seed=5)
    make_dataset(make_videos(tmp_path / "videos", [9, 4, 6]), visual, tmp_path / "data")
    other = replace(recipe, data=(tmp_path / "data",), init_from=tmp_path / "first")
    with pytest.raises(UserError, match=r"has tokenizer [0-9a-f]{16}, this run [0-9a-f]{16}"):
        pretrain(other, tmp_path / "second")


def test_a_profile_says_where_the_time_goes(recipe, tmp_path, capsys):
    longer = replace(recipe, loop=replace(recipe.loop, steps=14))
    pretrain(longer, tmp_path / "run", profile=True)
    said = capsys.readouterr().err
    parts, kernels = said.split("ms a step, by kernel on cpu")
    times = {
        name: float(line.split()[0])
        for line in parts.splitlines()
        for name in ("forward", "backward", "optimizer", "wait for data")
        if line.endswith(f"  {name}")
    }
    assert len(times) == 4
    assert all(time >= 0 for time in times.values())
    assert "aten::mm\n" in kernels
    events = json.loads((tmp_path / "run/profile.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "backward" for event in events) >= 5 * 2
    pretrain(longer, tmp_path / "plain")
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
