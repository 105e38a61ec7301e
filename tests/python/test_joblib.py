"""joblib on broody's workers."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

joblib = pytest.importorskip("joblib")

import broody.joblib  # noqa: E402
from broody.exceptions import TaskTimeoutError, WorkerLostError  # noqa: E402
from conftest import PATIENCE, descendants, eventually, is_over  # noqa: E402
from joblib import Parallel, delayed, parallel_config  # noqa: E402
from test_futures import die, fail, slow_square, square  # noqa: E402


@pytest.fixture(params=["spawn", "forkserver", "fork"], autouse=True)
def backend(request):
    with parallel_config("broody", n_jobs=2, mp_context=request.param):
        yield request.param


@pytest.fixture(autouse=True, scope="module")
def workers_end():
    """Those that are kept for the next call belong to no test."""
    yield
    while broody.joblib._kept:
        broody.joblib._kept.popitem()[1].shutdown()


def touch(folder, number):
    time.sleep(0.01)
    open(os.path.join(folder, str(number)), "w").close()


def nested(number):
    return Parallel(n_jobs=2)(delayed(square)(x) for x in range(number))


def nested_on_broody(number):
    import broody.joblib  # noqa: F401

    return Parallel(n_jobs=2, backend="broody", mp_context="fork")(delayed(os.getpid)() for _ in range(number))


def threads_allowed():
    return os.environ.get("OMP_NUM_THREADS")


def fill(array, index):
    array[index] = index
    return type(array).__name__


def test_workers_write_into_files_that_the_program_has_mapped(tmp_path):
    numpy = pytest.importorskip("numpy")
    mapped = numpy.memmap(tmp_path / "numbers", dtype="f8", mode="w+", shape=(4, 50))
    plain = numpy.zeros(50_000)
    calls = [delayed(fill)(mapped[1], index) for index in range(50)]
    calls += [delayed(fill)(mapped[2, ::2], index) for index in range(25)]
    calls += [delayed(fill)(numpy.asarray(mapped)[3], index) for index in range(50)]
    # Not for others to see.
    calls += [delayed(fill)(plain, index) for index in range(3)]
    assert len(Parallel()(calls)) == 128
    assert mapped.sum() == mapped[1:].sum() and not plain.any()
    assert (mapped[1] == range(50)).all() and (mapped[3] == range(50)).all()
    assert (mapped[2, ::2] == range(25)).all() and not mapped[2, 1::2].any()


def test_results_are_in_order(backend):
    squares = [x * x for x in range(300)]
    for size in ("auto", 1, 7):
        assert Parallel(batch_size=size)(delayed(square)(x) for x in range(300)) == squares
    assert Parallel(pre_dispatch="all")(delayed(square)(x) for x in range(50)) == squares[:50]
    assert Parallel()(delayed(lambda x: x + 1)(x) for x in range(3)) == [1, 2, 3]
    assert Parallel()([]) == []
    assert list(Parallel(return_as="generator")(delayed(slow_square)(x) for x in range(50))) == squares[:50]
    assert sorted(Parallel(return_as="generator_unordered")(delayed(slow_square)(x) for x in range(50))) == squares[:50]
    assert os.getpid() not in Parallel()(delayed(os.getpid)() for _ in range(4))
    assert Parallel(n_jobs=1)([delayed(os.getpid)()]) == [os.getpid()]
    with pytest.raises(ValueError):
        Parallel(n_jobs=0)([delayed(square)(1)])


def test_as_many_workers_as_cpus(backend):
    with Parallel(n_jobs=-1) as parallel:
        assert parallel(delayed(square)(x) for x in range(5)) == [0, 1, 4, 9, 16]


def test_workers_are_kept_for_the_next_call(backend):
    def pids():
        return set(Parallel(batch_size=1)(delayed(slow_pid)() for _ in range(20)))

    first = pids()
    assert first & pids()


def slow_pid():
    time.sleep(0.02)
    return os.getpid()


def test_the_first_error_ends_the_call(backend, tmp_path):
    def calls():
        yield delayed(fail)("x")
        for number in range(1000):
            yield delayed(touch)(str(tmp_path), number)

    with pytest.raises(KeyError) as told:
        Parallel(batch_size=1)(calls())
    assert "raise KeyError(x)" in str(told.value.__cause__)
    assert len(list(tmp_path.iterdir())) < 1000
    # What was running when it was told is ended.
    began = time.monotonic()
    with pytest.raises(KeyError):
        Parallel(batch_size=1)([delayed(fail)("x"), delayed(time.sleep)(PATIENCE)])
    assert Parallel()(delayed(square)(x) for x in range(5)) == [0, 1, 4, 9, 16]
    assert time.monotonic() - began < PATIENCE / 2


def test_a_worker_that_is_killed_is_an_error_and_the_next_call_goes_on(backend):
    with pytest.raises(WorkerLostError, match="SIGKILL") as told:
        Parallel(batch_size=1)([delayed(die)(), *(delayed(slow_square)(x) for x in range(50))])
    assert told.value.exitcode == -signal.SIGKILL
    assert Parallel()(delayed(square)(x) for x in range(5)) == [0, 1, 4, 9, 16]


def test_limits(backend):
    with parallel_config("broody", n_jobs=2, mp_context=backend, timeout=0.3):
        with pytest.raises(TaskTimeoutError):
            Parallel(batch_size=1)([delayed(time.sleep)(PATIENCE), delayed(square)(1)])
    # joblib's is the standard module's.
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.3)([delayed(time.sleep)(PATIENCE), delayed(square)(1)])
    with pytest.raises(TypeError):
        Parallel(backend="broody", n_jobs=2, no_such_option=1)([delayed(square)(1)])


def test_nested_calls(backend):
    squares = [x * x for x in range(5)]
    assert Parallel()(delayed(nested)(5) for _ in range(4)) == [squares] * 4
    inner = Parallel()(delayed(nested_on_broody)(4) for _ in range(2))
    assert all(pid != os.getpid() for pids in inner for pid in pids)


def test_threads_of_libraries_are_shared_out(backend):
    with parallel_config("broody", n_jobs=2, mp_context=backend, inner_max_num_threads=3):
        assert Parallel()(delayed(threads_allowed)() for _ in range(2)) == ["3", "3"]


def test_arrays(backend):
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(300_000, x, dtype=float) for x in range(6)]
    doubled = Parallel(batch_size=1)(delayed(numpy.multiply)(array, 2) for array in arrays)
    assert all((two == 2 * one).all() for one, two in zip(arrays, doubled, strict=True))


def test_a_program_needs_no_main_guard(backend, tmp_path):
    if backend == "forkserver":
        pytest.skip("the fork server imports the main module, for everybody")
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(
        """
        import sys, joblib, broody.joblib
        print("main")
        class Number:
            def __init__(self, value):
                self.value = value
        def double(number):
            return Number(number.value * two)
        two = 2
        with joblib.parallel_config("broody", n_jobs=2, mp_context=sys.argv[1]):
            numbers = joblib.Parallel()(joblib.delayed(double)(Number(x)) for x in range(5))
        print([number.value for number in numbers], all(isinstance(number, Number) for number in numbers))
        """
    ))  # fmt: skip
    done = subprocess.run([sys.executable, str(path), backend], capture_output=True, text=True, timeout=PATIENCE)
    # Workers do not run it again.
    assert done.stdout == "main\n[0, 2, 4, 6, 8] True\n" and done.stderr == ""


def test_nothing_is_left_when_the_program_is_killed(backend):
    """P2."""
    program = """
        import os, sys, time, joblib, broody.joblib
        def wait(x):
            os.write(1, b"%d\\n" % os.getpid())
            time.sleep(600)
        joblib.Parallel(n_jobs=2, backend="broody", mp_context=sys.argv[1])(joblib.delayed(wait)(x) for x in range(2))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            pids = [int(host.stdout.readline()) for _ in range(2)]
            everything = descendants(host.pid)
            assert set(pids) <= everything
        finally:
            host.kill()
    for pid in everything:
        eventually(lambda pid=pid: is_over(pid))
