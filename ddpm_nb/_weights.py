"""Where the book's own small trained models are: one answer for a checkout, an installed package and a chapter alone.

One chapter trains a model and stores it in `book/weights/`; later chapters load it from here. The installed package
carries the files along, so a chapter in Colab finds them without a download.
"""

from pathlib import Path


def folder() -> Path:
    """Return the folder with the trained models of this version of the package.

    Raises:
        FileNotFoundError: if neither a checkout nor an installed package is around this file.
    """
    here = Path(__file__).resolve().parent
    places = (here / "weights", here.parent / "book" / "weights")
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"the trained models are neither in {places[0]} nor in {places[1]}"
    )


def path(name: str) -> Path:
    """Return the file of a trained model, such as "digits.safetensors".

    A `weights` folder where the chapter runs comes first: there the chapter that trains
    the model has just put it.

    Raises:
        FileNotFoundError: if there is no such model; the message names those there are.
    """
    own = Path("weights") / name
    if own.is_file():
        return own
    file = folder() / name
    if not file.is_file():
        there = ", ".join(sorted(p.name for p in folder().iterdir()))
        raise FileNotFoundError(f"no model called {name!r}; there are: {there}")
    return file
