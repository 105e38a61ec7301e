"""Notebooks: a real Jupyter kernel, whose cells define what workers run. There is no file that workers could import, and no main guard."""

import os
import queue
import signal
import time

import pytest
from conftest import PATIENCE, descendants, eventually, is_over

pytest.importorskip("ipykernel")
pytest.importorskip("cloudpickle")
jupyter_client = pytest.importorskip("jupyter_client")

CELL = """
import os, time
import broody, broody.futures

factor = 3

def times(x):
    return x * factor

class Number:
    def __init__(self, value):
        self.value = value

def more(number):
    return Number(number.value + 1)

class Local(Exception):
    pass

def fail():
    raise Local("in a cell")
"""


class Kernel:
    """A kernel that runs."""

    def __init__(self):
        self._manager = jupyter_client.KernelManager()
        self._manager.start_kernel()
        self._client = None
        try:
            self._connect()
        except BaseException:
            self.end()
            raise

    def _connect(self):
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=PATIENCE)

    @property
    def pid(self):
        return self._manager.provisioner.pid

    def begin(self, code):
        """Lets it run a cell, whose name is for `finish`."""
        return self._client.execute(code)

    def finish(self, cell):
        """What the cell has written, and the name of what it has raised."""
        written, end = [], time.monotonic() + PATIENCE
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                pytest.fail(f"the cell does not end; it has written {written}")
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and content["name"] == "stdout":
                written.append(content["text"])
            elif kind == "error":
                written.append(f"{content['ename']}: {content['evalue']}")
            elif kind == "status" and content["execution_state"] == "idle":
                return "".join(written)

    def run(self, code):
        return self.finish(self.begin(code))

    def interrupt(self):
        self._manager.interrupt_kernel()

    def restart(self):
        self._client.stop_channels()
        self._manager.restart_kernel()
        self._connect()

    def end(self):
        if self._client is not None:
            self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()


@pytest.fixture
def kernel():
    kernel = Kernel()
    try:
        assert kernel.run(CELL) == ""
        yield kernel
    finally:
        kernel.end()


def names():
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "broody-"))}


def test_workers_run_what_cells_define(kernel, method):
    kernel.run(f"ctx = broody.get_context({method!r})")
    assert kernel.run("with ctx.Pool(2) as pool: print(pool.map(times, range(4)), pool.map(lambda x: x + factor, range(3)))") == (
        "[0, 3, 6, 9] [3, 4, 5]\n"
    )
    written = kernel.run("""
with broody.futures.ProcessPoolExecutor(2, ctx) as executor:
    print(list(executor.map(times, range(4))), executor.submit(lambda: factor).result())
    number = executor.submit(more, Number(1)).result()
    print(number.value, type(number) is Number)
    executor.submit(fail).result()
""")
    assert written == "[0, 3, 6, 9] 3\n2 True\nLocal: in a cell"
    # A kernel's cells run in an event loop.
    assert kernel.run("with ctx.Pool(1) as pool: print(await pool.apply_async(abs, (-7,)))") == "7\n"
    written = kernel.run("with ctx.Pool(2) as pool: print(sum(pool.map(times, range(10), progress=True)))")
    assert written == "135\n"


def test_processes_run_what_cells_define(kernel, method):
    written = kernel.run(f"""
ctx = broody.get_context({method!r})
def put(results, x):
    results.put(times(x))
results = ctx.Queue()
process = ctx.Process(target=put, args=(results, 5))
process.start()
process.join(30)
print(process.exitcode, results.get(timeout=30))
with ctx.Manager() as manager:
    numbers = manager.list()
    process = ctx.Process(target=lambda: numbers.append(factor))
    process.start()
    process.join(30)
    print(list(numbers))
""")
    assert written == "0 15\n[3]\n"


def test_joblib_runs_what_cells_define(kernel):
    pytest.importorskip("joblib")
    written = kernel.run("""
import broody.joblib, joblib
with joblib.parallel_config("broody", n_jobs=2):
    print(joblib.Parallel()(joblib.delayed(times)(x) for x in range(5)))
""")
    assert written == "[0, 3, 6, 9, 12]\n"


def test_an_interrupted_cell_leaves_the_pool_usable(kernel, method):
    kernel.run(f"pool = broody.get_context({method!r}).Pool(2)")
    cell = kernel.begin("print('begun', flush=True); pool.apply(time.sleep, (1000,))")
    # It waits for the task.
    eventually(lambda: has_written(kernel, "begun"))
    kernel.interrupt()
    assert kernel.finish(cell) == "KeyboardInterrupt: "
    assert kernel.run("print(pool.apply(times, (2,)))") == "6\n"


def has_written(kernel, text):
    message = kernel._client.get_iopub_msg(timeout=PATIENCE)
    return message["msg_type"] == "stream" and text in message["content"]["text"]


BUSY = """
ctx = broody.get_context({method!r})
pool = ctx.Pool(2)
tasks = [pool.apply_async(time.sleep, (1000,)) for _ in range(4)]
executor = broody.futures.ProcessPoolExecutor(1, ctx)
future = executor.submit(time.sleep, 1000)
manager = ctx.Manager()
numbers = manager.list([1])
block = broody.shared_memory.SharedMemory(create=True, size=100)
while not future.running():
    time.sleep(0.01)
print(block.name)
"""


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_kernel_that_ends_leaves_nothing_behind(kernel, method, end):
    before = names()
    name = kernel.run("import broody.shared_memory\n" + BUSY.format(method=method)).strip()
    assert os.path.exists(f"/dev/shm/{name}")
    below = descendants(kernel.pid)
    assert len(below) >= 5
    if end == "restart":
        kernel.restart()
    else:
        os.kill(kernel.pid, signal.SIGKILL)
    eventually(lambda: all(map(is_over, below)), "the end of what it has started")
    eventually(lambda: names() <= before, f"the end of {names() - before}")
    if end == "restart":
        assert kernel.run("import broody\nwith broody.Pool(1) as pool: print(pool.map(lambda x: -x, [1]))") == "[-1]\n"
