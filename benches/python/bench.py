"""Figures of the Python package beside those of its peers, in one run: `make bench` writes them to docs/benchmarks-python.md.

    python benches/python/bench.py [ROW ...]            all rows, or those whose name contains one of the words
    python benches/python/bench.py --one ROW PEER       one measurement; prints a number

Each measurement is a process of its own. The peers take turns, round after round; a figure is the median of the rounds, and a ratio the median of
the ratios of the rounds.
"""

# Not more: this is the main module of every child that is measured.
import importlib
import os
import sys
import time

ROUNDS = int(os.environ.get("ROUNDS", "3"))
HERE = os.path.abspath(__file__)

# name: (peers beside the standard module, unit, whether more is better, goal)
ROWS = {}


def row(unit, goal, peers=(), more=True):
    def enter(function):
        ROWS[function.__name__] = (function, unit, goal, ("std", "broody", *peers), more)
        return function

    return enter


def module(peer):
    return importlib.import_module({"std": "multiprocessing", "fifo": "multiprocessing"}.get(peer, peer))


def noop(x=None):
    return x


def none(*_):
    pass


def timed(function, times=3):
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def middle(values):
    import statistics

    return statistics.median(values)


def median(function, times):
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return middle(taken)


# Pools


class Pools:
    """Peers that have no `Pool` of the standard's face, as far as the rows need it."""

    def __init__(self, peer):
        self.peer = peer
        if peer in ("std", "broody", "billiard"):
            mp = module(peer)
            self.pool = mp.get_context("fork").Pool(2) if peer != "billiard" else mp.Pool(2)
        elif peer == "futures":
            from concurrent.futures import ProcessPoolExecutor

            self.pool = ProcessPoolExecutor(2)
        elif peer == "loky":
            from loky import get_reusable_executor

            self.pool = get_reusable_executor(2)
        elif peer == "pebble":
            from pebble import ProcessPool

            self.pool = ProcessPool(2)
        elif peer == "mpire":
            from mpire import WorkerPool

            self.pool = WorkerPool(2, keep_alive=True)

    def map(self, function, items, chunk):
        if self.peer in ("futures", "loky"):
            return list(self.pool.map(function, items, chunksize=chunk))
        if self.peer == "pebble":
            return list(self.pool.map(function, items, chunksize=chunk).result())
        if self.peer == "mpire":
            return self.pool.map(function, items, chunk_size=chunk)
        return self.pool.map(function, items, chunksize=chunk)

    def apply(self, function, argument):
        if self.peer in ("futures", "loky"):
            return self.pool.submit(function, argument).result()
        if self.peer == "pebble":
            return self.pool.schedule(function, args=(argument,)).result()
        if self.peer == "mpire":
            return self.pool.apply(function, (argument,))
        return self.pool.apply(function, (argument,))


POOLS = ("futures", "billiard", "loky", "pebble", "mpire")


@row("tasks/s", 10, POOLS)
def map_of_no_ops_chunksize_1(peer):
    pool = Pools(peer)
    pool.map(noop, range(100), 1)
    count = 20000 if peer in ("std", "broody", "billiard") else 3000
    return count / timed(lambda: pool.map(noop, range(count), 1))


@row("tasks/s", 10)
def imap_unordered_chunksize_1(peer):
    pool = Pools(peer)
    pool.map(noop, range(100), 1)
    return 20000 / timed(lambda: list(pool.pool.imap_unordered(noop, range(20000))))


@row("us", 1 / 4, POOLS, more=False)
def apply_round_trip(peer):
    pool = Pools(peer)
    pool.apply(noop, 1)
    return median(lambda: pool.apply(noop, 1), 1000) * 1e6


@row("million/s", 1.5)
def map_of_a_million_ints(peer):
    pool = Pools(peer)
    pool.map(noop, range(100), 1)
    return 1 / timed(lambda: pool.pool.map(noop, range(1_000_000)))


def arrays():
    import numpy

    return [numpy.ones(1_000_000) for _ in range(40)]


def array(_):
    import numpy

    global kept
    if kept is None:
        kept = numpy.ones(1_000_000)
    return kept


kept = None


@row("GB/s", 6, POOLS)
def arrays_of_8_mb_as_arguments(peer):
    pool, items = Pools(peer), arrays()
    pool.map(none, items[:2], 1)
    return 0.32 / timed(lambda: pool.map(none, items, 1), 2)


@row("GB/s", 6, POOLS)
def arrays_of_8_mb_as_results(peer):
    pool = Pools(peer)
    pool.map(array, range(4), 1)
    return 0.32 / timed(lambda: pool.map(array, range(40), 1), 2)


# Executors, beside the standard's of concurrent.futures


def executor(peer):
    if peer == "loky":
        from loky import get_reusable_executor

        return get_reusable_executor(2)
    name = "concurrent.futures" if peer == "std" else "broody.futures"
    return importlib.import_module(name).ProcessPoolExecutor(2, mp_context=module(peer).get_context("fork"))


