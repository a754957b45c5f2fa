"""One command at a time in a folder, and a folder in another's place: whatever kills a process, and when."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import dinov3.defect_folders as folders
from dinov3.defect_errors import DefectError, run_script
from dinov3.defect_folders import LOCK, OWNER, FolderLock
from dinov3.defect_interrupts import signals_held
from dinov3.defect_replace import UnfinishedFolder, remove_leftovers, restore

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no such processes there")


def forked(work: Callable[[], None]) -> int:
    """A process that does ``work`` and ends with status 0; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(0)


def holding(folder: Path, until: float = 60.0) -> int:
    def hold() -> None:
        with FolderLock(folder, "train_defect_model.py"):
            (folder / "held").touch()
            time.sleep(until)

    pid = forked(hold)
    while not (folder / "held").exists():
        time.sleep(0.01)
    return pid


def test_the_second_is_told_who_is_there(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "out", "inference_defect_model.py"), pytest.raises(DefectError) as error:
        FolderLock(tmp_path / "out", "another").__enter__()
    for part in (str(tmp_path / "out"), "inference_defect_model.py", f"process {os.getpid()}", socket.gethostname()):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []  # nothing stays behind
    with FolderLock(tmp_path / "out", "another"):
        pass


@forks
def test_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    pid = holding(tmp_path)
    with pytest.raises(DefectError, match=rf"train_defect_model\.py \(process {pid} on"):
        FolderLock(tmp_path, "another").__enter__()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with FolderLock(tmp_path, "another"):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()


@forks
@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_share_without_locks(tmp_path: Path, monkeypatch, host: str) -> None:
    """A file says who is there; of a process of this host one can tell whether it is gone."""

    def none_there(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.FileLock, "acquire", none_there)
    if host == "elsewhere":
        monkeypatch.setattr(socket, "gethostname", lambda: "line-7")
    pid = holding(tmp_path)
    with pytest.raises(DefectError, match=f"process {pid} on {'line-7' if host == 'elsewhere' else ''}"):
        FolderLock(tmp_path, "another").__enter__()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    monkeypatch.undo()
    monkeypatch.setattr(folders.FileLock, "acquire", none_there)
    if host == "elsewhere":
        with pytest.raises(DefectError, match=f"line-7.*If it is gone, remove .*{LOCK}"):
            FolderLock(tmp_path, "another").__enter__()
    else:
        with FolderLock(tmp_path, "another"):
            pass


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DefectError, match="out: cannot be written"):
        FolderLock(tmp_path / "out", "a command").__enter__()


def made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "text").write_text(text)
    return folder


def replace(place: Path, hook: Callable[[], None] = lambda: None) -> None:
    """Put 'new' in the place of what is there; ``hook`` is called between the two renames."""
    unfinished = UnfinishedFolder(place, place.parent, "a command")
    (unfinished.path / "text").write_text("new")
    rename, names = Path.rename, []

    def noted(path: Path, target: Path) -> Path:
        if names:
            hook()
        names.append(target)
        return rename(path, target)

    Path.rename = noted
    try:
        unfinished.move()
    finally:
        Path.rename = rename


def test_a_folder_is_replaced_without_a_trace(tmp_path: Path) -> None:
    place = made(tmp_path / "data", "old")
    replace(place)
    assert os.listdir(tmp_path) == ["data"] and os.listdir(place) == ["text"]
    assert (place / "text").read_text() == "new"


@forks
def test_killed_between_the_two_renames_the_old_one_comes_back(tmp_path: Path) -> None:
    place = made(tmp_path / "da[t]a", "old")
    pid = forked(lambda: replace(place, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    os.waitpid(pid, 0)
    assert not place.exists()
    remove_leftovers(place, tmp_path)
    assert (place / "text").read_text() == "old" and os.listdir(tmp_path) == [place.name]


@forks
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_the_two_renames_waits(tmp_path: Path, number: int) -> None:
    place = made(tmp_path / "data", "old")

    def work() -> None:
        run_script(lambda: replace(place, lambda: os.kill(os.getpid(), number)))

    pid = os.fork()
    if not pid:
        try:
            work()
        except SystemExit as end:
            os._exit(end.code)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] >> 8 == 128 + number
    assert (place / "text").read_text() == "new"
    remove_leftovers(place, tmp_path)
    assert os.listdir(tmp_path) == ["data"]


@forks
def test_what_others_are_at_work_on_stays(tmp_path: Path) -> None:
    place, ready = tmp_path / "data", tmp_path / "ready"

    def work() -> None:
        unfinished = UnfinishedFolder(place, tmp_path, "a command")
        ready.touch()
        time.sleep(60)
        unfinished.remove()

    pid = forked(work)
    while not ready.exists():
        time.sleep(0.01)
    remove_leftovers(place, tmp_path)
    (found,) = tmp_path.glob(".data-unfinished-*")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    remove_leftovers(place, tmp_path)
    assert not found.exists()


def test_only_folders_of_that_name_are_leftovers(tmp_path: Path) -> None:
    mine = [
        ".data-unfinished-notes",
        ".data2-unfinished-abcd1234",
        "data-unfinished-abcd1234",
        ".data-unfinished-ABCD1234",
    ]
    for name in mine:
        (tmp_path / name).mkdir()
    assert not restore(tmp_path / "data")
    remove_leftovers(tmp_path / "data", tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(mine)


def test_a_held_signal_comes_afterwards() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            steps.append("both done")
    assert steps == ["both done"]
