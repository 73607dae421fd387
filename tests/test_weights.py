"""The trained models are found in a checkout, in an installed package and beside a running chapter."""

import re
from pathlib import Path

import pytest
from helpers import ROOT

from ddpm_nb import _weights


def test_a_checkout_has_its_models_in_the_book() -> None:
    assert _weights.folder() == ROOT / "book/weights"
    assert _weights.path("digits.safetensors").samefile(
        ROOT / "book/weights/digits.safetensors"
    )


def test_a_model_just_trained_here_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert _weights.path("digits.safetensors").parent == ROOT / "book/weights"
    (tmp_path / "weights/digits.safetensors").write_bytes(b"new")
    assert _weights.path("digits.safetensors").read_bytes() == b"new"


def test_an_installed_package_carries_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ddpm_nb/weights").mkdir(parents=True)
    monkeypatch.setattr(_weights, "__file__", str(tmp_path / "ddpm_nb/_weights.py"))
    assert _weights.folder() == tmp_path.resolve() / "ddpm_nb/weights"


def test_an_unknown_model_is_named_with_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"'mnist'; there are: .*digits"):
        _weights.path("mnist")


def test_without_any_models_both_places_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_weights, "__file__", str(tmp_path / "ddpm_nb/_weights.py"))
    with pytest.raises(FileNotFoundError, match="neither"):
        _weights.folder()


def test_all_models_together_stay_small() -> None:
    assert sum(f.stat().st_size for f in _weights.folder().iterdir()) <= 10_000_000


@pytest.mark.parametrize(
    "path", sorted((ROOT / "ddpm_nb").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_no_chapter_reads_a_model_by_its_own_path(path: Path) -> None:
    """Alone in Colab there is no folder `weights`: a chapter may write into it, and reads through `_weights`."""
    code = re.sub(r"^# ?", "", path.read_text(encoding="utf-8"), flags=re.M)
    code = re.sub(r"save_network\(\s+", "save_network(", code)
    for line in code.splitlines():
        if re.search(r"""["'](\.\./)?(book/)?weights/""", line):
            assert re.search(r"(save_network|save_file|mkdir)\(", line), line
