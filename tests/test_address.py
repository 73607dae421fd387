"""The repository's address stands in one place; wherever it is repeated, it is the same."""

import json
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

from tools import address

pytestmark = pytest.mark.fast

# Put together here, so that this file holds no address that the search would find.
OLD = "/".join(["ddpm_nb", "ddpm_nb"])
GITHUB = "https://github.com"
COLAB = "https://colab.research.google.com/github"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the address in every form that the book uses."""
    files = {
        "pyproject.toml": f'[project.urls]\nRepository = "{GITHUB}/{OLD}"\n',
        "_config.yml": f"repository:\n  url: {GITHUB}/{OLD}\n",
        "README.md": f"See {GITHUB}/{OLD}. Not [{GITHUB}/other/repo]({GITHUB}/other/repo).\n",
        "book/x.ipynb": json.dumps(
            {"source": [f"%pip install git+{GITHUB}/{OLD}.git\n"]}
        ),
        "ddpm_nb/x.py": f"# {COLAB}/{OLD}/blob/main/book/x.ipynb\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_this_checkout_has_no_strays() -> None:
    assert address.strays(ROOT) == []


def test_change_reaches_every_form(checkout: Path) -> None:
    assert address.change(checkout, "ada/ddpm-book") == 5
    assert address.current(checkout) == "ada/ddpm-book"
    assert address.strays(checkout) == []
    text = "".join(text for _, text in address.texts(checkout))
    assert OLD not in text
    assert f"{GITHUB}/ada/ddpm-book.git" in text
    assert f"{GITHUB}/ada/ddpm-book. Not" in text
    assert f"{GITHUB}/other/repo" in text
    # And back: nothing else was touched.
    address.change(checkout, OLD)
    assert f"{GITHUB}/{OLD}." in (checkout / "README.md").read_text()


@pytest.mark.parametrize("stray", ["ada/ddpm_nb", OLD, "Ada/Ddpm-Book"])
def test_a_stray_is_found(checkout: Path, stray: str) -> None:
    address.change(checkout, "ada/ddpm-book")
    (checkout / "book/x.ipynb").write_text(f'"!pip install git+{GITHUB}/{stray}"')
    assert address.strays(checkout) == [f"book/x.ipynb: github.com/{stray}"]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ada",
        "ada/",
        "/x",
        "a_b/x",
        "-a/x",
        "a--b/x",
        "a/b/c",
        f"{GITHUB}/a/b",
        "a/b c",
        "a/..",
        "a/b.git",
    ],
)
def test_a_malformed_address_is_one_line(
    bad: str,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(address, "ROOT", checkout)  # nothing may change, there least
    assert address.main(bad) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
