"""The three classic zombie programs, in one. An ordinary program of multiprocessing, which knows nothing of broody.

    python zombies.py
    python -m broody zombies.py

1. A parent that is busy, and does not join its child: the child is a zombie for as long.
2. A parent that starts many children and joins none: as many zombies.
3. A parent that is killed: its child works on for nobody (an orphan).
"""

import multiprocessing
import os
import signal
import time


def state(pid):
    """What the process does: R, S, Z for a zombie, or nothing when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def short():
    pass


def long():
    time.sleep(60)


def parent(pids):
    child = multiprocessing.Process(target=long)
    child.start()
    pids.send(child.pid)
    child.join()


def main():
    child = multiprocessing.Process(target=short)
    child.start()
    time.sleep(0.5)
    print("1. a child that nobody joins:", "a zombie" if state(child.pid) == "Z" else "gone")

    children = [multiprocessing.Process(target=short) for _ in range(20)]
    for child in children:
        child.start()
    time.sleep(0.5)
    print("2. twenty of them:", sum(state(child.pid) == "Z" for child in children), "zombies")

    ours, theirs = multiprocessing.Pipe()
    middle = multiprocessing.Process(target=parent, args=(theirs,))
    middle.start()
    orphan = ours.recv()
    os.kill(middle.pid, signal.SIGKILL)
    time.sleep(0.5)
    alive = state(orphan) not in ("", "Z")
    print("3. the child of a parent that was killed:", "works on, an orphan" if alive else "gone")
    if alive:
        os.kill(orphan, signal.SIGKILL)


if __name__ == "__main__":
    main()
