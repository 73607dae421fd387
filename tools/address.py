"""Set the repository's address everywhere, or find where another one stands.

    python tools/address.py owner/name

The address is defined in pyproject.toml ([project.urls] Repository). Chapters, _config.yml,
README.md and others repeat it.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ddpm_nb"
# GitHub's rules: an owner has letters, digits and single inner hyphens; a name also has dots and
# underscores.
REPO = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/[\w.-]{1,100}", re.ASCII)
# github.com/…, colab.research.google.com/github/…, raw.githubusercontent.com/…
URL = re.compile(
    r"(github\.com/|/github/|githubusercontent\.com/)([\w-]+/[\w.-]*[\w-])", re.ASCII
)


def current(root: Path) -> str:
    """The address as owner/name, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return str(project["urls"]["Repository"]).removeprefix("https://github.com/")


def texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Every text file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        command, cwd=root, check=True, capture_output=True
    ).stdout.decode()
    for name in sorted(set(filter(None, names.split("\0")))):
        try:
            yield root / name, (root / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, or deleted and not yet committed


def strays(root: Path) -> list[str]:
    """Addresses that look like this repository's and are not, as `file: address`.

    Neither the owner nor the name alone says "ours": the owner has other repositories, and others
    use the same name.
    """
    address = current(root)
    found = []
    for path, text in texts(root):
        for match in URL.finditer(text):
            there = match[2].removesuffix(".git")
            ours = PACKAGE in there.lower() or there.lower() == address.lower()
            if ours and there != address:
                found.append(f"{path.relative_to(root)}: {match[1]}{there}")
    return found


def change(root: Path, address: str) -> int:
    """Replace the address in every file and return how many files changed."""
    old = current(root)

    def replace(match: re.Match[str]) -> str:
        git = ".git" if match[2].endswith(".git") else ""
        return (
            match[1] + address + git
            if match[2].removesuffix(".git") == old
            else match[0]
        )

    changed = 0
    for path, text in texts(root):
        new = URL.sub(replace, text)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed += 1
    return changed


def main(arguments: list[str]) -> int:
    """Change the address; one line says what was done or what is wrong."""
    address = arguments[0] if len(arguments) == 1 else ""
    if not REPO.fullmatch(address) or address.endswith((".git", "/.", "/..")):
        print(
            f"make address: REPO={address!r} is not owner/name; example: REPO=ada/ddpm",
            file=sys.stderr,
        )
        return 1
    changed = change(ROOT, address)
    print(
        f"make address: the repository is github.com/{address}; {changed} files changed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
