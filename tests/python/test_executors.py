"""`concurrent.futures.ProcessPoolExecutor`, the interpreter's own, on broody's processes and queues. CPython's tests of it: tests/conformance."""

import pytest
from conftest import Program, descendants, eventually, is_over


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


# How many workers there are at least: the executor starts no more than it needs.
@pytest.mark.parametrize("what, least", [("busy", 2), ("stuck", 1)])
def test_what_an_executor_has_started_ends_with_a_killed_program(method, what, least):
    """R9, and R7: the standard executor waits for ever there, but what it has started does not outlive it."""
    if what == "stuck" and method == "fork":
        pytest.skip("the executor refuses to replace workers that are forks")
    with Program("standard_executor", method, what) as program:
        workers = set(map(int, program.line().split()))
        assert len(workers) >= least
        below = descendants(program.pid)
        if what == "stuck":
            eventually(lambda: workers.isdisjoint(descendants(program.pid)), "the end of the worker that has done its share")
        else:
            assert workers <= below
        program.process.kill()
        eventually(lambda: all(map(is_over, below | workers)), "the end of the workers")
