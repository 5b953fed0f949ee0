import json
import math
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.common import random_dataset
from tests.tiny import make_images, save_tokenizer
from toto.errors import UserError
from toto.media.sources import read_sources
from toto.media.view import View
from toto.studies import tokens
from toto.studies.ngrams import Tally, counted
from toto.studies.tokens import study_tokens
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest
from toto.tokens.store import TokenDataset


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 40) | st.integers(0, 2**48 - 1), max_size=30), max_size=12),
    st.integers(1, 50),
)
def test_keys_are_counted_whatever_fits_into_memory(tmp_path_factory, parts, at_once):
    scratch = tmp_path_factory.mktemp("runs")
    pieces = [*counted((np.array(part, np.int64) for part in parts), scratch, at_once)]
    keys = [key for found, _ in pieces for key in found.tolist()]
    counts = [count for _, found in pieces for count in found.tolist()]
    assert dict(zip(keys, counts, strict=True)) == Counter(chain.from_iterable(parts))
    assert keys == sorted(set(keys))
    # Merging holds one block of each run.
    assert all(len(found) <= max(at_once, len(parts) * 30) for found, _ in pieces)


@given(st.lists(st.integers(1, 9) | st.integers(1, 10**6), min_size=1, max_size=60))
def test_a_spectrum_says_what_the_counts_say(counts):
    half = len(counts) // 2
    found = Tally().add(np.array(counts[:half], int)).add(np.array(counts[half:])).spectrum
    ranked = sorted(counts, reverse=True)
    total = sum(counts)
    assert (found.total, found.distinct, found.once) == (total, len(counts), counts.count(1))
    assert found.at_ranks(np.arange(1, len(counts) + 1)).tolist() == ranked
    assert found.entropy == pytest.approx(entropy(Counter(dict(enumerate(counts)))), abs=1e-9)
    for percent in (1, 50, 90, 99, 100):
        enough = [n for n in range(len(ranked) + 1) if 100 * sum(ranked[:n]) >= percent * total]
        assert found.covering(percent) == enough[0]


def entropy(counts: Counter) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def by_hand(dataset: TokenDataset) -> dict[str, Counter]:
    """What there is of each kind, item by item, frame by frame."""
    found: dict[str, Counter] = {name: Counter() for name in ("1", "2", "3", "frames")}
    for item in dataset.items(np.arange(len(dataset))):
        before = None
        for frame in dataset.codes(item).reshape(item.frames, -1).tolist():
            for n in (1, 2, 3):
                found[str(n)].update(tuple(frame[i : i + n]) for i in range(len(frame) - n + 1))
            if before is not None:
                found["frames"].update(zip(before, frame, strict=True))
            before = frame
    return found


@pytest.mark.parametrize("at_once", [3, 10**6])
def test_figures_are_those_of_a_count_by_hand(tmp_path, monkeypatch, at_once):
    """Videos and images, two crops of each, read and merged in small pieces or at once."""
    random_dataset(tmp_path / "data", 4, [9, 1, 15, 7], 3, 6, images=3, crops=2, shard_items=3)
    monkeypatch.setattr(tokens, "_AT_ONCE", at_once)
    monkeypatch.setattr(tokens, "counted", partial(counted, at_once=at_once))
    (result,) = study_tokens([tmp_path / "data"], tmp_path / "out")
    (said,) = json.loads((tmp_path / "out" / "tokens.json").read_text())["datasets"]
    expected = by_hand(TokenDataset(tmp_path / "data"))
    for name, counts in expected.items():
        kind = "previous frame" if name == "frames" else f"{name}-grams"
        ranked = sorted(counts.values(), reverse=True)
        found = result.frame_pairs if name == "frames" else result.ngrams[int(name)]
        assert found.spectrum.at_ranks(np.arange(1, len(ranked) + 1)).tolist() == ranked
        before, last = Counter(), Counter()
        for codes, n in counts.items():
            before[codes[:-1]] += n
            last[codes[-1]] += n
        figures = {
            "total": sum(ranked),
            "distinct": len(ranked),
            "once": ranked.count(1),
            "entropy": pytest.approx(entropy(counts)),
            "last": pytest.approx(entropy(last)),
            "given": pytest.approx(entropy(counts) - entropy(before)),
        }
        assert {key: said[kind][key] for key in figures} == figures
    assert (tmp_path / "out" / "tokens.svg").read_text().count("2-grams") >= 1
    assert not (tmp_path / "out" / ".runs").exists()


