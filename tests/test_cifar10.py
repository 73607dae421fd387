"""The data sets: archives whole, altered, cut off or half downloaded; a folder's files; two configurations."""

import hashlib
import io
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from ddpm_nb import _weights, cifar10
from ddpm_nb.cifar10 import (
    CLASSES,
    FOLDER,
    RECORD,
    RECORDS,
    cifar10_config,
    digits_config,
    load_cifar10,
    load_digits,
)
from ddpm_nb.forward import Schedule, q_sample
from ddpm_nb.training import load_network
from ddpm_nb.unet import UNet

NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Six files in the official layout. Picture i has class i % 10, red i, green 2 i, blue 3 i (modulo 256)."""
    i = np.arange(RECORDS)
    planes = [np.repeat((k * i % 256)[:, None], 1024, axis=1) for k in (1, 2, 3)]
    records = np.concatenate([(i % 10)[:, None], *planes], axis=1).astype(np.uint8)
    content = records.tobytes()
    return dict.fromkeys(NAMES, content)


@pytest.fixture(scope="module")
def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def official(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test, our small archive is the official one."""
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(cifar10, "SIZE", len(archive), raising=False)


class Server(ThreadingHTTPServer):
    """Serves the archive; can break off, ignore ranges, or send something else."""

    content = b""
    breaks_at: int | None = None
    knows_ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str | None] = []


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        first = (
            int(wanted.removeprefix("bytes=").removesuffix("-"))
            if self.server.knows_ranges
            else 0
        )
        body = self.server.content[first:]
        if self.server.knows_ranges and first >= len(self.server.content):
            self.send_error(416)
            return
        self.send_response(206 if self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_at])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(
    archive: bytes, official: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    with Server() as server:
        server.content = archive
        monkeypatch.setattr(
            cifar10,
            "URL",
            f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz",
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_archive_is_verified_and_read(
    archive: bytes, official: None, tmp_path: Path
) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive)
    train = load_cifar10(tmp_path)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.shape == (50_000,)
    assert train.images[10_003, :, 31, 0].tolist() == [3, 6, 9]
    assert int(train.labels[10_003]) == 3
    assert "verified" in train.source
    test = load_cifar10(tmp_path, train=False)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert [p.name for p in tmp_path.glob("[!.]*")] == [
        "cifar-10-binary.tar.gz"
    ]  # nothing was unpacked


@pytest.mark.parametrize("kind", ["cut off", "altered", "empty"])
def test_an_archive_that_is_not_the_official_one_is_never_opened(
    kind: str,
    archive: bytes,
    official: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    altered = bytearray(archive)
    altered[len(altered) // 2] ^= 1
    content = {"cut off": archive[:-100], "altered": bytes(altered), "empty": b""}[kind]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="expected the official archive with SHA-256"):
        load_cifar10(tmp_path)


def test_a_folder_s_files_are_read_and_said_to_be_unverified(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / FOLDER).mkdir()
    for name, content in files.items():
        (tmp_path / FOLDER / name).write_bytes(content)
    data = load_cifar10(tmp_path, download=False)
    assert data.images[7, :, 0, 0].tolist() == [7, 14, 21]
    assert "unverified" in data.source
    (tmp_path / FOLDER / "test_batch.bin").write_bytes(files["test_batch.bin"][:-1])
    with pytest.raises(
        ValueError, match=r"30,730,000 bytes in test_batch\.bin, got 30,729,999"
    ):
        load_cifar10(tmp_path, train=False)
    wrong = bytearray(files["test_batch.bin"])
    wrong[RECORD * 5] = 77
    (tmp_path / FOLDER / "test_batch.bin").write_bytes(wrong)
    with pytest.raises(
        ValueError, match=r"labels 0 \.\.\. 9 in test_batch\.bin, got 77"
    ):
        load_cifar10(tmp_path, train=False)
    (tmp_path / FOLDER / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"got none of the name data_batch_3\.bin"):
        load_cifar10(tmp_path)


def test_nothing_there_and_no_download(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="got neither; download=True"):
        load_cifar10(tmp_path, download=False)
    assert not list(tmp_path.glob("[!.]*"))


def test_download_in_one_go(server: Server, tmp_path: Path) -> None:
    assert len(load_cifar10(tmp_path / "new", train=False).images) == 10_000
    assert [p.name for p in (tmp_path / "new").glob("[!.]*")] == [
        "cifar-10-binary.tar.gz"
    ]
    load_cifar10(tmp_path / "new", train=False)
    assert len(server.asked) == 1  # the second time it was there


def test_of_several_processes_one_downloads(server: Server, tmp_path: Path) -> None:
    """Each claims the folder by itself, as processes do; the others find the archive when their turn comes."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(load_cifar10(tmp_path, False)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert server.asked == ["bytes=0-"]
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(
    knows_ranges: bool, server: Server, archive: bytes, tmp_path: Path
) -> None:
    server.breaks_at = 1000
    with pytest.raises(ConnectionError, match="call again to go on"):
        load_cifar10(tmp_path)
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["cifar-10-binary.tar.gz.part"]
    assert (tmp_path / "cifar-10-binary.tar.gz.part").read_bytes() == archive[:1000]
    server.breaks_at, server.knows_ranges = None, knows_ranges
    assert len(load_cifar10(tmp_path, train=False).images) == 10_000
    assert server.asked == ["bytes=0-", "bytes=1000-"]
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["cifar-10-binary.tar.gz"]


def test_a_part_that_is_already_whole_is_used(
    server: Server, archive: bytes, tmp_path: Path
) -> None:
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(archive)
    assert len(load_cifar10(tmp_path, train=False).images) == 10_000


def test_a_download_of_something_else_leaves_nothing(
    server: Server, tmp_path: Path
) -> None:
    server.content = b"<html>not here</html>"
    with pytest.raises(ConnectionError, match="21 bytes, where"):
        load_cifar10(tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_no_network(
    official: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz"
    )  # nobody listens there
    with pytest.raises(ConnectionError, match="by hand"):
        load_cifar10(tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_digits_are_those_of_scikit_learn() -> None:
    train, test = load_digits(), load_digits(train=False)
    assert train.images.shape == (1347, 1, 8, 8)
    assert test.images.shape == (450, 1, 8, 8)
    assert train.images.min() == -1
    assert train.images.max() == 1
    assert len(train.images.unique()) == 17
    both = train.labels.bincount() + test.labels.bincount()
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert all(torch.equal(a.labels.unique(), torch.arange(10)) for a in (train, test))
    # Every digit of scikit-learn is in one part or the other, as often as it is there.
    from sklearn.datasets import load_digits as all_digits

    images = torch.cat([train.images, test.images]).flatten(1) * 8 + 8
    expected = torch.tensor(all_digits().data, dtype=torch.float32)
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, expected.tolist()))


def test_digits_without_scikit_learn_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digits()


def test_the_paper_s_configuration() -> None:
    config = cifar10_config()
    with torch.device("meta"):
        network = config.network(3)
    assert sum(w.numel() for w in network.parameters()) == 35_746_307
    assert (config.batch_size, config.learning_rate, config.warmup_steps) == (
        128,
        2e-4,
        5000,
    )
    assert (config.steps, config.ema_decay, config.flip, config.max_grad_norm) == (
        800_000,
        0.9999,
        True,
        1.0,
    )
    schedule = config.noise_schedule()
    assert float(schedule.alpha_bar[-1]) == pytest.approx(
        4.0358297653756754e-05, rel=1e-10
    )
    assert len(CLASSES) == 10


def test_the_digits_configuration_is_the_book_s_digits_network() -> None:
    from ddpm_nb.unet import UNet

    """But for the labels: a folder of pictures has none."""
    ours = digits_config().network(1).state_dict()
    theirs = UNet.digits().state_dict()
    assert theirs.pop("label.weight").shape == (11, 64)
    assert {name: w.shape for name, w in ours.items()} == {
        name: w.shape for name, w in theirs.items()
    }
    assert digits_config().noise_schedule().T == 500


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files in which picture i of file k is black, but for one red spot at row i % 32, column k."""
    folder = tmp_path_factory.mktemp("spots") / FOLDER
    folder.mkdir()
    i = np.arange(RECORDS)
    for k, name in enumerate(NAMES):
        records = np.zeros((RECORDS, RECORD), np.uint8)
        records[:, 0] = i % 10
        records[i, 1 + 32 * (i % 32) + k] = 255
        records.tofile(folder / name)
    return folder.parent


def test_rows_columns_and_files_are_in_their_places(spots: Path) -> None:
    data = load_cifar10(spots, download=False)
    for k in range(5):
        for i in (0, 7, 9_999):
            picture = data.images[RECORDS * k + i]
            assert picture.nonzero().tolist() == [[0, i % 32, k]]
            assert int(data.labels[RECORDS * k + i]) == i % 10
    assert data.source.endswith("unverified")
    test = load_cifar10(spots, train=False, download=False)
    assert test.images[7].nonzero().tolist() == [[0, 7, 5]]


def test_five_files_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for k, name in enumerate(NAMES):
            records = np.zeros((RECORDS, RECORD), np.uint8)
            records[:, 1] = k
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = records.size
            tar.addfile(member, io.BytesIO(records.tobytes()))
    content = buffer.getvalue()
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(content).hexdigest())
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    data = load_cifar10(tmp_path)
    assert data.images[::RECORDS, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.source == "official archive, SHA-256 verified"


@pytest.mark.usefixtures("official")
def test_the_download_says_how_far_it_is(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_cifar10(tmp_path)
    assert "CIFAR-10: 100%" in capsys.readouterr().err


def test_what_came_before_a_reset_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that waits for a whole megabyte would throw the first 5,000 bytes away."""

    class Line(io.RawIOBase):
        status, headers = 200, {"Content-Length": str(cifar10.SIZE)}
        sent = False

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:
            if self.sent:
                raise ConnectionResetError("reset by peer")
            self.sent, buffer[:5000] = True, bytes(5000)
            return 5000

    class Answer(io.BufferedReader):
        status, headers = Line.status, Line.headers

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Answer(Line()))
    with pytest.raises(ConnectionError, match="is kept"):
        load_cifar10(tmp_path)
    (part,) = tmp_path.glob("[!.]*")
    assert part.stat().st_size == 5000


def test_a_label_of_ten_is_impossible(spots: Path, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    content = bytearray((spots / FOLDER / "test_batch.bin").read_bytes())
    content[0] = 10
    (tmp_path / FOLDER / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match="got 10"):
        load_cifar10(tmp_path, train=False)


# As the loaders of two other libraries have it, one in Ruby and one in Go, each independent of this one.
ELSEWHERE = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
REAL = Path(__file__).resolve().parent.parent / "data/cifar-10-binary.tar.gz"


def test_other_loaders_expect_the_same_archive() -> None:
    assert cifar10.SHA256 == ELSEWHERE


@pytest.mark.skipif(not REAL.exists(), reason="the real archive is not in data/")
def test_the_real_archive_is_what_is_expected() -> None:
    """Its size, its fingerprint, and the names of the classes as it lists them itself."""
    assert REAL.stat().st_size == cifar10.SIZE
    assert len(load_cifar10(REAL.parent, train=False).images) == 10_000
    with tarfile.open(REAL) as tar:
        names = tar.extractfile(f"{FOLDER}/batches.meta.txt")
        assert names is not None
        assert tuple(names.read().decode().split()) == CLASSES


def test_digits_keep_their_labels_and_the_chapter_s_split() -> None:
    from sklearn import datasets, model_selection

    images, labels = datasets.load_digits(return_X_y=True)
    expected = model_selection.train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=0
    )
    for i, part in enumerate((load_digits(), load_digits(train=False))):
        assert (part.images.flatten(1) * 8 + 8).tolist() == expected[i].tolist()
        assert part.labels.tolist() == expected[2 + i].tolist()


# --- the small run that the chapter shows


@pytest.fixture(scope="module")
def small() -> tuple[UNet, Schedule, dict[str, str]]:
    return load_network(_weights.path("cifar10-small.safetensors"))


def test_the_small_run_is_one_run(
    small: tuple[UNet, Schedule, dict[str, str]],
) -> None:
    """Log, weights, bits and sheet tell of the same number of updates, on the same data."""
    _, schedule, notes = small
    text = _weights.path("cifar10-small-log.jsonl").read_text()
    log = [json.loads(line) for line in text.splitlines()]
    steps, minutes = [[line[key] for line in log] for key in ("step", "minutes")]
    assert steps[:-1] == list(range(50, steps[-1], 50))
    assert minutes == sorted(minutes)
    assert (notes["steps"], notes["minutes"]) == (f"{steps[-1]}", f"{minutes[-1]:.1f}")
    assert "JPEG" in notes["pictures"] and "H200" in notes["hardware"]
    loss = [line["loss"] for line in log]
    assert sum(loss[-20:]) / 20 < min(loss[:10])
    assert schedule.T == 1000

    bits = json.loads(_weights.path("cifar10-small-bits.json").read_text())
    low, high = bits["interval_95"]
    parts = bits["prior"] + bits["steps"] + bits["decoder"]
    assert low < bits["bits_per_dim"] < high and high - low < 0.1
    assert bits["bits_per_dim"] == pytest.approx(parts, abs=1e-6)
    assert bits["pictures"].startswith("10000 of CIFAR-10, test set")
    assert f"steps: {steps[-1]}" in bits["network"]

    how = json.loads(_weights.path("cifar10-small-sheet.json").read_text())
    assert (how["count"], how["steps"], how["method"]) == (64, 1000, "ddpm")
    assert f"steps: {steps[-1]}" in how["about"]


def test_the_small_network_knows_the_noise_in_its_own_samples(
    small: tuple[UNet, Schedule, dict[str, str]],
) -> None:
    """A weight that was lost or mixed up would show: the answer zero has the error 1."""
    network, schedule, _ = small
    with Image.open(_weights.path("cifar10-small-sheet.png")) as sheet:
        assert (sheet.size, sheet.mode) == ((256, 256), "RGB")
        levels = torch.tensor(np.asarray(sheet), dtype=torch.float32)
    pictures = rearrange(levels / 127.5 - 1, "(r h) (c w) n -> (r c) n h w", r=8, c=8)
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for t, most in ((50, 0.3), (200, 0.1), (600, 0.02)):
        times = torch.full((64,), t)
        with torch.no_grad():
            found = network(q_sample(pictures, times, noise, schedule), times)
        assert float((found - noise).square().mean()) < most
