"""Pictures from folders and archives, as tensors and back. The chapters tell what they are for."""

import hashlib
import http.client
import io
import math
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ddpm_nb._files import claimed, make_folder, write_whole

KINDS = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # fmt: skip


# --- pictures in memory


def pictures(images: Tensor) -> Tensor:
    """Return a tensor of bytes or of floating-point numbers."""
    if not isinstance(images, Tensor):
        raise TypeError(
            "images: expected a tensor (N, C, H, W), uint8 or floating-point (a folder's: load_folder; numpy's: "
            f"torch.from_numpy), got {type(images)}"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images: expected uint8 or floating-point, got {images.dtype}")
    return images


def training_set(images: Tensor, config: Any) -> Tensor:
    """Return pictures that can be trained on, floating-point ones as float32.

    There must be a batch at least; the network must be able to halve their sides; numbers must lie in [-1, 1].
    """
    if pictures(images).dim() != 4:
        raise ValueError(
            f"images: expected (N, C, H, W), got shape {tuple(images.shape)}"
        )
    if len(images) < config.batch_size:
        raise ValueError(
            f"images: expected at least a batch of {config.batch_size}, got {len(images)}"
        )
    (height, width), halvings = images.shape[-2:], len(config.channel_mult) - 1
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"images: expected a height and a width that the network can halve {halvings} times, multiples of "
            f"{2**halvings}, got {height} x {width}"
        )
    if not images.is_floating_point():
        return images
    # Written so that NaN fails too: every comparison with NaN is false.
    outside = ~(images.abs() <= 1).flatten(1).all(dim=1)
    if outside.any():
        raise ValueError(
            f"images: expected numbers in [-1, 1], got others in {int(outside.sum())} pictures, the first is number "
            f"{int(outside.nonzero()[0])}"
        )
    return images.float()


def to_float(images: Tensor) -> Tensor:
    """Return uint8 pictures as float32 in [-1, 1]; floating-point ones as they are.

    Raises:
        TypeError: if the pictures are no tensor, or neither uint8 nor floating-point.
    """
    return images / 127.5 - 1 if pictures(images).dtype == torch.uint8 else images


def fingerprint(images: Tensor) -> str:
    """Return what tells these pictures from all others: type, shape and SHA-256."""
    content = images.cpu().contiguous().view(torch.uint8).numpy()
    digest = hashlib.sha256(content.data).hexdigest()
    return f"{images.dtype} {tuple(images.shape)} {digest}"


def grey_levels(images: Tensor) -> int | None:
    """Return how many grey levels pictures have, where that is plain."""
    if images.dtype == torch.uint8:
        return 256
    steps = len(images.flatten()[:1_000_000].unique()) - 1
    places = (images + 1) * steps / 2  # whole numbers, if the levels are even
    even = 1 <= steps < 256 and bool(((places - places.round()).abs() < 1e-3).all())
    return steps + 1 if even else None


# --- files and folders of pictures


def load_folder(
    folder: Path | str, size: int | tuple[int, int] = 32, channels: int = 3
) -> Tensor:
    """Read all pictures in a folder and the folders below it.

    Links are followed; a folder that several lead to is read once.

    Args:
        folder: where they are.
        size: height and width of the result, one number or two; larger and smaller pictures are scaled, and what is
            too high or too wide is cut off at both ends.
        channels: 3 for colour, 1 for grey. What is transparent becomes white.

    Returns:
        (N, channels, height, width) uint8, in the order of the files' names.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no picture, or some that cannot be read; it says which.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    height, width = size if isinstance(size, Sequence) else (size, size)
    if min(height, width) < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"folder: expected a folder, got {folder}")
    paths = [path for path in _files(folder) if path.suffix.lower() in KINDS]
    if not paths:
        raise ValueError(f"folder: expected pictures in {folder}, got none")
    images, bad = [], []
    for path in sorted(paths):
        try:
            images.append(_read(path, height, width, channels))
        except (OSError, SyntaxError, ValueError) as error:
            bad.append(f"{path} ({error})")
    if bad:
        more = f", and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"folder: expected pictures, got {len(bad)} of {len(paths)} files that are broken or of a kind that is "
            f"not read: {', '.join(bad[:10])}{more}"
        )
    return torch.stack(images)


def _files(folder: Path | str) -> Iterator[Path]:
    """Yield the files of a folder and of those below it, but for hidden ones."""

    def complain(error: OSError) -> None:
        raise error  # a folder that may not be read is not passed over

    seen = set()  # links may go round in a circle
    for place, below, names in os.walk(folder, onerror=complain, followlinks=True):
        below.sort()  # the same walk on every machine
        here = os.path.realpath(place)
        if here in seen:
            below.clear()
            continue
        seen.add(here)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _read(path: Path, height: int, width: int, channels: int) -> Tensor:
    """Read one picture, (channels, height, width) uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            if file.mode in ("I", "F") or file.mode.startswith("I;16"):
                raise ValueError(f"more than 8 bits a channel, mode {file.mode}")
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture).convert("RGB")
    cut = ImageOps.fit(flat, (width, height), Image.Resampling.LANCZOS)
    levels = cut if channels == 3 else cut.convert("L")
    pixels = torch.frombuffer(bytearray(levels.tobytes()), dtype=torch.uint8)
    return pixels.reshape(height, width, channels).permute(2, 0, 1)


