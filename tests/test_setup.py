"""The set-up says what is wrong in one line, recovers from an interruption, and can be quick.

A fake Python stands in for the real one, so that nothing is downloaded: `-m venv` makes a folder,
pip does what the file `pip.sh` says.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, run

FAKE_PYTHON = """\
#!/bin/sh
# Called as: python -c CODE, python -m venv .venv, python -m pip ...
here={root}
echo "$@" >> "$here/calls"
case "$1 $2" in
  "-m venv") . "$here/venv.sh"; mkdir -p .venv/bin; cp "$here/python" .venv/bin/python ;;
  "-m pip") . "$here/pip.sh" ;;
  "-c "*)
    [ ! -e "$here/missing" ] || case "$2" in *$(cat "$here/missing")*) exit 1 ;; esac
    echo {version} ;;
esac
"""


class House:
    """A small checkout with a fake Python."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "tools").mkdir()
        shutil.copy(ROOT / "tools/setup_env.py", root / "tools")
        shutil.copy(ROOT / "Makefile", root)
        (root / "requirements.txt").write_text("")
        (root / "pyproject.toml").write_text('[project]\nname = "x"\n')
        (root / "venv.sh").write_text("")
        (root / "pip.sh").write_text("")
        python = root / "python"
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        python.write_text(FAKE_PYTHON.format(root=root, version=version))
        python.chmod(0o755)

    def setup(self, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the tool as the Makefile does, with the fake Python underneath."""
        code = "import setup_env, sys; sys.exit(setup_env.main(python={!r}))"
        env = {"CI": "", "PYTHONPATH": str(self.root / "tools"), **env}
        command = [sys.executable, "-c", code.format(str(self.root / "python"))]
        return run(command, self.root, **env)

    def make(self, python: str, path: Path) -> subprocess.CompletedProcess[str]:
        """`make setup` with that Python, and the others that are on the path."""
        command = [str(shutil.which("make")), "setup", f"PYTHON={python}"]
        # These tests may run under make themselves; this one is nobody's child.
        alone = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": "0"}
        return run(command, self.root, PATH=str(path), **alone)

    def calls(self) -> list[str]:
        """What the fake Python was asked for since the last look."""
        file = self.root / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if "pip install" in call]


def test_first_run_makes_the_environment_and_the_second_reuses_it(house: House) -> None:
    first = house.setup()
    assert first.returncode == 0, first.stderr
    requirements, package = installs(house.calls())
    assert requirements.endswith("-r requirements.txt")
    assert package.endswith("--editable .")
    assert "--no-deps" in package
    start = time.perf_counter()
    second = house.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert house.calls() == []
    assert time.perf_counter() - start < 10  # nothing was installed; measured: 0.1 s


@pytest.mark.parametrize(
    ("file", "text", "renewed"),
    [
        ("requirements.txt", "einops==0.8.2\n", True),
        ("pyproject.toml", '[project]\nname = "x"\ndependencies = ["torch"]\n', True),
        (
            "pyproject.toml",
            '[project]\nname = "x"\n[tool.ruff]\nline-length = 90\n',
            False,
        ),
    ],
)
def test_changed_requirements_renew_it_in_place(
    house: House, file: str, text: str, renewed: bool
) -> None:
    house.setup()
    house.calls()
    (house.root / file).write_text(text)
    assert house.setup().returncode == 0
    calls = house.calls()
    assert bool(installs(calls)) is renewed
    assert not any("venv" in call for call in calls)


@pytest.mark.parametrize("renewed", [False, True])
def test_interrupted_install_starts_afresh(house: House, renewed: bool) -> None:
    if renewed:
        house.setup()
        (house.root / "requirements.txt").write_text("einops==0.8.2\n")
    (house.root / "pip.sh").write_text("touch .venv/half; kill -9 $PPID; exit 1")
    assert house.setup().returncode != 0
    assert (house.root / ".venv/half").exists()
    (house.root / "pip.sh").write_text("")
    assert house.setup().returncode == 0
    assert not (house.root / ".venv/half").exists()
    assert any("-m venv" in call for call in house.calls())


def test_half_made_folder_is_replaced(house: House) -> None:
    (house.root / ".venv/bin").mkdir(parents=True)
    (house.root / ".venv/bin/python").write_text("not a program")
    assert house.setup().returncode == 0
    assert any("-m venv" in call for call in house.calls())


def test_somebodys_own_environment_is_completed_not_emptied(house: House) -> None:
    (house.root / ".venv/bin").mkdir(parents=True)
    shutil.copy(house.root / "python", house.root / ".venv/bin/python")
    (house.root / ".venv/precious").write_text("")
    assert house.setup().returncode == 0
    assert (house.root / ".venv/precious").exists()
    assert len(installs(house.calls())) == 2


def test_somebodys_own_environment_that_does_not_fit_is_left_alone(
    house: House,
) -> None:
    (house.root / ".venv/bin").mkdir(parents=True)
    other = house.root / ".venv/bin/python"
    other.write_text('#!/bin/sh\n[ -z "$2" ]\n')  # starts, and has no pip
    other.chmod(0o755)
    (house.root / ".venv/precious").write_text("")
    result = house.setup()
    assert result.returncode != 0
    assert ".venv is not ours" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (house.root / ".venv/precious").exists()


def test_copied_checkout_gets_its_own_environment(house: House, tmp_path: Path) -> None:
    house.setup()
    stamp = house.root / ".venv/ddpm_nb.json"
    stamp.write_text(
        json.dumps({**json.loads(stamp.read_text()), "root": "/elsewhere"})
    )
    house.calls()
    assert house.setup().returncode == 0
    assert any("-m venv" in call for call in house.calls())


@pytest.mark.parametrize(
    ("file", "script", "expected"),
    [
        (
            "pip.sh",
            "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1",
            "no space left",
        ),
        (
            "venv.sh",
            "echo 'OSError: [Errno 28] No space left' >&2; exit 1",
            "no space left",
        ),
        (
            "pip.sh",
            "echo 'OSError: [Errno 122] Disk quota exceeded' >&2; exit 1",
            "no space left",
        ),
        (
            "pip.sh",
            "echo 'WARNING: Retrying after NewConnectionError: [Errno 101] unreachable' >&2;"
            "echo 'ERROR: No matching distribution found for torch' >&2; exit 1",
            "no network",
        ),
        (
            "pip.sh",
            "echo 'Temporary failure in name resolution' >&2; exit 1",
            "no network",
        ),
        ("missing", "ensurepip", "no ensurepip module"),
        ("missing", "import venv", "no venv module"),
    ],
)
def test_trouble_is_one_clear_line(
    house: House, file: str, script: str, expected: str
) -> None:
    (house.root / file).write_text(script)
    result = house.setup()
    assert result.returncode == 1
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    # Put right, the same command works.
    (house.root / file).write_text("nothing" if file == "missing" else "")
    assert house.setup().returncode == 0


def test_unknown_trouble_shows_the_tools_own_words(house: House) -> None:
    (house.root / "pip.sh").write_text("echo 'ERROR: Invalid requirement' >&2; exit 1")
    result = house.setup()
    assert result.returncode == 1
    assert "Invalid requirement" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def pinned(house: House) -> House:
    """A house whose pip brings a fake uv."""
    (house.root / "requirements.txt").write_text("# x\ntorch==1.0\nuv==2.0\n")
    (house.root / "pip.sh").write_text(
        'case "$*" in *uv==2.0) cp "$here/uv" .venv/bin/ ;; esac'
    )
    (house.root / "uv").write_text(f'#!/bin/sh\necho uv "$@" >> {house.root}/calls\n')
    (house.root / "uv").chmod(0o755)
    return house


only_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere torch has no CUDA"
)


@only_linux
@pytest.mark.parametrize("reached", [True, False])
def test_torch_for_this_machine_comes_first_where_uv_gets_it(
    pinned: House, reached: bool
) -> None:
    if not reached:
        with (pinned.root / "uv").open("a") as file:
            file.write("echo 'error: Failed to fetch' >&2; exit 2\n")
    result = pinned.setup()
    assert (result.returncode, result.stderr) == (0, "")
    uv, torch, requirements, package = installs(pinned.calls())
    assert uv.endswith("uv==2.0")
    assert torch.endswith("--torch-backend=auto --no-deps torch==1.0")
    assert requirements.endswith("-r requirements.txt")
    assert package.endswith("--editable .")


@only_linux
@pytest.mark.parametrize("said", ["global.index-url='x'", ":env:.find-links='x'"])
def test_a_pip_that_is_set_up_takes_its_own_torch(pinned: House, said: str) -> None:
    (pinned.root / "pip.sh").write_text(f'case "$*" in *config*) echo "{said}" ;; esac')
    assert pinned.setup().returncode == 0
    requirements, _ = installs(pinned.calls())
    assert requirements.endswith("-r requirements.txt")


def test_a_robot_installs_what_was_locked_to_the_byte(pinned: House) -> None:
    (pinned.root / "pip.sh").write_text("case $3 in config) exit 1 ;; esac")
    assert pinned.setup(CI="true").returncode == 0
    torch, lock, _ = installs(pinned.calls())
    assert torch.endswith("torch==1.0")
    assert lock.endswith("--no-deps --require-hashes -r requirements.lock")


@pytest.mark.fast
def test_both_locks_say_the_same() -> None:
    """requirements.txt fits any machine; requirements.lock has a hash for everything but torch."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins)
    names = [pin.partition("==")[0] for pin in pins]
    assert names == sorted(set(names))
    assert not [name for name in names if re.match("nvidia|cuda|triton", name)]
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    hashed = [line.split() for line in lock if not line.startswith("#")]
    assert [pin for pin, *_ in hashed] == [p for p in pins if p[:7] != "torch=="]
    for _, *hashes in hashed:
        assert hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", h) for h in hashes)


def test_old_python_says_what_is_needed(house: House) -> None:
    old = house.root / "old"
    then = "import sys; sys.version_info = (3, 10, 9)"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.9 || exec {sys.executable} -c "{then}; $2"\n'
    )
    old.chmod(0o755)
    result = house.make(str(old), Path("/nowhere"))
    assert result.returncode != 0
    line, _ = result.stderr.strip().splitlines()  # the second is make's own
    assert "3.11" in line
    assert "3.10.9" in line


def test_old_python_hands_over_to_a_newer_one(house: House) -> None:
    """A broken candidate is passed over; the next one gets the script."""
    folder = house.root / "path"
    folder.mkdir()
    for name, script in [
        ("python3.13", "exit 127"),
        ("python3.12", 'case "$1" in -c) exit 0 ;; esac; echo "handed over: $1"'),
    ]:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    result = house.make("python-nowhere", folder)
    assert result.stdout == "handed over: tools/setup_env.py\n"


@pytest.mark.parametrize("name", ["python2.7", "python3.6", "python3.8"])
def test_a_real_old_python(house: House, name: str) -> None:
    """Where one is installed, it must say what is needed in one line."""
    python = shutil.which(name)
    if (
        python is None
        or subprocess.run([python, "-c", ""], capture_output=True).returncode
    ):
        pytest.skip(f"no {name} here")
    result = house.make(python, Path("/nowhere"))
    assert result.returncode != 0
    assert f"{python} is Python {name.removeprefix('python')}" in result.stderr
