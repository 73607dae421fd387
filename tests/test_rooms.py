"""The rooms without a chapter: checks, pictures, files and layers."""

import errno
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import F64, generator
from PIL import Image
from torch import nn
from torch.testing import assert_close

from ddpm_nb import _checks, _data, _files, _layers, _runs
from ddpm_nb._devices import copied

# --- checks


@pytest.mark.parametrize(
    "rows",
    [
        [[0.5, 0.5], [0.5, 0.6]],
        [[0.5, 0.5], [0.5, 0.4]],
        [[0.5, 0.5], [1.5, -0.5]],
        [[1.5, -0.5], [0.5, 0.5]],
    ],
)
def test_every_row_of_probabilities_is_looked_at(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="probabilities: expected rows of numbers"):
        _checks.probabilities(torch.tensor(rows))


@pytest.mark.parametrize("which", ["forward", "reverse", "prior"])
def test_every_number_of_a_discrete_chain_is_looked_at(which: str) -> None:
    good = torch.full((2, 2), 0.5, dtype=F64)
    bad = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=F64)
    forward, reverse, prior = [good], [good], good[0]
    _checks.chain(forward, reverse, prior)
    parts: dict[str, Any] = {"forward": forward, "reverse": reverse, "prior": prior}
    parts[which] = bad[1] if which == "prior" else [bad]
    with pytest.raises(ValueError, match=f"{which}: expected positive rows"):
        _checks.chain(**parts)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_pictures_one_level_too_far_are_not_on_the_levels(value: float) -> None:
    fine = torch.tensor([[-1.0, 0.0, 1.0]])
    assert _checks.on_levels("x_0", fine, 3) is fine
    far = fine.clone()
    far[0, 1] = 2 * value  # on the grid, beyond its end
    with pytest.raises(ValueError, match="x_0: expected pictures on 3 levels"):
        _checks.on_levels("x_0", far, 3)


# --- pictures


@pytest.mark.parametrize(
    ("images", "levels"),
    [
        (torch.tensor([-1.0, 1.0]), 2),
        (torch.tensor([-1.0, 0.0, 1.0]), 3),
        (torch.linspace(-1, 1, 17), 17),
        (torch.linspace(-1, 1, 256), 256),
        (torch.linspace(-1, 1, 257), None),  # too many to be grey levels of a file
        (torch.tensor([-1.0, 0.2, 1.0]), None),  # not evenly spaced
        (torch.tensor([-1.0, -0.9, 0.9, 1.0]), None),
        (torch.zeros(3), None),
        (torch.zeros(3, dtype=torch.uint8), 256),
    ],
)
def test_grey_levels_are_named_where_they_are_plain(images: Any, levels: Any) -> None:
    assert _data.grey_levels(images) == levels


def test_pictures_that_cannot_be_halved_or_leave_the_range_are_refused() -> None:
    config = SimpleNamespace(batch_size=2, channel_mult=(1, 2, 4))
    for height, width in ((8, 6), (6, 8)):
        with pytest.raises(ValueError, match=f"multiples of 4, got {height} x {width}"):
            _data.training_set(torch.zeros(2, 1, height, width), config)
    for bad in (-1.5, 1.5, float("nan")):
        images = torch.zeros(3, 1, 8, 8)
        images[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match="in 1 pictures, the first is number 1"):
            _data.training_set(images, config)
    double = torch.ones(2, 1, 4, 8, dtype=F64)
    assert _data.training_set(double, config).dtype == torch.float32


def test_a_picture_of_one_pixel_can_be_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "red.png")
    (one,) = _data.load_folder(tmp_path, size=1)
    assert one.flatten().tolist() == [255, 0, 0]
    assert _data.load_folder(tmp_path).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        _data.load_folder(tmp_path, size=0)


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_pictures_of_more_than_eight_bits_are_told_of(
    tmp_path: Path, mode: str
) -> None:
    kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    deep = Image.fromarray(np.full((4, 4), 3, dtype=kind))
    assert deep.mode == mode
    deep.save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff"):
        _data.load_folder(tmp_path)


def test_folders_are_read_in_the_order_of_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("c", "a", "b")):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2), 10 * number).save(tmp_path / name / "x.png")
    walk = os.walk

    def other_way_round(*args: Any, **kwargs: Any) -> Any:
        for here, below, files in walk(*args, **kwargs):
            below.sort(reverse=True)
            yield here, below, files

    monkeypatch.setattr(os, "walk", other_way_round)
    images = _data.load_folder(tmp_path, size=2, channels=1)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 0]


