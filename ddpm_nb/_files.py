"""Files that are there whole or not at all, and places that one process at a time may have."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_folder(name: str, folder: Path) -> None:
    """Make a folder and those above it, where they are not there; `name` is what the user called it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{name}: cannot make {folder} ({error.strerror})"
        raise OSError(error.errno, why) from error


def write_whole(path: Path, content: bytes, before: Path | None = None) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole.

    With `before`, the old one is kept under that name.

    Raises:
        OSError: if it cannot be written, a full disk for instance; nothing is left behind, the old file is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name points to it
        if before is not None and path.exists():
            path.replace(before)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"path: cannot write {path} ({error.strerror}); what was there before is untouched",
        ) from error


@contextmanager
def claimed(lock: Path, taken: str = "") -> Iterator[None]:
    """Hold a lock; the claim ends with the process, however it ends.

    Waits until it is free, or with a message for that case, refuses.

    Raises:
        ValueError: with that message, if another process (or another thread) holds it.
    """
    from filelock import FileLock, Timeout

    claim = FileLock(lock)
    try:
        claim.acquire(blocking=not taken)
    except Timeout as error:
        raise ValueError(taken) from error
    try:
        yield
    finally:
        claim.release()
