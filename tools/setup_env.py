"""Make .venv, or renew it, or say in one line why that cannot be.

Written for any old Python (no f-strings, no annotations, no walrus): a Python that is too old must
be able to read this file, so that it can say which one is needed and show no syntax error.

The stamp .venv/ddpm_nb.json says for what the environment was installed. It is emptied before an
install and filled after it, so that an interrupted install is known as one and made afresh. A .venv
without any stamp is somebody's own: if it works, it is completed, never emptied.
"""

from __future__ import print_function

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

NEEDED = (3, 11)
# Newest first of those that the tests run on; 3.14 comes last because it is newer than those.
CANDIDATES = ["python3.13", "python3.12", "python3.11", "python3.14"]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

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


def dotted(version):
    return ".".join(str(part) for part in version)


def find_python():
    """The first candidate that runs and is new enough, or None."""
    test = "import sys; sys.exit(sys.version_info[:2] < ({0}, {1}))".format(*NEEDED)
    for name in CANDIDATES:
        with open(os.devnull, "w") as quiet:
            try:
                if subprocess.call([name, "-c", test], stdout=quiet, stderr=quiet) == 0:
                    return name
            except OSError:
                pass
    return None


def wanted(root):
    """What the environment must be made for: its place, its Python, its requirements."""
    import tomllib

    with open(os.path.join(root, "requirements.txt"), "rb") as file:
        inputs = hashlib.sha256(file.read())
    with open(os.path.join(root, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)
    # Only what an install depends on: a changed lint rule must not renew the environment.
    build = [
        project.get("build-system"),
        project.get("project"),
        project.get("tool", {}).get("setuptools"),
    ]
    inputs.update(json.dumps(build, sort_keys=True).encode())
    # The place counts: scripts in a copied .venv point at the old place, and so does the package.
    return {
        "root": os.path.realpath(root),
        "python": dotted(sys.version_info[:2]),
        "inputs": inputs.hexdigest(),
    }


def read_stamp(root):
    """What .venv was installed for; {} after an interrupted install, None where this tool made nothing."""
    try:
        with open(stamp_file(root)) as file:
            stamp = json.load(file)
    except ValueError:
        return {}
    except EnvironmentError:
        return None
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(root, stamp):
    # Under another name first: a full disk or a power cut never leaves half a stamp.
    with open(stamp_file(root) + ".new", "w") as file:
        json.dump(stamp, file, indent=1, sort_keys=True)
    os.rename(stamp_file(root) + ".new", stamp_file(root))


def stamp_file(root):
    return os.path.join(root, ".venv", "ddpm_nb.json")


def run(command, root, what):
    """Run a command with its progress in sight; its errors are kept, to be told in one line."""
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE)
    errors = process.communicate()[1].decode("utf-8", "replace").strip()
    if process.returncode == 0:
        return
    # ensurepip hides why it failed, so the disk itself is asked too.
    if NO_SPACE.search(errors) or shutil.disk_usage(root).free < 10**6:
        raise Trouble(
            "no space left on the disk for {0}: free some (2 GB, or 8 GB where torch comes "
            "with CUDA), in .venv and in the folder for temporary files".format(what)
        )
    if NO_NETWORK.search(errors):
        raise Trouble(
            "no network for {0}: pip cannot reach its package registry; run the same command again when it can".format(
                what
            )
        )
    if errors:  # Unknown: the tool's own words help more than ours.
        print("\n".join(errors.splitlines()[-15:]), file=sys.stderr)
    raise Trouble("{0} failed (its last words are above)".format(what))


def version_of_pip(python):
    """The Python version of a working environment with pip, or None."""
    command = [python, "-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL).decode().strip()
    except (EnvironmentError, subprocess.CalledProcessError):
        return None


def runs(python):
    """Is this a Python that starts?"""
    try:
        return subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0
    except EnvironmentError:
        return False


def install(root, python, stamp):
    """Bring .venv to what the stamp says."""
    venv = os.path.join(root, ".venv")
    in_venv = os.path.join(venv, "bin", "python")
    old = read_stamp(root)
    if old is None:
        usable = version_of_pip(in_venv) == stamp["python"]
        if not usable and runs(in_venv):
            raise Trouble(
                ".venv is not ours, and has no pip or another Python than {0}: move it away, "
                "or say which Python it has: make PYTHON=/path/to/it".format(stamp["python"])
            )
    else:
        usable = [old.get("root"), old.get("python")] == [
            stamp["root"],
            stamp["python"],
        ]
    if usable and os.path.exists(in_venv):
        print("setup: bringing .venv up to date with requirements.txt", flush=True)
    else:
        print("setup: making .venv with Python " + stamp["python"], flush=True)
        for module in ("venv", "ensurepip"):
            if subprocess.call([python, "-c", "import " + module], stderr=subprocess.DEVNULL) != 0:
                raise Trouble(
                    "Python {0} has no {1} module: install it (Debian, Ubuntu: apt install python{0}-venv)".format(
                        stamp["python"], module
                    )
                )
        if os.path.exists(venv):
            shutil.rmtree(venv)
        os.mkdir(venv)
        write_stamp(root, {})
        run([python, "-m", "venv", ".venv"], root, "making .venv")
    write_stamp(root, {})
    pip = [in_venv, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    run(pip + ["-r", "requirements.txt"], root, "installing requirements.txt")
    # The build tool is pinned in requirements.txt like everything else: nothing more to download.
    package = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", "."]
    run(pip + package, root, "installing ddpm_nb")
    write_stamp(root, stamp)
    print("setup: .venv is ready", flush=True)


def main(root=ROOT, version=sys.version_info[:3], python=None):
    if tuple(version[:2]) < NEEDED:
        newer = find_python()
        if newer:
            os.execvp(newer, [newer, os.path.abspath(__file__)])
        print(
            "setup: Python {0} or newer is needed; {1} is {2}, and no newer one is on the PATH. "
            "If you have one elsewhere: make PYTHON=/path/to/it".format(
                dotted(NEEDED), sys.executable, dotted(version)
            ),
            file=sys.stderr,
        )
        return 1
    try:
        stamp = wanted(root)
        if read_stamp(root) != stamp or not os.path.exists(os.path.join(root, ".venv", "bin", "python")):
            # The Python beneath: this one may live in the very .venv that is about to be emptied.
            install(root, python or getattr(sys, "_base_executable", sys.executable), stamp)
    except Trouble as trouble:
        print("setup: {0}".format(trouble), file=sys.stderr)
        return 1
    except OSError as error:
        if NO_SPACE.search(str(error)):
            print("setup: no space left on the disk for .venv", file=sys.stderr)
        else:
            print("setup: {0}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the next run starts it again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
