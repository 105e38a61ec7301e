"""Starts children of every kind, and writes their pids; then it waits, or returns."""

import os
import signal
import sys
import time

import broody


def busy(pids):
    os.write(pids, f"{os.getpid()} ".encode())
    while True:
        pass


def sleeping(pids):
    os.write(pids, f"{os.getpid()} ".encode())
    time.sleep(600)


def task(_):
    time.sleep(600)


def parent(method, pids):
    child = broody.get_context(method).Process(target=sleeping, args=(pids,), daemon=True)
    child.start()
    os.write(pids, f"{os.getpid()} ".encode())
    child.join()


def main():
    method = sys.argv[1]
    ctx = broody.get_context(method)
    pool = ctx.Pool(2)
    result = pool.map_async(task, range(2), 1)
    children = []
    # Of spawn and forkserver no descriptor of this process comes to its children: their pids are asked here.
    for target in (sleeping, busy):
        for daemon in (True, False):
            child = ctx.Process(target=target, args=(2,), daemon=daemon)
            child.start()
            children.append(child)
    stopped = ctx.Process(target=sleeping, args=(2,), daemon=True)
    stopped.start()
    os.kill(stopped.pid, signal.SIGSTOP)
    grand = ctx.Process(target=parent, args=(method, 2))
    grand.start()
    children += [stopped, grand]
    print(*(child.pid for child in children), *(worker.pid for worker in pool._pool), flush=True)
    if sys.argv[2:] == ["return"]:
        for child in children:
            child.kill()
        return
    result.wait()


if __name__ == "__main__":
    if sys.argv[2:] == ["return"]:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main()
