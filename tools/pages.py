"""Check links inside the book and alt texts, in the sources: the fast half of what the site's tests check.

python -m tools.pages
"""

import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tools.sync import read_notebook, toc_files

CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)[^)]*\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(|<img\b(?![^>]*\balt=\"[^\"]+\")")
# `$$ … $$ (eq-name)` and `(name)=`; headings count as well.
LABEL = re.compile(r"\$\$\s*\(([\w-]+)\)|^\(([\w-]+)\)=\s*$|\bid=\"([\w-]+)\"", re.M)


def cells(path: Path) -> list[Any]:
    return list(read_notebook(path).cells) if path.suffix == ".ipynb" else []


def prose(path: Path) -> str:
    """The Markdown of a page."""
    if path.suffix == ".ipynb":
        return "\n\n".join(
            cell.source for cell in cells(path) if cell.cell_type == "markdown"
        )
    return path.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The labels of a page, as a link writes them; headings are none, for the site gives them other names."""
    return {name for match in LABEL.findall(text) for name in match if name}


def faults(root: Path) -> list[str]:
    """Every dead link and every picture without alt text, one line each."""
    files = [
        path
        for page in toc_files(root)
        for path in (root / f"{page}.ipynb", root / f"{page}.md")
        if path.exists()
    ]
    texts = {path: prose(path) for path in files}
    known = {path: anchors(text) for path, text in texts.items()}
    everywhere = {name for names in known.values() for name in names}
    found = []
    for path, text in texts.items():
        plain = CODE.sub("", text)
        name = path.relative_to(root)
        for target in LINK.findall(plain):
            file, _, anchor = unquote(target).partition("#")
            if re.match(r"[a-z]+:", target):
                continue  # another site; `make test` must not need the network
            there = [
                path.parent / f"{file}{suffix}" for suffix in ("", ".ipynb", ".md")
            ]
            page = next((option for option in there if file and option.is_file()), None)
            # Without a file, an equation's label is found on any page.
            names = known.get(page, set()) if page else everywhere
            if (file and page is None) or (anchor and anchor not in names):
                found.append(f"{name}: dead link {target}")
        found += [
            f"{name}: a picture without alt text in the prose"
            for match in PICTURE.finditer(plain)
            if not (match[1] or "").strip()
        ]
        for number, cell in enumerate(cells(path), start=1):
            kinds = {
                kind
                for output in cell.get("outputs", [])
                for kind in output.get("data", {})
            }
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if (
                any(kind.startswith("image/") for kind in kinds)
                and len(alt.split()) < 3
            ):
                found.append(
                    f"{name}: the picture of cell {number} has no alt text worth the name"
                )
    return found


def main() -> int:
    """Print the faults."""
    found = faults(Path.cwd())
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
