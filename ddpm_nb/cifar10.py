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
# ![The chain in colour: at the left a picture of 32 by 32 pixels, something like a horse on grass, one of the samples of this book's small CIFAR-10 network; at the right colour noise; the way back between them is lit, p_θ.](images/chain-cifar10.svg)
#
# What comes out when the pictures are photographs?
#
# **What you bring.** [The network](unet.ipynb) and [the training](training.ipynb).
#
# **What you take away.** The data set, checked before it is used; the paper's configuration; a lower bound of its price on three GPUs; and one cell that trains. With a GPU it trains on CIFAR-10, for as long as you say. Without one it trains the digits briefly, so the chapter always runs. And a small network that was trained on CIFAR-10 for two and a half minutes: its log, its samples and its bits, beside what the paper reaches.
#
# **What has been tried, and what not.** The training has run on a GPU: some minutes of the paper's network ([the table](gpu.md)), and the small network's whole run, whose log you will see. The cells of this page were run on a CPU.

# %% tags=["active-ipynb"]
# # In Colab this installs the book's package; elsewhere it is there, and nothing happens.
# import importlib.util
#
# if importlib.util.find_spec("ddpm_nb") is None:
#     %pip install --quiet --no-deps "ddpm_nb @ git+https://github.com/ddpm_nb/ddpm_nb"

