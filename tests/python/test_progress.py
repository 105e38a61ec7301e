"""What can be seen of a pool's work: how far it is, a timeline, the workers' log."""

import json
import logging
import logging.handlers
import os
import pty
import signal
import subprocess
import sys
import termios
import textwrap
import threading
import time

import broody
import pytest
from broody import _progress
from broody.futures import ProcessPoolExecutor
from broody.pool import ThreadPool
from conftest import PATIENCE, eventually
from test_futures import die, fail, slow_square, square


class Counted:
    """A bar that only counts."""

    made = []

    def __init__(self, progress, total):
        self.progress, self.total, self.shown, self.is_closed = progress, total, [], False
        self.made.append(self)

    def show(self, done):
        assert not self.is_closed
        self.shown.append(done)

    def add(self):
        self.show((self.shown or [0])[-1] + 1)

    def close(self):
        self.is_closed = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(_progress, "Bar", Counted)
    Counted.made = []
    return Counted.made


def test_a_map_shows_how_far_it_is(bars, method):
    squares = [x * x for x in range(500)]
    with broody.get_context(method).Pool(2) as pool:
        assert pool.map(slow_square, range(500), progress=True) == squares
        assert pool.starmap(pow, [(x, 2) for x in range(500)], 3, progress="powers") == squares
        assert list(pool.imap(square, range(500), progress=True)) == squares
        assert sorted(pool.imap_unordered(square, iter(range(500)), 7, progress=True)) == squares
        with pytest.raises(KeyError):
            pool.map(fail, range(5), progress=True)
        assert pool.map(square, [], progress=True) == []
        assert pool.map(square, range(5)) == squares[:5]
    assert [bar.total for bar in bars] == [500, 500, 500, 500, 5, 0]
    assert bars[1].progress == "powers" and all(bar.is_closed for bar in bars)
    for bar in bars[:4]:
        assert bar.shown == sorted(bar.shown) and bar.shown[-1] == 500
    # Of a map of its own pace there is something to see on the way.
    assert len(bars[0].shown) > 2


def test_threads_show_it_too(bars):
    with ThreadPool(2) as pool:
        assert pool.map(square, range(10), 3, progress=True) == [x * x for x in range(10)]
        assert list(pool.imap(square, range(10), progress=True)) == [x * x for x in range(10)]
    assert all(bar.shown[-1] == 10 and bar.is_closed for bar in bars) and len(bars) == 2


PROGRAM = """
    import sys, broody
    if sys.argv[1] == "plain":
        sys.modules["tqdm"] = None
    with broody.get_context("fork").Pool(2) as pool:
        pool.map(abs, range(300), progress="numbers")
        list(pool.imap(abs, range(300), progress=True))
"""


def written(how, errors):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), how]
    subprocess.run(command, stderr=errors, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("how", ["plain", "tqdm"])
def test_a_bar_is_on_a_terminal_only(how, tmp_path):
    if how == "tqdm":
        pytest.importorskip("tqdm")
    path = tmp_path / "errors"
    with open(path, "w") as file:
        written(how, file)
    assert path.read_text() == ""
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 80))
    try:
        written(how, writer)
        text = os.read(reader, 100_000).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert "numbers" in text and ("300 of 300" in text if how == "plain" else "300/300" in text)


# Timelines


def entries(path):
    with open(path) as file:
        return json.load(file)["traceEvents"]


def test_a_trace_names_what_ran_and_where(method, tmp_path):
    path, later, at_end = tmp_path / "run.json", tmp_path / "later.json", tmp_path / "end.json"
    with broody.get_context(method).Pool(2) as pool:
        with pool.trace(path) as trace:
            pool.map(slow_square, range(20), 1)
            pids = {worker.pid for worker in pool._pool}
            trace.write()
            assert sum(entry["name"] == "slow_square" for entry in entries(path)) == 20
            with pytest.raises(Exception, match="SIGKILL"):
                pool.apply_async(die).get(PATIENCE)
        pool.trace(later)
        pool.map(square, range(10), 1)
    pool.join()
    tasks = [entry for entry in entries(path) if entry["name"] == "slow_square"]
    assert len(tasks) == 20 and {entry["tid"] for entry in tasks} <= pids
    assert all(entry["ph"] == "X" and entry["dur"] >= 1000 for entry in tasks)
    assert any("lost" in entry["name"] for entry in entries(path))
    # The pool's end writes it.
    assert sum(entry["name"] == "square" for entry in entries(later)) == 10
    with ProcessPoolExecutor(1, broody.get_context(method)) as executor:
        executor.trace(at_end)
        executor.submit(square, 3).result(PATIENCE)
    assert sum(entry["name"] == "square" for entry in entries(at_end)) == 1


# Logs


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    logger = logging.getLogger("broody.test")
    handler = Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def log(x):
    logger = logging.getLogger("broody.test")
    logger.debug("not told")
    logger.info("task %s", x)
    return os.getpid()


