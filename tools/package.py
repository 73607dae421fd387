"""Build the files of a release and look at what is in them: python -m tools.package [TAG]."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import ddpm_nb
from tools.sync import chapters

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "_build" / "package"


def main(tag: str) -> int:
    """Build both files from a copy of what git tracks; refuse a tag that is not the version."""
    version = ddpm_nb.__version__
    if tag and tag != f"v{version}":
        print(
            f"make package: the tag is {tag}, the package is {version}", file=sys.stderr
        )
        return 1
    source = ROOT / "_build" / "package-source"
    for folder in (OUT, source):
        shutil.rmtree(folder, ignore_errors=True)
    OUT.mkdir(parents=True)
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    # The build tool is pinned in requirements.txt: nothing is downloaded, as in the set-up.
    for kind in ("sdist", "wheel"):
        build = f"from setuptools.build_meta import build_{kind} as build; build({str(OUT)!r})"
        result = subprocess.run(
            [sys.executable, "-c", build],
            cwd=source,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            print(result.stderr[-2000:], file=sys.stderr)
            return 1
    wheel = next(OUT.glob("*.whl"))
    with zipfile.ZipFile(wheel) as files:
        inside = set(files.namelist())
    wanted = {f"ddpm_nb/{name}.py" for name in chapters(ROOT)} | {"ddpm_nb/py.typed"}
    wanted |= {
        f"ddpm_nb/weights/{path.name}" for path in (ROOT / "book/weights").iterdir()
    }
    with tarfile.open(next(OUT.glob("*.tar.gz"))) as archive:
        inside_source = {name.partition("/")[2] for name in archive.getnames()}
    missing = sorted(
        (wanted - inside) | ({"pyproject.toml", "LICENSE"} - inside_source)
    )
    if missing:
        print(
            f"make package: not in the package: {', '.join(missing)}", file=sys.stderr
        )
        return 1
    sizes = ", ".join(
        f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)"
        for path in sorted(OUT.iterdir())
    )
    print(f"make package: {sizes} in {OUT.relative_to(ROOT)}/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