@row("us", 1 / 4, ("loky",), more=False)
def executor_submit_round_trip(peer):
    pool = executor(peer)
    pool.submit(noop, 1).result()
    return median(lambda: pool.submit(noop, 1).result(), 1000) * 1e6


@row("tasks/s", 10, ("loky",))
def executor_map_chunksize_1(peer):
    pool = executor(peer)
    list(pool.map(noop, range(100)))
    count = 20000 if peer == "broody" else 3000
    return count / timed(lambda: list(pool.map(noop, range(count))))


@row("tasks/s", 4, ("loky",))
def executor_submit_many_as_completed(peer):
    from concurrent.futures import as_completed

    pool = executor(peer)
    list(pool.map(noop, range(100)))
    count = 10000 if peer == "broody" else 3000
    return count / timed(lambda: [done.result() for done in as_completed([pool.submit(noop, i) for i in range(count)])])


# joblib: the standard's column is loky, joblib's own


def joblib_calls(peer, count, **how):
    import joblib

    if peer == "broody":
        importlib.import_module("broody.joblib")
    with joblib.parallel_config("loky" if peer == "std" else peer, n_jobs=2):
        calls = lambda: joblib.Parallel(**how)(joblib.delayed(abs)(number) for number in range(count))  # noqa: E731
        calls()
        return count / timed(calls)


@row("calls/s", 5)
def joblib_10000_no_ops_beside_loky(peer):
    return joblib_calls(peer, 10_000)


@row("calls/s", 5)
def joblib_no_ops_in_batches_of_1_beside_loky(peer):
    return joblib_calls(peer, 2000, batch_size=1)


# Queues and pipes


def make_queue(peer):
    if peer == "faster_fifo":
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401

        return faster_fifo.Queue(64 * 1024 * 1024)
    return module(peer).Queue()


def produce(queue, message, count):
    for _ in range(count):
        queue.put(message)


def consume(queue, count):
    for _ in range(count):
        queue.get()


def one_to_one(peer, message, count):
    mp = module("std" if peer == "faster_fifo" else peer)
    queue = make_queue(peer)
    queue.put(message)
    queue.get()
    child = mp.get_context("fork").Process(target=produce, args=(queue, message, count))
    began = time.perf_counter()
    child.start()
    consume(queue, count)
    taken = time.perf_counter() - began
    child.join()
    return count / taken


def two_to_two(peer, message, count):
    mp = module("std" if peer == "faster_fifo" else peer)
    queue = make_queue(peer)
    context = mp.get_context("fork")
    began = time.perf_counter()
    children = [context.Process(target=target, args=args) for target, args in (
        (produce, (queue, message, count)), (produce, (queue, message, count)),
        (consume, (queue, count)), (consume, (queue, count)),
    )]  # fmt: skip
    for child in children:
        child.start()
    for child in children:
        child.join()
    return 2 * count / (time.perf_counter() - began)


@row("messages/s", 4, ("faster_fifo",))
def queue_16_bytes_one_to_one(peer):
    return one_to_one(peer, b"x" * 16, 100_000)


@row("messages/s", 4, ("faster_fifo",))
def queue_1_kib_one_to_one(peer):
    return one_to_one(peer, b"x" * 1024, 100_000)


@row("messages/s", 4, ("faster_fifo",))
def queue_16_bytes_two_to_two(peer):
    return two_to_two(peer, b"x" * 16, 30_000)


@row("messages/s", 4, ("faster_fifo",))
def queue_1_kib_two_to_two(peer):
    return two_to_two(peer, b"x" * 1024, 30_000)


@row("GB/s", 8, ("faster_fifo",))
def queue_1_mib_bytes(peer):
    return one_to_one(peer, b"x" * (1 << 20), 500) * (1 << 20) / 1e9


def echo(connection):
    while message := connection.recv_bytes():
        connection.send_bytes(message)


@row("us", 0.8, more=False)
def pipe_ping_pong(peer):
    mp = module(peer)
    ours, theirs = mp.Pipe()
    child = mp.get_context("fork").Process(target=echo, args=(theirs,), daemon=True)
    child.start()

    def once():
        ours.send_bytes(b"x" * 16)
        ours.recv_bytes()

    once()
    taken = median(once, 5000) * 1e6
    ours.send_bytes(b"")
    child.join()
    return taken


# Processes


def start_and_join(peer, method, times):
    context = module(peer).get_context(method)

    def once():
        child = context.Process(target=noop)
        child.start()
        child.join()

    once()
    return median(once, times) * 1e3


@row("ms", 0.8, more=False)
def start_and_join_fork(peer):
    return start_and_join(peer, "fork", 50)


@row("ms", 0.25, more=False)
def start_and_join_forkserver(peer):
    return start_and_join(peer, "forkserver", 50)


@row("ms", 0.5, more=False)
def start_and_join_spawn(peer):
    return start_and_join(peer, "spawn", 10)


def pool_once(peer, method):
    context = module(peer).get_context(method)

    def once():
        with context.Pool(2) as pool:
            pool.apply(noop)
        pool.join()

    once()
    return median(once, 15) * 1e3