def log_error():
    try:
        fail("x")
    except KeyError:
        logging.getLogger("broody.test").exception("it failed")


def log_and_die():
    for number in range(50):
        logging.getLogger("broody.test").info("before %s", number)
    os.kill(os.getpid(), signal.SIGKILL)


def log_for_ever():
    while True:
        logging.getLogger("broody.test").info("again")


def log_at_start():
    logging.getLogger("broody.test").warning("begun")


def test_workers_logs_are_the_hosts(kept, ctx):
    threads = threading.active_count()
    with ctx.Pool(2, initializer=log_at_start, forward_logs=True) as pool:
        pids = pool.map(log, range(100), 1)
        pool.apply(log_error)
        pool.close()
        pool.join()
    assert threading.active_count() == threads
    # All of it is there when the pool has ended.
    messages = [record.getMessage() for record in kept]
    assert sorted(m for m in messages if m.startswith("task")) == sorted(f"task {x}" for x in range(100))
    assert messages.count("begun") == 2
    failed = next(message for message in messages if message.startswith("it failed"))
    assert "KeyError: 'x'" in failed
    assert {record.process for record in kept} >= set(pids) and os.getpid() not in {record.process for record in kept}
    assert all("PoolWorker" in record.processName for record in kept)


def test_each_record_is_told_once_also_by_the_handlers_of_a_fork(ctx, tmp_path):
    root, handler = logging.getLogger(), logging.FileHandler(tmp_path / "log")
    root.addHandler(handler)
    logging.getLogger("broody.test").setLevel(logging.INFO)
    try:
        with ctx.Pool(2, forward_logs=True) as pool:
            pool.map(log, range(20), 1)
            pool.close()
            pool.join()
    finally:
        root.removeHandler(handler)
        handler.close()
        logging.getLogger("broody.test").setLevel(logging.NOTSET)
    told = (tmp_path / "log").read_text().splitlines()
    assert sorted(told) == sorted(f"task {x}" for x in range(20))


def test_a_slow_handler_has_told_everything_at_the_end_of_the_pool(kept, ctx):
    class Slow(Kept):
        def emit(self, record):
            time.sleep(0.005)
            super().emit(record)

    logger, slow = logging.getLogger("broody.test"), Slow()
    logger.addHandler(slow)
    try:
        with ctx.Pool(2, forward_logs=True) as pool:
            pool.map(log, range(100))
            pool.close()
            pool.join()
        assert len(slow.records) == 100
    finally:
        logger.removeHandler(slow)


def test_logs_of_an_executor(kept, ctx):
    with ProcessPoolExecutor(1, ctx, forward_logs=True) as executor:
        executor.submit(log, 7)
    assert [record.getMessage() for record in kept] == ["task 7"]


def test_a_worker_that_is_killed_while_it_logs_harms_nobody(kept, ctx):
    with ctx.Pool(2, forward_logs=True) as pool:
        lost = [pool.apply_async(log_and_die) for _ in range(3)]
        for task in lost:
            with pytest.raises(broody.exceptions.WorkerLostError):
                task.get(PATIENCE)
        for _ in range(5):
            task = pool.apply_async(log_for_ever)
            seen = len(kept)
            eventually(lambda seen=seen: len(kept) > seen + 100)
            task.cancel()
            del kept[:]
        pool.map(log, range(20), 1)
        pool.close()
        pool.join()
    assert sum(record.getMessage().startswith("task") for record in kept) == 20


def test_a_handler_that_holds_its_lock_holds_no_worker(ctx):
    """The workers' loggers share no lock with the host's, whatever it does while they are made."""
    logger, handler = logging.getLogger("broody.test"), Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        handler.acquire()
        try:
            with ctx.Pool(2, forward_logs=True) as pool:
                assert len(pool.map(log, range(10), 1)) == 10
                with pytest.raises(broody.exceptions.WorkerLostError):
                    pool.apply_async(die).get(PATIENCE)
                assert len(pool.map(log, range(10), 1)) == 10
                handler.release()
                pool.close()
                pool.join()
        finally:
            if not handler.records:
                handler.release()
        assert len(handler.records) == 20
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_a_handler_that_fails_ends_nothing(ctx, capsys):
    class Failing(logging.Handler):
        def emit(self, record):
            raise OSError("no room")

    logger, failing, handler = logging.getLogger("broody.test"), Failing(), Kept()
    logger.addHandler(failing)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with ctx.Pool(1, forward_logs=True) as pool:
            pool.map(log, range(3), 1)
            logger.removeHandler(failing)
            pool.apply(time.sleep, (0.1,))
            pool.map(log, range(3), 1)
            pool.close()
            pool.join()
        assert sum(record.getMessage().startswith("task") for record in handler.records) >= 3
    finally:
        logger.removeHandler(failing)
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
