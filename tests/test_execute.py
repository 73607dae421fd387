"""Chapters run two at a time (`tools.execute`): in order, one line each, and the first failure ends it."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import execute

PATHS = [Path(f"book/{name}.ipynb") for name in ("long", "middle", "short", "last")]


@pytest.fixture(autouse=True)
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The seconds of earlier runs are kept elsewhere."""
    monkeypatch.setattr(execute, "SECONDS", tmp_path / "build" / "seconds.json")
    return tmp_path / "build" / "seconds.json"


def failing(*names: str, begun: list[str]) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        begun.append(path.stem)
        if path.stem in names:
            raise execute.ChapterError("cell 1 raised")
        time.sleep(
            0.2
        )  # a chapter takes its time: what waits behind it can be called off

    return work


def test_two_chapters_run_at_a_time_and_no_more() -> None:
    """Each of a pair waits for the other: one after the other they would wait forever."""
    pair, at_work, most = threading.Barrier(2), [0], [0]
    lock = threading.Lock()

    def work(path: Path) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        pair.wait(timeout=20)
        with lock:
            at_work[0] -= 1

    assert execute.each(PATHS, work, workers=2) == []
    assert most[0] == 2


def test_chapters_begin_in_the_order_that_was_asked_for(stored: Path) -> None:
    begun: list[str] = []
    assert execute.each(PATHS, failing(begun=begun)) == []
    assert begun == ["long", "middle", "short", "last"]
    assert json.loads(stored.read_text()).keys() == {*begun}


def test_the_first_failure_ends_it_and_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []
    assert execute.each(PATHS, failing("middle", begun=begun)) == ["middle"]
    assert "last" not in begun
    said = capsys.readouterr().out
    assert "[2/4] middle failed\nchapter middle: cell 1 raised" in said


def test_where_it_goes_on_all_run_and_all_failures_are_named() -> None:
    begun: list[str] = []
    assert execute.each(PATHS, failing("long", "short", begun=begun), goes_on=True) == [
        "long",
        "short",
    ]
    assert begun == ["long", "middle", "short", "last"]


def test_each_line_says_what_is_still_to_come_and_for_how_long(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.parent.mkdir()
    stored.write_text(json.dumps({"long": 1, "middle": 30, "short": 20, "last": 10}))
    execute.each(PATHS, lambda path: None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1/4] long 0.")
    assert lines[0].endswith("(still middle, short, last, about 60 s)")
    assert lines[3] == "[4/4] last 0.0 s"
    # Two at a time take half as long; a chapter that never ran here leaves the time open.
    assert execute.still(
        ["middle", "last"], {"middle": 30.0, "last": 10.0}, 2
    ).endswith("about 20 s)")
    assert (
        execute.still(["middle", "new"], {"middle": 30.0}, 2) == " (still middle, new)"
    )