@row("ms", 0.8, more=False)
def pool_of_two_made_and_ended_fork(peer):
    return pool_once(peer, "fork")


@row("ms", 0.4, more=False)
def pool_of_two_made_and_ended_forkserver(peer):
    return pool_once(peer, "forkserver")


# Synchronisation


def wake(events):
    first, second = events
    while True:
        first.wait()
        first.clear()
        second.set()


@row("us", 0.25, more=False)
def event_to_a_sleeper_and_back(peer):
    mp = module(peer)
    first, second = mp.Event(), mp.Event()
    mp.get_context("fork").Process(target=wake, args=((first, second),), daemon=True).start()

    def once():
        first.set()
        second.wait()
        second.clear()

    once()
    return median(once, 2000) / 2 * 1e6


def meet(barrier):
    while True:
        barrier.wait()


@row("us", 0.25, more=False)
def barrier_of_two(peer):
    mp = module(peer)
    barrier = mp.Barrier(2)
    mp.get_context("fork").Process(target=meet, args=(barrier,), daemon=True).start()
    barrier.wait()
    return median(barrier.wait, 2000) * 1e6


def notified(condition, ready):
    while True:
        with condition:
            ready.value = 1
            condition.wait()


@row("us", 0.25, more=False)
def condition_round(peer):
    mp = module(peer)
    condition, ready = mp.Condition(), mp.Value("i", 0, lock=False)
    mp.get_context("fork").Process(target=notified, args=(condition, ready), daemon=True).start()

    def once():
        while not ready.value:
            pass
        with condition:
            ready.value = 0
            condition.notify()

    once()
    return median(once, 2000) * 1e6


def each(function, count=100_000):
    def many():
        for _ in range(count):
            function()

    return timed(many, 5) / count * 1e6


@row("us", 1, more=False)
def lock_acquire_and_release(peer):
    lock = module(peer).Lock()

    def once():
        lock.acquire()
        lock.release()

    return each(once)


@row("us", 0.3, more=False)
def event_set_and_clear(peer):
    event = module(peer).Event()

    def once():
        event.set()
        event.clear()

    return each(once)


@row("us", 0.2, more=False)
def event_is_set(peer):
    return each(module(peer).Event().is_set)


@row("us", 0.6, more=False)
def value_plus_one_with_its_lock(peer):
    value = module(peer).Value("i", 0)

    def once():
        with value.get_lock():
            value.value += 1

    return each(once)


@row("calls/s", 4)
def manager_dict_set_and_get(peer):
    with module(peer).get_context("fork").Manager() as manager:
        numbers = manager.dict()

        def some(times=5000):
            for number in range(times):
                numbers["key"] = number
                numbers["key"]

        some(1000)
        return 2 * 5000 / timed(some)


@row("ms", 0.8, more=False)
def import_of_the_package(peer):
    name = "multiprocessing" if peer == "std" else "broody"
    import subprocess

    bare = median(lambda: subprocess.run([sys.executable, "-c", "pass"]), 10)
    return (median(lambda: subprocess.run([sys.executable, "-c", f"import {name}"]), 10) - bare) * 1e3


def measure(name, peer):
    import subprocess

    command = [sys.executable, "-W", "ignore", HERE, "--one", name, peer]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        return float(done.stdout.split()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def main():
    words = sys.argv[1:]
    print("# Figures of the Python package\n")
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start. Made by `make bench`: the median of {ROUNDS} rounds, in which the peers take turns.\n")
    print("| what | unit | multiprocessing | broody | ratio | goal | others |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, unit, goal, peers, more) in ROWS.items():
        if words and not any(word in name for word in words):
            continue
        rounds = [{peer: measure(name, peer) for peer in peers} for _ in range(ROUNDS)]
        figures = {}
        for peer in peers:
            found = [figure[peer] for figure in rounds if figure[peer] is not None]
            figures[peer] = middle(found) if found else None
        ratios = [r["broody"] / r["std"] for r in rounds if r["broody"] and r["std"]]
        ratio = middle(ratios) if ratios else None
        reached = ratio is not None and (ratio >= goal if more else ratio <= goal)
        show = lambda figure: "-" if figure is None else f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}"  # noqa: E731
        others = ", ".join(f"{peer} {show(figures[peer])}" for peer in peers[2:])
        shown = "-" if ratio is None else f"{ratio:.2f} x"
        mark = "" if reached else " (missed)"
        sign = ">=" if more else "<="
        print(
            f"| {name.replace('_', ' ')} | {unit} | {show(figures['std'])} | {show(figures['broody'])} | {shown}{mark} | {sign} {goal:g} | {others} |",
            flush=True,
        )
    print("\nWhat bounds the goals that are missed: [decision 014](decisions/014-figures-of-the-python-package.md).")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(ROWS[sys.argv[2]][0](sys.argv[3]), flush=True)
        # Children that wait for ever are daemons.
        sys.stdout.flush()
    else:
        main()
