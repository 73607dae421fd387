"""Set the repository's address everywhere, or find where another one stands: python -m tools.address owner/name.

The address is defined in pyproject.toml ([project.urls] Repository). Chapters, _config.yml, README.md and others
repeat it.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tools.book import ROOT, files

PACKAGE = "ddpm_nb"
# GitHub's rules: an owner has letters, digits and single inner hyphens; a name also has dots and underscores.
REPO = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.{1,2}$)[\w.-]{1,100}(?<!\.git)", re.ASCII)
# github.com/…, colab.research.google.com/github/…, raw.githubusercontent.com/…
URL = re.compile(r"(github\.com/|/github/|githubusercontent\.com/)([\w-]+/[\w.-]*[\w-])", re.ASCII)


def current(root: Path) -> str:
    """The address as owner/name, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"]).removeprefix("https://github.com/")


def texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Every text file that git tracks or would track."""
    for name in files(root):
        try:
            yield root / name, (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture


def strays(root: Path) -> list[str]:
    """Addresses that look like this repository's and are not, as `file: address`.

    Neither the owner nor the name alone says "ours": the owner has other repositories, and others use the same name.
    """
    address = current(root)
    return [
        f"{path.relative_to(root)}: {match[1]}{there}"
        for path, text in texts(root)
        for match in URL.finditer(text)
        if (there := match[2].removesuffix(".git")) != address
        and (PACKAGE in there.lower() or there.lower() == address.lower())
    ]


def change(root: Path, address: str) -> int:
    """Replace the address in every file and return how many files changed."""
    old = current(root)

    def renamed(match: re.Match[str]) -> str:
        return match[1] + address + match[2][len(old) :] if match[2].removesuffix(".git") == old else match[0]

    changed = 0
    for path, text in texts(root):
        new = URL.sub(renamed, text)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed += 1
    return changed


def main(address: str) -> int:
    """Change the address; one line says what was done or what is wrong."""
    if not REPO.fullmatch(address):
        print(f"make address: REPO={address!r} is not owner/name; example: REPO=ada/ddpm", file=sys.stderr)
        return 1
    print(f"make address: the repository is github.com/{address}; {change(ROOT, address)} files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