# %%
"""CIFAR-10 and the digits as tensors, and the two configurations that train on them."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_nb import _data
from ddpm_nb.training import TrainConfig

# %% [markdown]
# ## The data
#
# CIFAR-10 holds 60,000 colour photographs of 32×32 pixels in ten classes, 6,000 of each: 50,000 to train on and 10,000 to test with. The model is told no classes. They are kept here for those who want to measure something by class.
#
# The official archive comes in two forms. One is a pickle, Python's own format, which can hide a program. The other is plain bytes: for each picture one byte for its class, then 1,024 bytes of red, 1,024 of green and 1,024 of blue. This loader reads the plain one. A download that breaks off is taken up again, and the archive is opened only after its checksum (SHA-256, a fingerprint of 64 hexadecimal digits; nobody knows how to make another file with the same one) has been compared with the known one.

# %%
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SIZE = 170_052_171  # bytes
FOLDER = "cifar-10-batches-bin"  # in the archive
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

# %% [markdown]
# Each file of the archive holds 10,000 records, one a picture.

# %%
RECORD = 3073  # one byte for the class, then 32 x 32 of red, of green, of blue
RECORDS = 10_000


def _records(name: str, content: bytes) -> Tensor:
    """Return a file's records, (10000, 3073) uint8."""
    if len(content) != RECORDS * RECORD:
        raise ValueError(
            f"root: expected {RECORDS * RECORD:,} bytes in {name}, got {len(content):,}"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    records = records.reshape(RECORDS, RECORD)
    if (most := int(records[:, 0].max())) >= len(CLASSES):
        raise ValueError(f"root: expected labels 0 ... 9 in {name}, got {most}")
    return records


# %% [markdown]
# Where nothing is there yet, the archive is fetched. A folder of its files will also do, if somebody has unpacked it; then only their sizes and labels can be checked, and the result says so.

# %%
class Labelled(NamedTuple):
    """Pictures (N, C, H, W), their classes (N,) int64, and where they come from."""

    images: Tensor
    labels: Tensor
    source: str


def load_cifar10(
    root: Path | str = "data", train: bool = True, download: bool = True
) -> Labelled:
    """Return CIFAR-10's 50,000 training pictures, or its 10,000 test pictures.

    Looked for in `root`, in this order: the official binary archive, whose SHA-256 is
    checked before it is opened; a folder `cifar-10-batches-bin` with the files of that
    archive, whose sizes and labels are checked; else the archive is downloaded
    (170 MB). A download that breaks off goes on at the next call. Of several processes
    one fetches, and the others wait for it.

    Returns:
        uint8 pictures (N, 3, 32, 32), labels 0 ... 9 (their names are `CLASSES`), and
        a source that says whether the pictures were verified.

    Raises:
        FileNotFoundError: if nothing is there and `download` is off.
        ConnectionError: if the download fails; what has arrived is kept.
        ValueError: if the archive is not the official one, or a file of the folder is
            missing, has another size or impossible labels.
    """
    archive, folder = Path(root) / URL.rpartition("/")[2], Path(root) / FOLDER
    parts = (
        [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    )
    if not archive.exists() and not folder.is_dir():
        if not download:
            raise FileNotFoundError(
                f"root: expected {archive.name} or a folder {FOLDER} in {root}, got "
                "neither; download=True fetches the archive"
            )
        _data.fetch(URL, archive, SIZE, SHA256, "CIFAR-10")
    if archive.exists():
        names = [f"{FOLDER}/{part}" for part in parts]
        contents = _data.read_archive(_data.verified(archive, SHA256), names)
        source = "official archive, SHA-256 verified"
    else:
        contents = _data.read_files(folder, parts)
        source = "a folder's files, sizes and labels checked, contents unverified"
    records = torch.cat([_records(*pair) for pair in zip(parts, contents)])
    images = records[:, 1:].reshape(-1, 3, 32, 32)
    return Labelled(images, records[:, 0].long(), source)


# %% [markdown]
# The digits of the earlier chapters, in the same form. They come with scikit-learn and need no download.

# %%
def load_digits(train: bool = True) -> Labelled:
    """Return scikit-learn's handwritten digits: 1,347 to train on, or 450 to test with.

    The split is that of the chapter on the algorithms; both parts have all digits.

    Returns:
        float32 pictures (N, 1, 8, 8) in [-1, 1], in 17 steps of grey, and their labels.

    Raises:
        ImportError: if scikit-learn is missing, with the command that installs it.
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn"
        ) from error

    data = datasets.load_digits()
    parts = model_selection.train_test_split(
        data.images, data.target, test_size=0.25, stratify=data.target, random_state=0
    )
    images, labels = parts[0::2] if train else parts[1::2]
    images = torch.tensor(images / 8 - 1, dtype=torch.float32)[:, None]
    return Labelled(images, torch.tensor(labels), "scikit-learn")


# %% [markdown]
# Look at the data before anything else: how many, which shape, which numbers, and do the names fit the pictures? From here on the chapter works with CIFAR-10 if there is a GPU, and with the digits if there is none.

# %% mystnb={"image": {"alt": "Two rows of ten small pictures, two of each class, with the names of the classes above. Without a GPU they are handwritten digits of 8 by 8 pixels, from 0 to 9, each under its own name."}} tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# from ddpm_nb import _figures as fig, to_float
#
# fig.use_style()
# on_gpu = torch.cuda.is_available()
# data = load_cifar10() if on_gpu else load_digits()
# names = CLASSES if on_gpu else tuple("0123456789")
# low, high = data.images.min().item(), data.images.max().item()
# print(f"{len(data.images):,} pictures ({data.source})")
# print(f"shape {tuple(data.images.shape[1:])}, {data.images.dtype}, {low:g} to {high:g}")
# print("of each class:", data.labels.bincount().tolist())
# of_class = [to_float(data.images[data.labels == label][:2]) for label in range(10)]
# if on_gpu:  # ten names are too long for one row
#     names = [name[:5] for name in names]
# fig.picture_rows(list(torch.stack(of_class, dim=1)), ["", ""], names, size=0.51)
# plt.show()

# %% [markdown]
# **Figure.** Two training pictures of each class (digits here, for this page was made without a GPU). Does every picture fit its name?
#
# ## The two configurations
#
# A configuration is one record, `TrainConfig` from [training](training.ipynb), and its defaults are the paper's choices for CIFAR-10 (appendix B): 128 channels times (1, 2, 2, 2), two blocks at each size, attention at 16×16, dropout 0.1; the linear schedule with $T = 1000$; batches of 128, Adam with a rate of $2\cdot10^{-4}$, mirrored pictures, an average that keeps 0.9999, 800,000 updates. Two things are not in the paper's text but in its authors' code: the warm-up over 5,000 updates, and clipping the gradient's length at 1. For the digits everything is smaller.

# %%
def cifar10_config() -> TrainConfig:
    """Return the paper's network and recipe for CIFAR-10 (appendix B)."""
    return TrainConfig()


def digits_config() -> TrainConfig:
    """Return a small network and a short run for the 8x8 digits."""
    return TrainConfig(
        channels=16,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_levels=(False, True),
        dropout=0.0,
        norm_num_groups=8,
        schedule="cosine",
        T=500,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=100,
        flip=False,
        ema_decay=0.995,
        steps=10_000,
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
# A processor never reaches the peak that its data sheet names: memory is slower than arithmetic, and small layers leave most of it idle. The paper gives one measured case. Its run took 10.6 hours on a TPU v3-8, at 21 updates a second (appendix B), and Google gives 420 TFLOP a second for that device. The first line says which share that was. For one GPU we have measured the share: an NVIDIA H200, whose data sheet names the same peak as the H100's, trains this network at 218 TFLOP a second ([the table](gpu.md)). For the others we know none, and borrow none. So the table is a bound: what the run would take *at* the peak. The peaks are the maker's, for 16-bit numbers without sparsity.

# %% tags=["active-ipynb"]
# share = 21 * config.batch_size * one / 420e12
# print(f"the paper's run: {share:.0%} of the peak")
# PEAK = {"T4 (fp16)": 65e12, "A100 (bf16)": 312e12, "H100 (bf16)": 989e12}
# for name, peak in PEAK.items():
#     hours = whole / peak / 3600
#     updates = config.steps / (3 * hours)
#     print(
#         f"{name:12} more than {hours:4.1f} hours; "
#         f"in 20 minutes fewer than {updates:9,.0f} updates"
#     )

# %% [markdown]
# Expect several times as long. On the H200, 5,836 pictures a second (bf16, `--compile`) would bring the paper's run to its end in 4.9 hours; we have not run it to its end. How long on your card, a run of five minutes tells: its `log.jsonl` has the steps and the minutes.
#
# **Memory.** Weights, gradients, Adam's two means and the average take 715 MB ([training](training.ipynb), Exercise 3). What the layers keep for the gradient is more, and grows with the batch. Count it for one picture:

# %% tags=["active-ipynb"]
# # A counter of the bytes that stay for the gradient after n pictures have gone through.
# network = UNet.cifar10()
#
#
# def held(n, short):
#     kept = {}
#
#     def keep(saved):
#         kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
#         return saved
#
#     hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved)
#     with hooks, torch.autocast("cpu", torch.bfloat16, enabled=short):
#         answer = network(torch.zeros(n, 3, 32, 32), torch.ones(n, dtype=torch.int64))
#     assert answer.requires_grad
#     return sum(kept.values())

# %% tags=["active-ipynb"]
# for name, short in (("float32", False), ("mixed with bf16", True)):
#     more = held(2, short) - held(1, short)  # the weights are in both, and drop out
#     print(
#         f"{name:15} {more / 1e6:.1f} MB a picture, {128 * more / 1e9:.1f} GB for a batch"
#     )

# %% [markdown]
# That was counted on a CPU. Mixed precision does not halve it: the normalisations and the activations between them keep what they need in float32. A GPU with less memory accumulates the gradient over several parts of the batch: `gradient_accumulation_steps=4` needs a quarter.
#
# **Several GPUs.** The batch is shared out: with 8 GPUs each has 16 pictures, as had each of the eight cores of the paper's TPU. The command is `accelerate launch -m ddpm_nb train --data cifar10 --out runs/cifar10 --precision bf16`; `accelerate config` asks once for the number of GPUs and machines. A run may stop and go on with another number of them. `torchrun --nproc_per_node 8 -m ddpm_nb sample …` draws with eight: each takes whole batches, and picture $i$ of a seed is the same picture, however many there are.
#
# ## The run
#
# Say how many minutes you have. How many updates that can be at most on your card, the table above says; what a short run gives, the section "A small run, measured" shows below. For the paper's whole run set `MINUTES = None`. Without a GPU the same lines train the digits for 300 steps, or for one minute if that comes first.

# %% mystnb={"image": {"alt": "A sheet of 16 pictures drawn by the freshly trained network. Without a GPU these are digits of 8 by 8 pixels, drawn after 300 steps of training: many are readable, some are not."}} tags=["active-ipynb", "nbval-ignore-output"]
# import json
# import math
# import tempfile
# from dataclasses import replace
#
# from ddpm_nb.training import fit
#
# MINUTES = 20.0  # None: the paper's 800,000 steps
# if on_gpu:
#     choice = replace(cifar10_config(), precision="auto")  # what is fastest here
#     if MINUTES is not None:
#         choice = replace(
#             choice, max_minutes=MINUTES, warmup_steps=500
#         )  # for a short run
#     folder = Path("runs/cifar10")  # run the cell again, and it goes on from there
# else:
#     short = {"max_minutes": 1.0, "steps": 300, "warmup_steps": 30}
#     choice = replace(digits_config(), **short)
#     folder = Path(tempfile.mkdtemp())
#
# run = fit(choice, data.images, folder, progress=False)
# last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
# print(f"{last['step']} steps on {run.device.type}, last loss {last['loss']:.3f}")
# drawn = run.sample(16)
# figure, ax = plt.subplots(figsize=(3, 3))
# fig.show_images(ax, drawn, columns=4)
# plt.show()
# assert last["loss"] < 0.6 and drawn.isfinite().all()

# %% [markdown]
# **Figure.** Sixteen pictures of the freshly trained network: here digits, after 300 steps on a CPU.
#
# And in numbers? On 200 test pictures, which the network has never seen, with the interval of [the evaluation](evaluation.ipynb):

# %% tags=["active-ipynb", "nbval-ignore-output"]
# from ddpm_nb.evaluation import bits_per_dim
#
# test = load_cifar10(train=False) if on_gpu else load_digits(train=False)
# levels = 256 if on_gpu else 17
# bits = bits_per_dim(
#     run.ema.model,
#     to_float(test.images[:200]).to(run.device),
#     run.noise_schedule,
#     num_timesteps=20,
#     levels=levels,
#     generator=torch.Generator().manual_seed(0),
# )
# low, high = bits.interval
# print(f"{bits.mean:.2f} bits per dimension, 95 %: {low:.2f} to {high:.2f}")
# print(f"a file without compression: {math.log2(levels):.2f}")
# assert bits.total.isfinite().all()

# %% [markdown]
# ## Full quality at once
#
# The authors' network, trained for the whole 800,000 steps, has been published on the Hugging Face hub, converted to the layout of the library diffusers. [The network](unet.ipynb) reads it. It seems that these are the weights after the last update and not their average (the printed `provenance` says what is known), so they are not the ones with which the paper's numbers were measured. These lines load them, if the hub can be reached, and draw with [DDIM](fewer_steps.ipynb). (They have not been run for this page.)
#
# ```python
# from ddpm_nb import Schedule, UNet, ddim_sample, save_image_grid
#
# published = UNet.from_diffusers("google/ddpm-cifar10-32")
# print(published.provenance)
# drawn = ddim_sample(published, (16, 3, 32, 32), Schedule.linear(), 100, clip=True)
# save_image_grid("published.png", drawn)
# ```
#
# ## A small run, measured
#
# What can be had in two and a half minutes? We trained a network with the plan of the paper's, a quarter of its width, one block less at each size, and no dropout. These three commands made what you see in this section, the first on one NVIDIA H200, the other two on a CPU:
#
# ```bash
# ddpm-nb train --data cifar10 --out runs/small \
#     --channels 32 --num-res-blocks 1 --dropout 0 --norm-num-groups 8 \
#     --batch-size 256 --learning-rate 1e-3 --warmup-steps 500 \
#     --precision bf16 --compile --max-minutes 2.58
# ddpm-nb evaluate --data cifar10 --network runs/small --num-timesteps 10 \
#     --out cifar10-small-bits.json
# ddpm-nb sample --network runs/small --out cifar10-small-sheet.png
# ```
#
# **On what data.** All 50,000 training pictures, and later the 10,000 test pictures; but each had gone through JPEG once before, with a quality of about 75. JPEG drops fine detail that an eye hardly misses. So these are not quite the official pictures, and the loader calls them unverified.
#
# **How long.** Compiling took the first minute, before the first update; and another, larger training had the GPU at the same time. The command would do 800,000 updates; the minutes ended it after those that you see below.
#
# The file with the weights says on what they were trained, for how long, and on which machine. That the pictures had gone through JPEG, and that the GPU was shared, was added to these notes by hand.

# %% tags=["active-ipynb"]
# import textwrap
#
# from ddpm_nb import _weights
# from ddpm_nb.fewer_steps import ddim_sample
# from ddpm_nb.training import load_network
#
# small, linear, notes = load_network(_weights.path("cifar10-small.safetensors"))
# for name, value in sorted(notes.items()):
#     print(textwrap.fill(f"{name}: {value}", 72, subsequent_indent="    "))
# millions = sum(weight.numel() for weight in small.parameters()) / 1e6
# epochs = int(notes["steps"]) * 256 / 50_000
# print(f"network: {millions:.2f} million weights")
# print(f"seen: each training picture {epochs:.1f} times")

# %% [markdown]
# **The loss** of this one run falls within a thousand updates to where it will stay. What goes on below that level is small, and it is what the pictures depend on.

# %% mystnb={"image": {"alt": "The simple loss against updates. Thin grey: means of 50 updates, scattering. Blue: means of 500. The blue curve falls steeply in the first thousand updates and then ever more slowly."}} tags=["active-ipynb"]
# lines = _weights.path("cifar10-small-log.jsonl").read_text().splitlines()
# log = [json.loads(line) for line in lines]
# assert log[-1]["step"] == int(notes["steps"])
# # One line of the log is the mean of 50 updates; ten lines together scatter less.
# blocks = [log[i : i + 10] for i in range(0, len(log) - 9, 10)]
# step = [block[-1]["step"] for block in blocks]
# loss = [sum(line["loss"] for line in block) / len(block) for block in blocks]
# figure, ax = plt.subplots(figsize=(5.2, 2.8))
# ax.axhline(loss[-1], color=fig.GREY, linewidth=0.8, linestyle=":")
# ax.plot([line["step"] for line in log], [line["loss"] for line in log], color="#c8c8c8")
# ax.plot(step, loss, color=fig.BLUE)
# ax.set(xlabel="update", ylabel="simple loss", ylim=(0.025, 0.06))
# ax.text(step[-1], loss[-1] - 0.002, "mean of 500", color=fig.BLUE, ha="right", va="top")
# plt.show()
# for share in (0, 1, 3, len(blocks) // 2, len(blocks) - 1):
#     minutes = blocks[share][-1]["minutes"]
#     print(f"{step[share]:6} updates, {minutes:4.1f} minutes: loss {loss[share]:.4f}")

# %% [markdown]
# **Figure.** The loss of the run: each grey point is a mean over 50 updates. From the second thousand updates on, the mean of 500 comes down by less than a tenth.
#
# **The bits** on test pictures, with the interval of [the evaluation](evaluation.ipynb):

# %% tags=["active-ipynb"]
# bits = json.loads(_weights.path("cifar10-small-bits.json").read_text())
# low, high = bits["interval_95"]
# print(textwrap.fill(f"{bits['pictures']}, {bits['times_a_picture']} times each:", 72))
# print(
#     f"{bits['bits_per_dim']:.3f} bits per dimension, 95 % interval {low:.3f} to {high:.3f}"
# )
# print(", ".join(f"{part} {bits[part]:.3f}" for part in ("prior", "steps", "decoder")))

# %% [markdown]
# **The samples**, by Algorithm 2 with all 1,000 steps:

# %% mystnb={"image": {"alt": "Eight rows of eight colour pictures of 32 by 32 pixels, as small photographs would look: plausible colours and light, mostly one thing before a ground. A few can be named, such as a horse on grass or a lorry; most shapes only suggest an animal, a car or a ship.", "classes": "photo"}} tags=["active-ipynb"]
# sheet = plt.imread(_weights.path("cifar10-small-sheet.png"))
# how = json.loads(_weights.path("cifar10-small-sheet.json").read_text())
# figure, ax = plt.subplots(figsize=(5.2, 5.2), facecolor="none")
# ax.imshow(sheet, interpolation="nearest")
# ax.axis("off")
# plt.show()
# print(
#     f"{how['count']} samples, seed {how['seed']}, none left out: {how['steps']} steps, {how['method']}"
# )

# %% [markdown]
# **Figure.** 64 samples of the small network, all that were drawn.
#
# Colours, light and grounds are those of photographs. A few pictures can be named, such as a horse on grass or a lorry; most shapes only suggest something. The paper's network has 23 times as many weights, and saw each picture 2,048 times.
#
# The weights come with the package, so you can draw with them yourself. Here with DDIM and 50 steps, a twentieth of the work. How often do the numbers of a picture reach the ends, black or white or pure colour? Counted in these 16 pictures and in the 64 of the sheet:

# %% mystnb={"image": {"alt": "Two rows of eight colour pictures of 32 by 32 pixels, like those of the sheet above; in a few the ground is pure black or white.", "classes": "photo"}} tags=["active-ipynb", "nbval-ignore-output"]
# drawn = ddim_sample(
#     small,
#     (16, 3, 32, 32),
#     linear,
#     50,
#     clip=True,
#     generator=torch.Generator().manual_seed(0),
# )
# figure, ax = plt.subplots(figsize=(5.2, 1.4), facecolor="none")
# fig.show_images(ax, drawn, columns=8)
# plt.show()
# assert drawn.isfinite().all()
# of_sheet = torch.tensor(sheet)[..., :3].unflatten(0, (8, 32)).unflatten(2, (8, 32))
# of_sheet = 2 * of_sheet.permute(0, 2, 4, 1, 3).flatten(0, 1) - 1
# shares = []
# for name, pictures in (("DDIM, 50 steps", drawn), ("the sheet", of_sheet)):
#     ends = (pictures.abs() > 0.9).float().flatten(1).mean(1)
#     width = 2 * ends.std() / len(ends) ** 0.5
#     shares.append((float(ends.mean()), float(width)))
#     print(f"{name:14} {ends.mean():.0%} ± {width:.0%} of the numbers beyond ±0.9")
# (few, of_few), (all_steps, of_all) = shares
# print(f"{'difference':14} {few - all_steps:.0%} ± {math.hypot(of_few, of_all):.0%}")
# assert few > all_steps

# %% [markdown]
# **Figure.** Sixteen samples by DDIM, with a twentieth of the evaluations.
#
# The interval of the difference (two standard errors over the pictures of one seed) does not reach 0: with few steps more of each picture is cut off at the ends of the range.

# %% [markdown]
# ## What the paper reaches
#
# These are other people's measurements. The Fréchet distance (FID) compares 50,000 samples with the training set; smaller is better.
#
# | quantity | value | source |
# |---|---|---|
# | FID, the smallest in the course of training | 3.17 | Ho, Jain and Abbeel (2020), Table 1 |
# | Inception score | 9.46 ± 0.11 | the same |
# | bits per dimension, test set | at most 3.75 | the same |
# | time for 800,000 updates, TPU v3-8 | 10.6 hours | the same, appendix B |
# | time for 256 samples, TPU v3-8 | 17 seconds | the same, appendix B |
#
# The first three are not the last network's. The authors measured again and again during the run of 800,000 updates, and report the network whose FID was smallest (appendix B). The smallest of several measurements is lower than a typical one, and lower than that of the last update. For a fair comparison keep several networks of your run: `fit` overwrites `network.safetensors`, so copy it now and then, measure each copy, and say which number you take.
#
# To measure your own run the same way, these lines need a GPU, `pip install ".[eval]"` in a clone, and some hours for the 50,000 samples. (They have not been run for this page.) The bits come from the command line: `ddpm-nb evaluate --data cifar10 --network runs/cifar10`.
#
# ```python
# from ddpm_nb import inception, load_network, to_float
# from ddpm_nb.algorithms import sample
# from ddpm_nb.evaluation import collect_features, frechet_distance
#
# network, schedule, _ = load_network("runs/cifar10/network.safetensors")
# network, schedule = network.to("cuda"), schedule.to("cuda")
# describe = inception(device="cuda")
# real = collect_features(describe, map(to_float, load_cifar10().images.split(256)))
# shape = (256, 3, 32, 32)
# samples = (sample(network, shape, schedule, clip=True) for _ in range(196))
# print(frechet_distance(collect_features(describe, samples), real))
# ```
#
# Nothing in the table may be compared with the small run above. The paper's bits are those of the official pictures; ours are those of pictures that JPEG has smoothed, and smoother pictures take fewer bits. And for a Fréchet distance one needs 50,000 samples and the weights of Inception; the small run has neither. What can be compared is what you see.
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
# **1.** How often does the paper's run show each training picture to the network? And a run of 20 minutes at 100 pictures a second? *Hint:* an update shows 128 of the 50,000.
#
# <details><summary>Solution</summary>
#
# $800{,}000\cdot 128/50{,}000 = 2048$ times, each time with another $t$, another noise, and mirrored half of the time. In 20 minutes: $120{,}000/50{,}000 = 2.4$ times.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 1
# print(f"the paper's run: {800_000 * 128 / 50_000:.0f} times")
# print(f"20 minutes: {20 * 60 * 100 / 50_000:.1f} times")

# %% [markdown]
# **2.** Sampling takes 1,000 passes through the network, without gradients. How much arithmetic do 50,000 samples take, compared with the whole training? *Hint:* how much does an update take for one picture, and how much an evaluation?
#
# <details><summary>Solution</summary>
#
# $5\cdot10^4\cdot 10^3$ forward passes of 12.4 GFLOP each: about a sixth of the training. One number for a table costs that much. With 50 steps of DDIM it would be a twentieth of that.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 2
# samples = 50_000 * 1_000 * forward.get_total_flops()
# print(f"{samples:.1e} FLOP, {samples / whole:.2f} of the training")

# %% [markdown]
# **3.** Take the digits' configuration: how many updates back does its average reach, and which share of the run is that? And for the paper's run? In which of the two may one stop early and still trust the average? *Hint:* `ema_decay` and `steps` of both configurations.
#
# <details><summary>Solution</summary>
#
# $1/(1-0.995) = 200$ updates, of 10,000: a fiftieth of the run. The paper's average reaches back over 10,000 updates, of 800,000: an eightieth. In both it is a small part of the whole run. Stopped after 2,000 updates, though, the digits' average still reaches back over a tenth; and the paper's, by Eq. [start of the average](#eq-ema-start), over the last ninth, as any early average of `fit` does. An average that reaches over much of a run remembers a network that was worse.
#
# </details>

# %% tags=["active-ipynb", "hide-cell"]
# # Solution 3
# for name, choice in (("digits", digits_config()), ("CIFAR-10", cifar10_config())):
#     reach = 1 / (1 - choice.ema_decay)
#     print(
#         f"{name}: {reach:,.0f} of {choice.steps:,} updates, {reach / choice.steps:.1%}"
#     )

# %% [markdown]
# ## Summary
#
# The data are checked before they are used. The paper's run is one configuration record and $3.8\cdot10^{18}$ operations: at the very least an hour on the fastest card of the table, in truth several times that. The same lines train the digits on a laptop.
#
# **The next question** is yours: a folder of your own pictures, another schedule, another network. Everything you need is in `ddpm_nb`.
