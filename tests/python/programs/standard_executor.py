"""The standard library's ProcessPoolExecutor over broody: standard_executor.py METHOD (killed | replaced | results)"""

import os
import signal
import sys
import threading

import broody

broody.install()

import multiprocessing  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402
from concurrent.futures.process import BrokenProcessPool  # noqa: E402


def pid(_=None):
    return os.getpid()


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(context):
    """One worker dies: the tasks fail, and its thread and the other workers end."""
    executor = ProcessPoolExecutor(3, mp_context=context)
    workers = {executor.submit(pid).result() for _ in range(3)}
    manager = executor._executor_manager_thread
    task = executor.submit(die, None)
    workers |= set(executor._processes)
    try:
        task.result()
    except BrokenProcessPool:
        print("broken")
    manager.join()
    executor.shutdown()
    print("left:", [child.pid for child in multiprocessing.active_children()], [t.name for t in threading.enumerate()])


def replaced(context):
    """Workers that end after their share of tasks."""
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=2) as executor:
        workers = [executor.submit(pid).result() for _ in range(10)]
    print([workers.index(worker) for worker in workers])


def results(context):
    """A worker's last result is there before its end is heard of, as it must be: else the pool takes itself for broken."""
    for _ in range(10):
        with ProcessPoolExecutor(3, mp_context=context, max_tasks_per_child=1) as executor:
            tasks = [executor.submit(pid) for _ in range(3)]
        assert len({task.result() for task in tasks}) == 3
    print("all there")


if __name__ == "__main__":
    globals()[sys.argv[2]](multiprocessing.get_context(sys.argv[1]))
