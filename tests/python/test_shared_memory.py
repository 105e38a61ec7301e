"""Shared memory whose users die."""

import os
import signal
import struct
import subprocess
import sys

import pytest
from broody import connection, resource_tracker
from broody.shared_memory import ShareableList, SharedMemory
from conftest import PATIENCE, descendants, eventually, status


def is_there(name):
    return os.path.exists(f"/dev/shm/{name}")


class Running:
    """A program of its own that runs `code`."""

    def __init__(self, code, standard=False):
        env = dict(os.environ)
        if standard:
            env.pop("PYTHONPATH", None)
        package = "multiprocessing" if standard else "broody"
        code = f"import os, signal, sys\nimport {package} as mp\nfrom {package} import shared_memory\n{code}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid

    def line(self):
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE)


def make(conn):
    memory = SharedMemory(create=True, size=100)
    memory.buf[:5] = b"hello"
    memory.close()
    conn.send(memory.name)
    signal.pause()


def test_what_a_killed_process_has_made_is_its_programs(ctx):
    ours, theirs = connection.Pipe()
    child = ctx.Process(target=make, args=(theirs,), daemon=True)
    child.start()
    name = ours.recv()
    child.kill()
    child.join()
    memory = SharedMemory(name)
    assert bytes(memory.buf[:5]) == b"hello"
    memory.close()
    memory.unlink()
    assert not is_there(name)


def fill(memory):
    memory.buf[:] = b"x" * memory.size
    os.kill(os.getpid(), signal.SIGKILL)


def test_who_is_killed_with_it_takes_nothing_along(ctx):
    memory = SharedMemory(create=True, size=100)
    child = ctx.Process(target=fill, args=(memory,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert bytes(memory.buf) == b"x" * 100
    memory.close()
    memory.unlink()


HOLD = "m = shared_memory.SharedMemory(create=True, size=10); print(m.name, flush=True); {how}"
ENDS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "exit": "os._exit(1)",
    "error": "1 / 0",
    "end": "m.close()",
}


@pytest.mark.parametrize("how", ENDS)
def test_the_name_goes_with_the_program(how):
    with Running(HOLD.format(how=ENDS[how])) as program:
        name = program.line()
        assert name.startswith("psm_")
        program.process.wait(PATIENCE)
        eventually(lambda: not is_there(name), f"the end of {name}")


def test_the_name_goes_also_where_the_supervisor_was_killed():
    with Running(HOLD.format(how="signal.pause()")) as program:
        name = program.line()
        (supervisor,) = descendants(program.pid)
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: descendants(program.pid) - {supervisor}, "another supervisor")
        program.process.kill()
        program.process.wait(PATIENCE)
        eventually(lambda: not is_there(name), f"the end of {name}")


@pytest.mark.parametrize("how", ["track", "unregister"])
def test_what_is_not_tracked_stays(how):
    code = {
        "track": "m = shared_memory.SharedMemory(create=True, size=10, track=False)",
        "unregister": "m = shared_memory.SharedMemory(create=True, size=10)\n"
        "mp.resource_tracker.unregister(m._name, 'shared_memory')",
    }[how]
    with Running(f"import broody.resource_tracker\n{code}\nprint(m.name, flush=True)") as program:
        name = program.line()
        program.process.wait(PATIENCE)
    memory = SharedMemory(name)
    memory.close()
    memory.unlink()


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "m.close()"])
def test_another_program_that_opens_it_does_not_remove_it(how):
    memory = SharedMemory(create=True, size=10)
    with Running(f"m = shared_memory.SharedMemory({memory.name!r}); m.buf[0] = 7; {how}") as program:
        program.process.wait(PATIENCE)
    assert memory.buf[0] == 7
    assert is_there(memory.name)
    memory.close()
    memory.unlink()


def test_there_is_no_room():
    with pytest.raises(OSError, match="not enough memory"):
        SharedMemory(create=True, size=1 << 50)


def test_a_name_is_given_once():
    name = f"psm_once_{os.getpid()}"
    first = SharedMemory(name, create=True, size=10)
    with pytest.raises(FileExistsError):
        SharedMemory(name, create=True, size=10)
    first.unlink()
    again = SharedMemory(name, create=True, size=20)
    assert (first.size, again.size) == (10, 20)
    first.close()
    again.close()
    again.unlink()
    with pytest.raises(FileNotFoundError):
        again.unlink()


@pytest.mark.parametrize("name, error", [("a/b", OSError), ("a\0b", ValueError), ("..", OSError), ("x" * 300, OSError)])
def test_names_that_cannot_be(name, error):
    for create in (True, False):
        with pytest.raises(error):
            SharedMemory(name, create=create, size=10)


def test_who_uses_its_bytes_keeps_them():
    memory = SharedMemory(create=True, size=10)
    part = memory.buf[2:5]
    with pytest.raises(BufferError, match="still alive"):
        memory.close()
    part[:] = b"abc"
    name = memory.name
    memory.unlink()
    # Whatever becomes of the object, the bytes stay as long as somebody sees them.
    del memory
    assert bytes(part) == b"abc"
    assert not is_there(name)