def save_image_grid(path: Path | str, images: Tensor) -> None:
    """Write pictures as one PNG, side by side in rows, as square as they go.

    Args:
        path: the file.
        images: (N, C, H, W) uint8, or floating-point in [-1, 1], grey (C = 1) or colour (C = 3); what lies outside is
            clipped.

    Raises:
        OSError: if the file cannot be written; an older one stays as it was.
        TypeError: if the pictures are no tensor, or neither uint8 nor floating-point.
        ValueError: if there is no picture, or pictures are neither grey nor colour.
    """
    from PIL import Image

    images = to_float(images)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images: expected (N, 1 or 3, H, W) with N >= 1, got shape {tuple(images.shape)}"
        )
    columns = math.isqrt(len(images) - 1) + 1
    rows = -(-len(images) // columns)
    levels = ((images.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    empty = levels.new_zeros(rows * columns - len(levels), *levels.shape[1:])
    sheet = rearrange(
        torch.cat([levels, empty]), "(r c) n h w -> (r h) (c w) n", r=rows
    )
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1).numpy()).save(buffer, format="png")
    write_whole(Path(path), buffer.getvalue())


# --- archives


def verified(archive: Path, sha256: str) -> Path:
    """Return an archive whose fingerprint is the known one."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"root: expected the official archive with SHA-256 {sha256}, got {archive} with {found}; remove it, and it "
            "is fetched again"
        )
    return archive


def read_archive(archive: Path, names: Sequence[str]) -> list[bytes]:
    """Read files of an archive that has been verified, without unpacking it to the disk."""
    contents = []
    with tarfile.open(archive) as tar:
        for name in names:
            file = tar.extractfile(name)
            assert file is not None  # the checksum says that it is there
            contents.append(file.read())
    return contents


def read_files(folder: Path, names: Sequence[str]) -> list[bytes]:
    """Read files of a folder; all must be there."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"root: expected {', '.join(names)} in {folder}, got none of the name {missing[0]}"
        )
    return [(folder / name).read_bytes() for name in names]


def fetch(url: str, archive: Path, size: int, sha256: str, name: str) -> None:
    """Download an archive of known size; go on where an earlier call stopped.

    Of several processes one fetches, and the others wait for it. What is there afterwards has been verified.

    Raises:
        ConnectionError: if the download fails; what has arrived is kept.
        OSError: if the folder cannot be made.
        ValueError: if something else arrived; nothing is left.
    """
    make_folder("root", archive.parent)
    with claimed(archive.with_name(f".{archive.name}.lock")):
        if archive.exists():  # another process may have fetched it meanwhile
            return
        part = archive.with_name(archive.name + ".part")
        try:
            _receive(url, part, size, name)
        except urllib.error.HTTPError as error:
            raise ConnectionError(
                f"download: expected {url}, got {error}; put the archive into {archive.parent} by hand"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            raise ConnectionError(
                f"download: expected {url}, got {error}. What has arrived is kept: call again to go on, or put the "
                f"archive into {archive.parent} by hand"
            ) from error
        try:
            verified(part, sha256).replace(archive)
        except ValueError:
            part.unlink()  # going on from wrong bytes would never end well
            raise


def _receive(url: str, part: Path, size: int, name: str) -> None:
    """Add to a part what is missing of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the part is whole, or wrong
            return
        raise
    with answer:
        if answer.status != 206:  # the server sends all from the start
            have = 0
        left = size - have
        length = answer.headers.get("Content-Length", str(left))
        if length != str(left):  # a login page, for instance
            raise ConnectionError(f"{length} bytes, where {left:,} were left")
        bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=name)
        with part.open("ab" if have else "wb") as file, bar:
            while chunk := answer.read1(1 << 20):  # not all at once: keep what came
                file.write(chunk)
                bar.update(len(chunk))
        arrived = part.stat().st_size - have
        if arrived < left:
            raise ConnectionError(f"{arrived:,} bytes, where {left:,} were left")
