"""`concurrent.futures.ProcessPoolExecutor`, the interpreter's own, on broody's processes and queues. CPython's tests of it: tests/conformance."""

import pytest
from conftest import Program


def said(method, what):
    with Program("standard_executor", method, what) as program:
        code, out, err = program.end()
    # A thread that ends by an exception says so there.
    assert (code, err) == (0, "")
    return out.splitlines()


def test_a_killed_worker_breaks_the_executor_and_leaves_nothing(method):
    assert said(method, "killed") == ["broken", "left: [] ['MainThread']"]


# The executor refuses workers that are forks here.
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_are_replaced_after_their_share_of_tasks(method):
    # One task at a time: with several ones waiting the executor's own count of idle workers goes wrong, whatever starts its processes.
    assert said(method, "replaced") == ["[0, 0, 2, 2, 4, 4, 6, 6, 8, 8]"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_last_result_of_a_worker_comes_before_its_end(method):
    assert said(method, "results") == ["all there"]
