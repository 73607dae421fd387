"""Build the files of a release and look at what is in them: python -m tools.package [TAG]."""

import shutil
import subprocess
import sys
import tarfile
import zipfile

import ddpm_nb
from tools.book import ROOT, chapters, files

OUT, SOURCE = ROOT / "_build" / "package", ROOT / "_build" / "package-source"


def main(tag: str) -> str:
    """Build both files from a copy of what git tracks, and say what went wrong, if anything did."""
    if tag and tag != f"v{ddpm_nb.__version__}":
        return f"the tag is {tag}, the package is {ddpm_nb.__version__}"
    for folder in (OUT, SOURCE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in files(ROOT, new=False):
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, SOURCE / name)
    # The build tool is pinned in requirements.txt: nothing is downloaded, as in the set-up.
    for kind in ("sdist", "wheel"):
        build = f"from setuptools.build_meta import build_{kind} as build; build({str(OUT)!r})"
        command = [sys.executable, "-c", build]
        result = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
        if result.returncode:
            return result.stderr[-2000:]
    with zipfile.ZipFile(next(OUT.glob("*.whl"))) as wheel, tarfile.open(next(OUT.glob("*.tar.gz"))) as archive:
        inside = set(wheel.namelist())
        inside_source = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"ddpm_nb/py.typed", *(f"ddpm_nb/{name}.py" for name in chapters(ROOT))}
    wanted |= {f"ddpm_nb/weights/{path.name}" for path in (ROOT / "book/weights").iterdir()}
    if missing := (wanted - inside) | ({"pyproject.toml", "LICENSE"} - inside_source):
        return f"not in the package: {', '.join(sorted(missing))}"
    sizes = [f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(OUT.iterdir())]
    print(f"make package: {', '.join(sizes)} in {OUT.relative_to(ROOT)}/")
    return ""


if __name__ == "__main__":
    fault = main(sys.argv[1] if len(sys.argv) > 1 else "")
    sys.exit(f"make package: {fault}" if fault else 0)
