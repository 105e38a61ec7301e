"""What the tests of the Python package share."""

import gc
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("programs")
# Long enough that only a hang reaches it, in seconds.
PATIENCE = 60


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request):
    """Each start method."""
    return request.param


@pytest.fixture
def ctx(method):
    """A context of each start method."""
    import broody

    return broody.get_context(method)


def eventually(condition, what="it"):
    """Waits until `condition()` is true; its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about in {PATIENCE} s"
        time.sleep(0.005)
    return value


def status(pid):
    """The letter for what a process does, and its parent; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    letter, parent = text.rpartition(")")[2].split()[:2]
    return letter, int(parent)


def processes():
    """What every process does: {pid: (letter, parent)}."""
    found = {int(name): status(name) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: what for pid, what in found.items() if what}


def descendants(pid):
    """The processes below `pid`."""
    all_of_them = processes()
    found, before = {pid}, set()
    while found != before:
        before = set(found)
        found |= {child for child, (_, parent) in all_of_them.items() if parent in before}
    return found - {pid}


def zombies(of):
    """The children of `of` that have ended and were not reaped."""
    return [pid for pid, (letter, parent) in processes().items() if parent == of and letter == "Z"]


def is_over(pid):
    """Whether a process is gone, or only waits to be reaped by somebody else."""
    what = status(pid)
    return what is None or what[0] in "ZX"


class Program:
    """A program of tests/python/programs, running."""

    def __init__(self, name, *arguments, **more):
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        self.pid = self.process.pid

    def line(self):
        """The next line that it writes."""
        return self.process.stdout.readline().strip()

    def end(self):
        """Waits for its end: exit code, the rest of its output, its errors."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE)


def dies_unaided(call, kind):
    """Whether what `call` raises, of the class `kind`, is gone when nobody has it any more, without the garbage collector."""
    gc.disable()
    try:
        with pytest.raises(kind) as raised:
            call()
        error = weakref.ref(raised.value)
        del raised
        return error() is None
    finally:
        gc.enable()


@pytest.fixture(autouse=True)
def nothing_left():
    """No test leaves a zombie or a file in shared memory behind."""
    names = set(os.listdir("/dev/shm"))
    yield
    eventually(lambda: not zombies(os.getpid()), "the end of the last zombie")

    def left():
        # Sockets of listeners may be those of other programs of broody's; test_connection.py looks for them.
        return {name for name in set(os.listdir("/dev/shm")) - names if name.startswith(("psm_", "wnsm_"))}

    # Programs that the test has started may just be ending.
    eventually(lambda: not left(), f"the end of {left()} in /dev/shm")
