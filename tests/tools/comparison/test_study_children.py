"""Children of a study: signals reach them once, and they do not outlive it."""

import os
import signal
import sys
import threading
import time

import pytest

from tests.helpers.forks import start_child
from tools.comparison.children import Children, StudyStopped, last_line
from training.output_dir import lock_folder
from util.signals import EXIT_STOPPED

# Writes down the signals that it gets, and ends with code 75 soon after the first.
LISTENS = """
import os, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
print("ready", flush=True)
end = time.monotonic() + 15
while not got and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.3)
print(*got, flush=True)
sys.exit(75)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_for(condition, limit_s: float = 15) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def has(path, text: str) -> bool:
    return path.is_file() and text in path.read_text()


def test_what_a_child_said_last(tmp_path):
    folder = tmp_path / "new" / "seed_1"
    with Children() as children:
        assert children.run(python("print('all well')"), folder) == ""
        failing = python("import sys; print('x'); sys.exit('error: no data there\\n')")
        assert children.run(failing, folder) == "no data there"
        assert children.run(python("raise SystemExit(3)"), folder) == "exit code 3"
        killed = python("import os; print('50 %', flush=True); os.kill(os.getpid(), 9)")
        assert children.run(killed, tmp_path / "other") == "ended by SIGKILL"
    assert (folder / "output.txt").read_text() == "all well\nx\nerror: no data there\n\n"
    assert last_line(folder / "output.txt", 9) == "no data there"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_once_and_nothing_is_started_after_it(tmp_path, number):
    output = tmp_path / "output.txt"

    def send() -> None:
        wait_for(lambda: has(output, "ready"))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=send)
    thread.start()
    with Children() as children:
        with pytest.raises(StudyStopped):
            children.run(python(LISTENS), tmp_path)
        with pytest.raises(StudyStopped):
            children.run(python("open('started', 'w')"), tmp_path / "next")
    thread.join()
    assert output.read_text().splitlines() == ["ready", signal.Signals(number).name]
    assert not (tmp_path / "next").exists()
    assert signal.getsignal(number) is before


def test_a_child_that_was_stopped_by_others_stops_the_study(tmp_path):
    with Children() as children, pytest.raises(StudyStopped):
        children.run(python(f"raise SystemExit({EXIT_STOPPED})"), tmp_path)


def test_a_child_of_a_killed_study_is_told_to_stop(tmp_path):
    output = tmp_path / "output.txt"

    def study() -> None:
        with Children() as children:
            children.run(python(LISTENS), tmp_path)

    pid, stderr = start_child(study)
    try:
        wait_for(lambda: has(output, "ready"))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(stderr)
    wait_for(lambda: has(output, "SIGTERM"))


def test_a_folder_is_waited_for(tmp_path, capsys, monkeypatch):
    """As long as another process trains into it; nothing else is waited for."""
    children = Children()
    children.wait_until_free(tmp_path / "nothing")
    children.wait_until_free(tmp_path)
    (tmp_path / ".lock").unlink()

    def trains() -> None:
        lock = lock_folder(tmp_path)
        (tmp_path / "trains").touch()
        wait_for(lambda: not (tmp_path / "trains").exists())
        time.sleep(0.2)
        (tmp_path / "saved").touch()
        lock.close()

    pid, stderr = start_child(trains)
    wait_for((tmp_path / "trains").exists)
    sleep = time.sleep

    def pause(seconds: float) -> None:
        (tmp_path / "trains").unlink(missing_ok=True)  # it waits: now the other one may end
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", pause)
    children.wait_until_free(tmp_path, pause=0.02)
    monkeypatch.undo()
    assert (tmp_path / "saved").exists()
    os.waitpid(pid, 0)
    os.close(stderr)
    said = capsys.readouterr().err
    assert said.count("waiting: ") == 1 and f"process {pid} on" in said


def test_who_waits_for_a_folder_can_be_stopped(tmp_path):
    def trains() -> None:
        lock = lock_folder(tmp_path)
        (tmp_path / "trains").touch()
        time.sleep(60)
        lock.close()

    pid, stderr = start_child(trains)
    try:
        wait_for((tmp_path / "trains").exists)
        with Children() as children, pytest.raises(StudyStopped):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            children.wait_until_free(tmp_path, pause=0.02)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(stderr)
