"""The standard library's ProcessPoolExecutor over broody: standard_executor.py METHOD (killed | replaced | busy | stuck)"""

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


def busy(context):
    """Has workers that work, and perhaps one that waits, until it is killed."""
    executor = ProcessPoolExecutor(3, mp_context=context)
    idle = executor.submit(pid)
    executor.submit(signal.pause)
    executor.submit(signal.pause)
    idle.result()
    print(*executor._processes, flush=True)
    signal.pause()


def stuck(context):
    """More tasks at once than a worker does: the executor's count of idle workers goes wrong (it is mended in later Pythons), and nobody replaces it."""
    executor = ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=2)
    workers = [task.result() for task in [executor.submit(pid) for _ in range(10)][:2]]
    print(*set(workers), flush=True)
    signal.pause()


if __name__ == "__main__":
    globals()[sys.argv[2]](multiprocessing.get_context(sys.argv[1]))