# --- files


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    (target / "inside").write_text("kept")
    with pytest.raises(OSError, match=r"path: cannot write .*taken"):
        _files.write_whole(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(OSError, match="untouched") as error:
        _files.write_whole(tmp_path / "no" / "folder", b"new")
    assert error.value.errno == errno.ENOENT


def test_folders_above_are_made_and_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    _files.make_folder("--out", tmp_path / "a" / "b")
    _files.make_folder("--out", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="--out: cannot make"):
        _files.make_folder("--out", tmp_path / "file" / "b")


def test_a_claim_is_given_up_at_its_end(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    kept = _files.claimed(lock, "taken")
    kept.__enter__()
    with pytest.raises(ValueError, match="taken"), _files.claimed(lock, "taken"):
        pass
    kept.__exit__(None, None, None)
    waited = []

    def wait() -> None:
        with _files.claimed(lock):
            waited.append(1)

    other = threading.Thread(target=wait, daemon=True)
    other.start()
    other.join(20)
    assert waited == [1]


# --- layers


def test_a_norm_of_short_numbers_is_that_of_long_ones() -> None:
    x = torch.randn(2, 8, 4, 4, generator=generator()) + 30
    for kind in (torch.bfloat16, torch.float16):
        norm = _layers.Norm(8, 2)
        wanted = norm(x.to(kind).float()).to(kind)
        assert torch.equal(norm.to(kind)(x.to(kind)), wanted)


def test_dropout_of_nothing_draws_nothing() -> None:
    """Then a network without dropout takes no random numbers: the noise of a run does not depend on its depth."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = torch.randn(1, 3, 5, 5, generator=generator())
    layer = _layers.Dropout(0.0)
    assert layer(x) is x and torch.equal(torch.get_rng_state(), before)
    (_layers.Dropout(0.3))(x)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_tensor_without_four_axes_has_one_order_of_memory() -> None:
    assert _layers.order_of(torch.zeros(3, 4)) == torch.contiguous_format
    pictures = torch.zeros(2, 3, 4, 4)
    assert _layers.order_of(pictures) == torch.contiguous_format
    last = pictures.contiguous(memory_format=torch.channels_last)
    assert _layers.order_of(last) == torch.channels_last


# --- runs


def test_a_tracker_gets_pixels_between_0_and_1(tmp_path: Path) -> None:
    got: list[Any] = []
    tracker = SimpleNamespace(
        name="other",
        log_images=lambda images, step: got.append((images["samples"], step)),
    )
    silent = SimpleNamespace(name="silent")
    log = SimpleNamespace(
        folder=tmp_path, accelerator=SimpleNamespace(trackers=[silent, tracker])
    )
    images = torch.tensor([-1.0, 0.0, 1.0, 5.0]).view(1, 1, 2, 2)
    _runs.Log.sheet(log, 7, images)  # type: ignore[arg-type]
    ((pixels, step),) = got
    assert step == 7 and pixels.shape == (1, 2, 2, 1)
    assert pixels.flatten().tolist() == [0, 0.5, 1, 1]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["00000007.png"]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"])
def test_processes_that_share_weights_out_are_refused(kind: str) -> None:
    launched = SimpleNamespace(distributed_type=SimpleNamespace(value=kind))
    with pytest.raises(ValueError, match=f"hold all weights each, got {kind}"):
        _runs.check_launch(launched, "float32")
    launched.distributed_type.value = "MULTI_GPU"
    _runs.check_launch(launched, "float32")


def test_a_copied_state_is_waited_for_and_equal() -> None:
    layer = nn.Linear(2, 2)
    state = {"a": layer.state_dict(), "b": [torch.arange(3), (1, "x")], "c": None}
    then = copied(state, torch.device("cpu"))
    assert_close(then["a"]["weight"], layer.weight.detach())
    assert then["b"][0].tolist() == [0, 1, 2] and then["b"][1] == (1, "x")
    with torch.no_grad():
        layer.weight.fill_(7)
    assert not (then["a"]["weight"] == 7).any()
    assert json.dumps(then["c"]) == "null"