def test_video_that_stands_still_is_known_from_the_frame_before(tmp_path):
    random_dataset(tmp_path / "data", 1, 50, 8, 16)
    path = tmp_path / "data" / "shards" / "00000.npy"
    codes = np.load(path)
    np.save(path, np.broadcast_to(codes[:1], codes.shape))
    (found,) = study_tokens([tmp_path / "data"], tmp_path / "out")
    assert found.frame_pairs.given == pytest.approx(0, abs=1e-9)
    assert found.frame_pairs.last > 3
    assert "a code given the same place of the frame before: 0.00 bits" in found.text()


def test_what_was_counted_is_not_counted_again(tmp_path):
    for name, codes in (("one", 20), ("two", 300)):
        random_dataset(tmp_path / name, 3, 5, 4, codes, tokenizer=name)
    whole = study_tokens([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    first = study_tokens([tmp_path / "one"], tmp_path / "parts")
    (tmp_path / "one" / "shards" / "00000.npy").unlink()
    both = study_tokens([tmp_path / "one", tmp_path / "two"], tmp_path / "parts")
    assert both == whole and first == whole[:1]
    for name in ("tokens.json", "tokens.svg"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "two" / "shards" / "00000.npy").unlink()
    with pytest.raises(UserError, match="is missing"):
        study_tokens([tmp_path / "two"], tmp_path / "elsewhere")


def test_images_have_no_frame_before(tmp_path):
    random_dataset(tmp_path / "data", 0, 1, 2, 5, images=4)
    (found,) = study_tokens([tmp_path / "data"], tmp_path / "out")
    assert found.frame_pairs.spectrum.total == 0
    assert "frame before" not in found.text()


def test_what_cannot_be_studied(tmp_path):
    with pytest.raises(UserError, match="no token data set: name one or more"):
        study_tokens([], tmp_path / "out")
    save_tokenizer(tmp_path / "tokenizer")
    items = read_sources([str(make_images(tmp_path / "images", 3))])
    how = Ingest(View(size=8), online=True)
    ingest(items, tmp_path / "tokenizer", tmp_path / "data", how, "toto tokenize", workers=0)
    with pytest.raises(UserError, match="stores no codes"):
        study_tokens([tmp_path / "data"], tmp_path / "out")


_PEAK = """
import sys
from pathlib import Path
from toto.studies.tokens import study_tokens

def peak():
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024

before = peak()
(found,) = study_tokens([Path(sys.argv[1])], Path(sys.argv[2]))
print(peak() - before, found.ngrams[3].spectrum.total, found.ngrams[3].spectrum.distinct)
"""


@pytest.mark.slow
def test_fifty_million_codes_take_the_memory_of_two(tmp_path):
    """Random 3-grams of 8,192 codes: hardly two are the same, so nothing is won by counting."""
    random_dataset(tmp_path / "data", 100, 1954, 16, 8192)
    script = [sys.executable, "-c", _PEAK, str(tmp_path / "data"), str(tmp_path / "out")]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    mebibytes, total, distinct = map(float, done.stdout.split())
    assert total == 100 * 1954 * 254
    # Balls into bins: n - n^2 / 2 m of them are different.
    assert distinct == pytest.approx(total - total**2 / 2 / 8192**3, rel=1e-5)
    assert mebibytes < 400