def test_a_fork_can_let_go_of_it():
    memory = SharedMemory(create=True, size=10)
    pid = os.fork()
    if not pid:
        memory.buf[0] = 1
        memory.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory.buf[0] == 1 and is_there(memory.name)
    memory.close()
    memory.unlink()


def test_it_leaves_no_descriptor_and_no_mapping_behind():
    SharedMemory(create=True, size=1).unlink()

    def mappings():
        with open("/proc/self/maps") as maps:
            return sum("psm_" in line for line in maps)

    before = len(os.listdir("/proc/self/fd")), mappings()
    for _ in range(300):
        memory = SharedMemory(create=True, size=5000)
        other = SharedMemory(memory.name)
        memory.unlink()
        other.close()
        # The other one is simply dropped.
        del memory
    assert (len(os.listdir("/proc/self/fd")), mappings()) == before


ITEMS = ["howdy", b"bytes", -273.154, 1 << 40, None, True, "", "x" * 100, "exactly8"]


def test_lists_are_those_of_the_standard_module():
    ours = ShareableList(ITEMS)
    code = f"l = shared_memory.ShareableList(name={ours.shm.name!r})\nassert list(l) == {ITEMS!r}, list(l)\nl[0] = 'changed'; l[4] = 1.5\nl.shm.close()"
    # The standard module's tracker would remove what it has seen.
    untrack = "mp.resource_tracker.unregister(l.shm._name, 'shared_memory')"
    with Running(f"import multiprocessing.resource_tracker\n{code}\n{untrack}", standard=True) as program:
        assert program.process.wait(PATIENCE) == 0
    assert ours[0] == "changed" and ours[4] == 1.5 and ours[3] == 1 << 40
    ours.shm.close()
    ours.shm.unlink()
    with Running(f"l = shared_memory.ShareableList({ITEMS!r}); print(l.shm.name, flush=True); sys.stdin.read(); l.shm.unlink()", standard=True) as program:
        theirs = ShareableList(name=program.line())
        assert list(theirs) == ITEMS
        theirs[1] = b"new"
        theirs.shm.close()


def test_long_characters_are_not_cut_off():
    items = ShareableList(["é" * 7, "exactly8"])
    assert list(items) == ["é" * 7, "exactly8"]
    items.shm.close()
    items.shm.unlink()


def test_what_cannot_be_in_a_list_changes_nothing():
    items = ShareableList([1, "text"])
    too_long = "^bytes/str item exceeds available storage$"  # in the words that programs know
    for wrong, error, words in ((1 << 70, struct.error, None), ("much too long a text", ValueError, too_long), ([], KeyError, None)):
        with pytest.raises(error, match=words):
            items[0] = wrong
        assert list(items) == [1, "text"]
    with pytest.raises(IndexError):
        items[2] = 1
    items.shm.close()
    items.shm.unlink()


def test_there_is_no_tracker_to_wait_for():
    resource_tracker.ensure_running()
    # For programs that hand it on.
    os.fstat(resource_tracker.getfd())
    resource_tracker._resource_tracker._stop()
    resource_tracker.register("/psm_nothing", "shared_memory")
    resource_tracker.unregister("/psm_nothing", "shared_memory")
    with pytest.raises(ValueError):
        resource_tracker.register("x" * 600, "shared_memory")


def start_one(method):
    import broody

    broody.get_context(method).Process(target=os.getpid).start()


@pytest.mark.parametrize("inner", ["spawn", "forkserver", "fork"])
def test_the_end_of_a_child_with_children_takes_nothing_of_its_parents(inner):
    code = f"""
import test_shared_memory
m = shared_memory.SharedMemory(create=True, size=10)
child = mp.get_context("spawn").Process(target=test_shared_memory.start_one, args=({inner!r},))
child.start()
child.join()
print(m.name, child.exitcode, flush=True)
signal.pause()
"""
    with Running(f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n{code}") as program:
        name, exitcode = program.line().split()
        assert exitcode == "0"
        # The child's own supervisor, if it had one, goes with it: then there is only the program's.
        eventually(lambda: len(descendants(program.pid)) == 1, "the end of what the child had started")
        assert is_there(name)
        program.process.kill()
        program.process.wait(PATIENCE)
        eventually(lambda: not is_there(name), f"the end of {name}")


def test_what_stands_for_the_resource_tracker_is_the_supervisor():
    tracker = resource_tracker._resource_tracker
    tracker.ensure_running()
    first = tracker._pid
    assert status(first)[1] == os.getpid()
    os.kill(first, signal.SIGTERM)
    os.kill(first, signal.SIGINT)
    block = SharedMemory(create=True, size=1)
    block.close()
    block.unlink()
    assert tracker._pid == first
    # Whoever ends it may wait for it, as for a child of his own.
    os.kill(first, signal.SIGKILL)
    pid, how = os.waitpid(first, 0)
    assert (pid, os.waitstatus_to_exitcode(how)) == (first, -signal.SIGKILL)
    tracker.ensure_running()
    assert tracker._pid != first
    # And if he does not, it is no zombie for long: see `nothing_left`.
    os.kill(tracker._pid, signal.SIGKILL)
