# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CIFAR-10: the paper's run
#
# **The question.** All parts are there. What does it take to train the paper's network on real photographs, and what comes out?
#
# **What you bring.** [The network](unet.ipynb) and [the training](training.ipynb).
#
# **What you take away.** The data set, checked before it is used; the paper's configuration; its price on three GPUs; and one cell that trains. With a GPU it trains on CIFAR-10, for as long as you say. Without one it trains the digits briefly, so the chapter always runs.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""CIFAR-10 and the digits as tensors, and the two configurations that train on them."""

import hashlib
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_nb.training import TrainConfig

# %% [markdown]
# ## The data
#
# CIFAR-10 holds 60,000 colour photographs of 32×32 pixels in ten classes, 6,000 of each: 50,000 to train on and 10,000 to test with. The model is told no classes. They are kept here for those who want to measure something by class.
#
# The official archive comes in two forms. One is a pickle, Python's own format, which can hide a program. The other is plain bytes: for each picture one byte for its class, then 1,024 bytes of red, 1,024 of green and 1,024 of blue. This loader reads the plain one, and it is careful: a download that breaks off is taken up again, and the archive is opened only after its checksum (SHA-256, a fingerprint of 64 hexadecimal digits; nobody knows how to make another file with the same one) has been compared with the known one.

# %%
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# One byte for the class, then 32 x 32 pixels of red, of green, of blue.
RECORD = 3073
RECORDS = 10_000  # in each file


class Labelled(NamedTuple):
    """Pictures (N, C, H, W), their classes (N,) int64, and where they come from."""

    pictures: Tensor
    labels: Tensor
    source: str


def load_cifar10(
    root: Path | str = "data", train: bool = True, download: bool = True
) -> Labelled:
    """Return CIFAR-10's 50,000 training pictures, or its 10,000 test pictures.

    Looked for in `root`, in this order: the official binary archive, whose SHA-256 is
    checked before it is opened; a folder `cifar-10-batches-bin` with the files of that
    archive, whose sizes and labels are checked; else the archive is downloaded
    (170 MB). A download that breaks off goes on at the next call.

    Returns:
        uint8 pictures (N, 3, 32, 32), labels 0 ... 9 (their names are `CLASSES`), and
        a source that says whether the pictures were verified.

    Raises:
        FileNotFoundError: if nothing is there and `download` is off.
        ConnectionError: if the download fails; what has arrived is kept.
        ValueError: if the archive is not the official one, or a file of the folder is
            missing, has another size or impossible labels.
    """
    root = Path(root)
    names = (
        [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    )
    archive, folder = root / URL.rpartition("/")[2], root / FOLDER
    if not archive.exists() and not folder.is_dir():
        if not download:
            raise FileNotFoundError(
                f"root: expected {archive.name} or a folder {FOLDER} in {root}, got "
                "neither; download=True fetches the archive"
            )
        _download(archive)
    if archive.exists():
        _verify(archive)
        contents = _members(archive, names)
        source = "official archive, SHA-256 verified"
    else:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"root: expected {', '.join(names)} in {folder}, "
                f"got none of the name {missing[0]}"
            )
        contents = [(folder / name).read_bytes() for name in names]
        source = "a folder's files, sizes and labels checked, contents unverified"
    records = torch.cat([_records(*pair) for pair in zip(names, contents)])
    labels = records[:, 0].long()
    return Labelled(records[:, 1:].reshape(-1, 3, 32, 32), labels, source)


