"""Processes that share: queues, pipes, locks, values, memory; and how they end."""

import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.shared_memory
import os
import signal
import sys
import threading


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int)]


def produce(jobs, results):
    for job in iter(jobs.get, None):
        results.put((job, job * job))
        jobs.task_done()
    jobs.task_done()


def echo(pipe, other):
    # A fork has this end, too: nobody would ever see it closed.
    other.close()
    while True:
        try:
            pipe.send(pipe.recv())
        except EOFError:
            break
    pipe.close()


def meet(barrier, semaphore, condition, turn, number, order):
    barrier.wait(60)
    with semaphore:
        pass
    with condition:
        condition.wait_for(lambda: turn.value == number, 60)
        order.append(number)
        turn.value += 1
        condition.notify_all()


def change(value, array, points, raw, name):
    with value.get_lock():
        value.value += 1
    for index in range(len(array)):
        array[index] *= 2
    points[0].x, points[0].y = 1.5, 2
    raw[0] = 7
    block = multiprocessing.shared_memory.SharedMemory(name)
    block.buf[:5] = b"hello"
    block.close()


def fail():
    raise RuntimeError("on purpose")


def leave():
    sys.exit(7)


def sleep_for_ever(ready):
    ready.set()
    threading.Event().wait()


class Worker(multiprocessing.Process):
    def __init__(self, results):
        super().__init__(name="worker of a class")
        self.results = results

    def run(self):
        self.results.put((self.name, self.daemon, multiprocessing.parent_process().name))


def main(method):
    multiprocessing.set_start_method(method)
    jobs, results = multiprocessing.JoinableQueue(), multiprocessing.SimpleQueue()
    workers = [multiprocessing.Process(target=produce, args=(jobs, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for job in range(10):
        jobs.put(job)
    jobs.join()
    print(sorted(results.get() for _ in range(10)))
    for _ in workers:
        jobs.put(None)
    jobs.join()
    for worker in workers:
        worker.join()

    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=echo, args=(there, here))
    child.start()
    there.close()
    for message in (1, "two", b"3" * 100_000, {"four": [4]}):
        here.send(message)
        print(here.poll(60), here.recv() == message)
    here.close()
    child.join()
    print(child.exitcode)

    parties = 3
    order = multiprocessing.Manager().list()
    condition = multiprocessing.Condition()
    turn = multiprocessing.Value("i", 0)
    shared = (multiprocessing.Barrier(parties), multiprocessing.BoundedSemaphore(2), condition, turn)
    meeting = [multiprocessing.Process(target=meet, args=(*shared, number, order)) for number in range(parties)]
    for process in meeting:
        process.start()
    for process in meeting:
        process.join()
    print(list(order), [process.exitcode for process in meeting])

    value, array = multiprocessing.Value("l", 41), multiprocessing.Array("d", [1.0, 2.0])
    points, raw = multiprocessing.Array(Point, 2), multiprocessing.RawArray("i", 3)
    block = multiprocessing.shared_memory.SharedMemory(create=True, size=10)
    child = multiprocessing.Process(target=change, args=(value, array, points, raw, block.name))
    child.start()
    child.join()
    print(value.value, array[:], points[0].x, points[0].y, raw[:], bytes(block.buf[:5]))
    block.close()
    block.unlink()

    ready = multiprocessing.Event()
    ends = [multiprocessing.Process(target=fail), multiprocessing.Process(target=leave)]
    stopped = [multiprocessing.Process(target=sleep_for_ever, args=(ready,), daemon=True) for _ in range(2)]
    for process in ends + stopped:
        process.start()
    print(ready.wait(60))
    stopped[0].terminate()
    os.kill(stopped[1].pid, signal.SIGKILL)
    waiting = {process.sentinel for process in ends + stopped}
    while waiting:
        waiting -= set(multiprocessing.connection.wait(waiting))
    for process in ends + stopped:
        process.join()
        print(process.exitcode, process.is_alive())
    print(multiprocessing.active_children()[1:])

    worker = Worker(results)
    worker.start()
    print(results.get())
    worker.join()
    worker.close()
    forgotten = multiprocessing.Process(target=sleep_for_ever, args=(ready,), daemon=True)
    forgotten.start()


if __name__ == "__main__":
    main(sys.argv[1])
