"""Make .venv, or renew it, or say in one line why that cannot be.

The stamp .venv/ddpm_nb.json says for what the environment was installed. It is emptied before an install and filled
after it, so that an interrupted install is known as one and made afresh. A .venv without any stamp is somebody's own:
if it works, it is completed, never emptied.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VERSION = "{}.{}".format(*sys.version_info)

NO_SPACE = re.compile(r"No space left|Errno 28\b|Disk quota exceeded|Errno 122\b", re.I)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ConnectionResetError|ReadTimeoutError"
    r"|Failed to establish a new connection|name resolution|Name or service not known"
    r"|nodename nor servname|Network is unreachable|Connection refused|Connection broken"
    r"|Read timed out|ProxyError|IncompleteRead",
    re.I,
)


class Trouble(Exception):
    """What went wrong, in one line for the reader."""


def wanted(root: Path) -> dict[str, Any]:
    """What the environment must be made for: its place, its Python, its requirements."""
    inputs = hashlib.sha256((root / "requirements.txt").read_bytes())
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    # Only what an install depends on: a changed lint rule must not renew the environment.
    build = [project.get("build-system"), project.get("project"), project.get("tool", {}).get("setuptools")]
    inputs.update(json.dumps(build, sort_keys=True).encode())
    # The place counts: scripts in a copied .venv point at the old place, and so does the package.
    return {"root": str(root.resolve()), "python": VERSION, "inputs": inputs.hexdigest()}


def read_stamp(stamp: Path) -> dict[str, Any] | None:
    """What .venv was installed for; {} after an interrupted install, None where this tool made nothing."""
    try:
        return dict(json.loads(stamp.read_text()))
    except ValueError:
        return {}
    except OSError:
        return None


def write_stamp(stamp: Path, content: dict[str, Any]) -> None:
    # Under another name first: a full disk or a power cut never leaves half a stamp.
    new = stamp.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(stamp)


def asked(*command: str) -> str | None:
    """What a command says, or None if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run(root: Path, what: str, *command: str) -> None:
    """Run a command with its progress in sight; its errors are kept, to be told in one line."""
    result = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, check=False)
    if result.returncode == 0:
        return
    errors = result.stderr.decode("utf-8", "replace").strip()
    # ensurepip hides why it failed, so the disk itself is asked too.
    if NO_SPACE.search(errors) or shutil.disk_usage(root).free < 10**6:
        raise Trouble(
            f"no space left on the disk for {what}: free some (2 GB, or 8 GB where torch comes with CUDA), "
            "in .venv and in the folder for temporary files"
        )
    if NO_NETWORK.search(errors):
        raise Trouble(
            f"no network for {what}: pip cannot reach its package registry; run the same command again when it can"
        )
    print("\n".join(errors.splitlines()[-15:]), file=sys.stderr)  # unknown: the tool's own words help more than ours
    raise Trouble(f"{what} failed (its last words are above)")


def torch_for_this_machine(root: Path, python: str, pins: dict[str, str]) -> None:
    """Where there is no GPU, torch without CUDA, 5 GB less: uv knows where it is.

    pip takes the build that it is set up for, where it is set up for any, and where uv does not get one.
    """
    set_up = asked(python, "-m", "pip", "config", "list")
    if (
        sys.platform != "linux"
        or not {"torch", "uv"} <= set(pins)
        or set_up is None
        or re.search("index|find-links", set_up)
    ):
        return
    run(root, "installing uv", python, "-m", "pip", "install", "--quiet", f"uv=={pins['uv']}")
    uv = [str(Path(python).with_name("uv")), "pip", "install", "--python", python, "--torch-backend=auto", "--no-deps"]
    env = {**os.environ, "UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "0"}
    subprocess.run([*uv, f"torch=={pins['torch']}"], cwd=root, env=env, stderr=subprocess.DEVNULL, check=False)


def install(root: Path, python: str, content: dict[str, Any]) -> None:
    """Bring .venv to what the stamp says."""
    venv = root / ".venv"
    inside, stamp = str(venv / "bin/python"), venv / "ddpm_nb.json"
    old = read_stamp(stamp)
    if old is None:
        usable = asked(inside, "-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])") == VERSION
        if not usable and asked(inside, "-c", "") is not None:
            raise Trouble(
                f".venv is not ours, and has no pip or another Python than {VERSION}: move it away, "
                "or say which Python it has: make PYTHON=/path/to/it"
            )
    else:
        usable = Path(inside).exists() and all(old.get(key) == content[key] for key in ("root", "python"))
    if usable:
        print("setup: bringing .venv up to date with requirements.txt", flush=True)
    else:
        print(f"setup: making .venv with Python {VERSION}", flush=True)
        for module in ("venv", "ensurepip"):
            if asked(python, "-c", f"import {module}") is None:
                hint = f"install it (Debian, Ubuntu: apt install python{VERSION}-venv)"
                raise Trouble(f"Python {VERSION} has no {module} module: {hint}")
        shutil.rmtree(venv, ignore_errors=True)
        venv.mkdir()
        write_stamp(stamp, {})
        run(root, "making .venv", python, "-m", "venv", ".venv")
    write_stamp(stamp, {})
    pip = [inside, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (root / "requirements.txt").read_text(), re.M))
    torch_for_this_machine(root, inside, pins)
    if os.environ.get("CI") and "torch" in pins:
        # Nothing but what was locked, to the byte; torch comes first, in whichever build.
        run(root, "installing torch", *pip, f"torch=={pins['torch']}")
        run(root, "installing requirements.lock", *pip, "--no-deps", "--require-hashes", "-r", "requirements.lock")
    else:
        run(root, "installing requirements.txt", *pip, "-r", "requirements.txt")
    # The build tool is pinned in requirements.txt like everything else: nothing more to download.
    run(root, "installing ddpm_nb", *pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    write_stamp(stamp, content)
    print("setup: .venv is ready", flush=True)


def main(root: Path = ROOT, python: str | None = None) -> int:
    try:
        content = wanted(root)
        if read_stamp(root / ".venv/ddpm_nb.json") != content or not (root / ".venv/bin/python").exists():
            # The Python beneath: this one may live in the very .venv that is about to be emptied.
            install(root, python or str(getattr(sys, "_base_executable", sys.executable)), content)
    except Trouble as trouble:
        print(f"setup: {trouble}", file=sys.stderr)
        return 1
    except OSError as error:
        full = NO_SPACE.search(str(error))
        print(f"setup: {'no space left on the disk for .venv' if full else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the next run starts it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