def _records(name: str, content: bytes) -> Tensor:
    """Return a file's records, (10000, 3073) uint8."""
    if len(content) != RECORDS * RECORD:
        raise ValueError(
            f"root: expected {RECORDS * RECORD:,} bytes in {name}, got {len(content):,}"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    records = records.reshape(RECORDS, RECORD)
    if int(records[:, 0].max()) >= len(CLASSES):
        raise ValueError(
            f"root: expected labels 0 ... 9 in {name}, got {int(records[:, 0].max())}"
        )
    return records


def _members(archive: Path, names: list[str]) -> list[bytes]:
    """Read files of the archive without unpacking it to the disk."""
    contents = []
    with tarfile.open(archive) as tar:
        for name in names:
            file = tar.extractfile(f"{FOLDER}/{name}")
            assert file is not None  # the checksum says that it is there
            contents.append(file.read())
    return contents


def _verify(archive: Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"root: expected the official archive with SHA-256 {SHA256}, got {archive} "
            f"with {found}; remove it, and it is fetched again"
        )


def _download(archive: Path) -> None:
    """Fetch the archive; go on where an earlier call stopped."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(archive.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(URL, headers={"Range": f"bytes={have}-"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if answer.status != 206:  # the server sends all from the start
                have = 0
            left = int(answer.headers.get("Content-Length", 0))
            bar = tqdm(
                total=have + left,
                initial=have,
                unit="B",
                unit_scale=True,
                desc="CIFAR-10",
            )
            with part.open("ab" if have else "wb") as file, bar:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    bar.update(len(chunk))
            arrived = part.stat().st_size - have
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part is whole, or wrong
            arrived = left = 0
        else:
            raise ConnectionError(
                f"download: expected {URL}, got {error}; put the archive into "
                f"{archive.parent} by hand"
            ) from error
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(
            f"download: expected {URL}, got {error}. What has arrived is kept: call "
            f"again to go on, or put the archive into {archive.parent} by hand"
        ) from error
    if arrived < left:
        raise ConnectionError(
            f"download: expected {left:,} more bytes of {URL}, got {arrived:,}. They are "
            "kept: call again to go on"
        )
    try:
        _verify(part)
    except ValueError:
        part.unlink()  # going on from wrong bytes would never end well
        raise
    part.replace(archive)


# %% [markdown]
# The digits of the earlier chapters, in the same form. They come with scikit-learn and need no download.

# %%
def load_digits(train: bool = True) -> Labelled:
    """Return scikit-learn's handwritten digits: 1,347 to train on, or 450 to test with.

    The split is that of the chapter on the algorithms; both parts have all digits.

    Returns:
        float32 pictures (N, 1, 8, 8) in [-1, 1], in 17 steps of grey, and their labels.
    """
    from sklearn import datasets, model_selection

    data = datasets.load_digits()
    parts = model_selection.train_test_split(
        data.images, data.target, test_size=0.25, stratify=data.target, random_state=0
    )
    images, labels = parts[0::2] if train else parts[1::2]
    pictures = torch.tensor(images / 8 - 1, dtype=torch.float32)[:, None]
    return Labelled(pictures, torch.tensor(labels), "scikit-learn")


# %% [markdown]
# ## The two configurations

# %%
def cifar10_config() -> TrainConfig:
    """Return the paper's network and recipe for CIFAR-10 (appendix B)."""
    return TrainConfig()


def digits_config() -> TrainConfig:
    """Return a small network and a short run for the 8x8 digits."""
    return TrainConfig(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention=(False, True),
        dropout=0.0,
        groups=8,
        schedule="cosine",
        T=500,
        batch_size=64,
        learning_rate=2e-3,
        warmup=100,
        flip=False,
        ema_decay=0.995,
        steps=2400,
    )

# %% [markdown]
# ## The price, on paper
#
# Before a run of days one wants to know how many. Count the arithmetic: how many multiplications and additions does one picture take on its way through the network? The gradient costs about twice as much again: by the chain rule each layer needs the gradient for its weights and the gradient for its input, and each is a product of the size of the forward one.

# %% tags=["active-ipynb"]
# from torch.utils.flop_counter import FlopCounterMode
#
# from ddpm_nb.unet import UNet
#
# with torch.device("meta"):  # shapes only: nothing is computed
#     network = UNet.cifar10()
#     picture, t = torch.zeros(1, 3, 32, 32), torch.ones(1, dtype=torch.int64)
# with FlopCounterMode(display=False) as forward:
#     answer = network(picture, t)
# with FlopCounterMode(display=False) as backward:
#     answer.sum().backward()
# one = forward.get_total_flops() + backward.get_total_flops()
# config = cifar10_config()
# whole = config.steps * config.batch_size * one
# print(
#     f"forward {forward.get_total_flops() / 1e9:.1f} GFLOP, with gradient {one / 1e9:.1f}"
# )
# print(f"the paper's run: {config.steps * config.batch_size / 1e6:.1f} million pictures")
# print(f"together {whole:.1e} FLOP")

# %% [markdown]
# A GPU never reaches the peak that its data sheet names: memory is slower than arithmetic. The best published speed that we know of for networks of this class is 3,225 pictures a second in training, on one H100. That is 12 % of its peak. The table takes this share for all three, and beside it the 30 % that careful work might reach. The peaks are the makers', for 16-bit numbers without sparsity.

# %% tags=["active-ipynb"]
# PEAK = {"T4 (fp16)": 65e12, "A100 (bf16)": 312e12, "H100 (bf16)": 989e12}
# print("expected hours at     12 %    30 % of the peak")
# for name, peak in PEAK.items():
#     hours = [whole / (share * peak) / 3600 for share in (0.12, 0.30)]
#     print(f"{name:18} {hours[0]:8.0f} {hours[1]:7.0f}")
# print(f"3,225 pictures a second: {3225 * one / 989e12:.0%} of an H100's peak")

# %% [markdown]
# **Memory.** Weights, gradients, Adam's two means and the average take 715 MB ([training](training.ipynb), Exercise 3). What the layers keep for the gradient is more, and grows with the batch; `pieces=4` cuts it to a quarter.
#
# **Several GPUs.** The batch is shared out: with 8 GPUs each has 16 pictures, as in the paper. The command is `accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10 --precision bf16`; `accelerate config` asks once for the number of GPUs and machines. A run may stop and go on with another number of them.
#
# ## The run
#
# Say how many minutes you have. The paper's 800,000 steps are the default when `minutes` is None; in 20 minutes expect colours and coarse shapes, no objects. Without a GPU the same lines train the digits for 300 steps, or for one minute if that comes first.

# %% mystnb={"image": {"alt": "A sheet of 16 pictures drawn by the freshly trained network. Without a GPU these are digits of 8 by 8 pixels, drawn after 300 steps of training: many are readable, some are not."}} tags=["active-ipynb", "nbval-ignore-output"]
# import json
# import tempfile
# from dataclasses import replace
#
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig
# from ddpm_nb.training import fit
#
# fig.use_style()
# if torch.cuda.is_available():
#     # A short run: an average that forgets sooner, and a shorter warm-up.
#     new = torch.cuda.get_device_capability()[0] >= 8  # a T4 has fp16 and no bf16
#     short = "bf16" if new else "fp16"
#     recipe = {"minutes": 20.0, "warmup": 500, "ema_decay": 0.999, "precision": short}
#     data, choice = load_cifar10(), replace(cifar10_config(), **recipe)
#     folder = Path("runs/cifar10")  # run the cell again, and it goes on from there
# else:
#     data, choice = load_digits(), replace(digits_config(), minutes=1.0, steps=300)
#     # A short run: an average that reaches back a tenth of it.
#     choice = replace(choice, warmup=30, ema_decay=0.97)
#     folder = Path(tempfile.mkdtemp())
#
# print(f"{len(data.pictures):,} pictures ({data.source})")
# run = fit(choice, data.pictures, folder, progress=False)
# last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
# print(f"{last['step']} steps on {run.device.type}, last loss {last['loss']:.3f}")
# drawn = run.sample(16)
# figure, ax = plt.subplots(figsize=(3, 3))
# fig.show_pictures(ax, drawn, columns=4)
# plt.show()
# assert last["loss"] < 0.6 and drawn.isfinite().all()

# %% [markdown]
# ## What the paper reaches, and what it takes
#
# These are other people's measurements, for comparison with your own run. The Fréchet distance (FID) compares 50,000 samples with the training set; smaller is better.
#
# | quantity | value | source |
# |---|---|---|
# | FID after 800,000 steps | 3.17 | Ho, Jain and Abbeel (2020), Table 1 |
# | Inception score | 9.46 ± 0.11 | the same |
# | bits per dimension, test set | at most 3.75 | the same |
#
# The training loss at the end of such a run is about 0.03. It reaches 0.04 early and then hardly moves, while the pictures go on improving: see [the questions](questions.md).
#
# ## Where people slip
#
# **Trusting a file because of its name.** An archive that was cut off, or that somebody has changed, must not be opened. Here is one of 1,000 zeros:

# %% tags=["active-ipynb"]
# with tempfile.TemporaryDirectory() as root:
#     (Path(root) / "cifar-10-binary.tar.gz").write_bytes(bytes(1000))
#     try:
#         load_cifar10(root, download=False)
#     except ValueError as error:
#         print(str(error).replace(root, "data"))

# %% [markdown]
# **Mixing up the order of the bytes.** The file has all red values first, then all green, then all blue. A loader that takes three neighbouring bytes for one pixel shows nine small grey copies of the picture, three for each colour, and trains without a complaint.

# %% tags=["active-ipynb"]
# sky = torch.zeros(3, 32, 32, dtype=torch.uint8)
# sky[2] = 200  # blue everywhere
# wrong = sky.reshape(32, 32, 3)  # as if the bytes came pixel by pixel
# print("right, colour of a pixel:", sky[:, 20, 20].tolist())
# print("wrong, first and last row:", wrong[0, 20].tolist(), wrong[31, 20].tolist())

# %% [markdown]
# ## Exercises
#
# **1.** How often does the paper's run show each training picture to the network? And a run of 20 minutes at 100 pictures a second?
#
# <details><summary>Solution</summary>
#
# $800{,}000\cdot 128/50{,}000 = 2048$ times, each time with another $t$, another noise, and mirrored half of the time. In 20 minutes: $120{,}000/50{,}000 = 2.4$ times.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# print(800_000 * 128 / 50_000, 20 * 60 * 100 / 50_000)

# %% [markdown]
# **2.** Sampling takes 1,000 passes through the network, without gradients. How much arithmetic do 50,000 samples take, compared with the whole training?
#
# <details><summary>Solution</summary>
#
# $5\cdot10^4\cdot 10^3$ forward passes of 12.4 GFLOP each: about a sixth of the training. One number for a table costs that much.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# samples = 50_000 * 1_000 * forward.get_total_flops()
# print(f"{samples:.1e} FLOP, {samples / whole:.2f} of the training")

# %% [markdown]
# **3.** Take the digits' configuration: how many updates back does its average reach, and which share of the run is that?
#
# <details><summary>Solution</summary>
#
# $1/(1-0.995) = 200$ updates, of 2,400: a twelfth of the run.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# small = digits_config()
# print(round(1 / (1 - small.ema_decay)), "of", small.steps)

# %% [markdown]
# ## Summary
#
# The data are checked before they are used. The paper's run is one configuration record and $3.8\cdot10^{18}$ operations: hours on a large GPU, days on a small one. The same lines train the digits on a laptop.
#
# **The next question** is yours: a folder of your own pictures, another schedule, another network. Everything you need is in `ddpm_nb`.
