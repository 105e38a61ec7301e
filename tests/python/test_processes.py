"""Processes: their life, and what becomes of them when others die."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import broody
import pytest
from conftest import PATIENCE, Program, descendants, eventually, is_over, status, zombies


def nothing():
    pass


def leave(code):
    sys.exit(code)


def fail():
    raise ValueError("a task for the reader of stderr")


def end_by(number):
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)


def sleep():
    time.sleep(PATIENCE)


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(PATIENCE)


def test_exit_codes(ctx):
    for target, arguments, code in (
        (nothing, (), 0),
        (leave, (7,), 7),
        (leave, ("words",), 1),
        (leave, (None,), 0),
        (fail, (), 1),
        (end_by, (signal.SIGTERM,), -signal.SIGTERM),
        (end_by, (signal.SIGKILL,), -signal.SIGKILL),
    ):
        child = ctx.Process(target=target, args=arguments)
        assert child.exitcode is None
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == code
        assert not child.is_alive()


def test_a_child_is_reaped_though_nobody_joins_it(ctx):
    """P1."""
    child = ctx.Process(target=nothing)
    child.start()
    eventually(lambda: status(child.pid) is None, "the reaping of a child that nobody has joined")
    assert child.exitcode == 0


def test_a_stranger_may_wait_for_all_children(ctx):
    """Problem 27: a `waitpid(-1)` of the program's own does not take the exit code away, or it is told that it is unknown."""
    child = ctx.Process(target=leave, args=(7,))
    child.start()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
    child.join(PATIENCE)
    assert child.exitcode in (7, 255)


def test_the_end_of_a_program_ends_everything(method):
    """P2, R9, R10: by SIGKILL or SIGTERM, with busy, sleeping, stopped, daemonic children, workers of pools and grandchildren."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Program("family", method) as program:
            pids = list(map(int, program.line().split()))
            assert len(pids) >= 5
            below = descendants(program.pid)
            os.kill(program.pid, number)
            code, _, _ = program.end()
            assert code == -number
            for pid in {*pids, *below}:
                eventually(lambda pid=pid: is_over(pid), f"the end of process {pid}")


def test_a_program_that_returns_leaves_nothing(method):
    with Program("family", method, "return") as program:
        pids = list(map(int, program.line().split()))
        below = descendants(program.pid)
        code, _, errors = program.end()
        assert (code, errors) == (0, "")
        for pid in {*pids, *below}:
            eventually(lambda pid=pid: is_over(pid), f"the end of process {pid}")


def test_a_daemon_that_ignores_sigterm_does_not_keep_the_program(method):
    with Program("deaf", method) as program:
        pid = int(program.line())
        code, _, _ = program.end()
        assert code == 0
        eventually(lambda: is_over(pid))


def test_an_orphan_may_be_kept(method):
    with Program("keep", method) as program:
        pid = int(program.line())
        # Its output is the kept child's, too.
        assert program.process.wait(PATIENCE) == 0
        try:
            assert not is_over(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: is_over(pid))


def test_descriptors_and_zombies_do_not_pile_up(ctx):
    for _ in range(3):
        child = ctx.Process(target=nothing)
        child.start()
        child.join()
        child.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        child = ctx.Process(target=nothing)
        child.start()
        child.join()
    del child
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)
    assert not zombies(os.getpid())


def test_the_supervisor_may_be_killed(ctx):
    child = ctx.Process(target=sleep)
    child.start()
    helpers = [pid for pid in descendants(os.getpid()) if pid != child.pid and not is_over(pid)]
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    for pid in helpers:
        eventually(lambda pid=pid: is_over(pid))
    if ctx.get_start_method() == "fork":
        child.kill()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL
    again = ctx.Process(target=leave, args=(3,))
    again.start()
    again.join(PATIENCE)
    assert again.exitcode == 3


def test_a_fork_server_that_was_killed_is_replaced_whatever_was_started_meanwhile():
    code = """
import os, signal, sys
import broody, broody.connection
from broody import forkserver
if __name__ == '__main__':
    for method in ('forkserver', 'fork', 'spawn'):
        child = broody.get_context(method).Process(target=abs, args=(-1,))
        child.start()
        child.join()
    pidfd = os.pidfd_open(forkserver.ensure_running())
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    broody.connection.wait([pidfd])
    child = broody.get_context('forkserver').Process(target=sys.exit, args=(7,))
    child.start()
    child.join()
    print(child.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "7\n", done.stderr


def test_another_build_of_the_package_is_refused(method, tmp_path):
    """As after an upgrade under a running program."""
    if method == "fork":
        pytest.skip("a fork loads nothing")
    shutil.copytree(Path(broody.__file__).parent, tmp_path / "broody", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import os, sys
import broody, broody._broody
assert broody.__file__.startswith({str(tmp_path)!r})
path = {str(tmp_path / "broody/_broody.abi3.so")!r}
with open(path, 'rb') as file:
    module = bytearray(file.read())
# The ELF note with the build's number: type 3 of the owner GNU, 20 bytes.
at = module.index(bytes([4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]) + b'GNU\\0') + 16
module[at] ^= 1
with open(path + '.new', 'wb') as file:
    file.write(module)
os.replace(path + '.new', path)
if __name__ == '__main__':
    child = broody.get_context({method!r}).Process(target=sys.exit, args=(7,))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode != 0 and "another build" in done.stderr, done


PROGRAM = """
import os, sys
import broody
number = int(sys.argv[1])
print("main", flush=True)

def report():
    import __main__
    print(__name__, number, __main__.number, __main__.report is report, flush=True)

if __name__ == "__main__":
    for _ in range(2):
        child = broody.get_context(sys.argv[2]).Process(target=report)
        child.start()
        child.join()
"""


@pytest.mark.parametrize("name", ["program.py", "program"])
def test_a_child_has_the_main_module_and_a_fork_server_loads_it_once(method, name, tmp_path):
    path = tmp_path / name
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(path), "42", method], capture_output=True, text=True, timeout=PATIENCE
    )
    runs, module = {"fork": (1, "__main__"), "forkserver": (2, "__mp_main__"), "spawn": (3, "__mp_main__")}[method]
    lines = done.stdout.splitlines()
    assert lines.count("main") == runs, done
    assert lines.count(f"{module} 42 42 True") == 2, done


def test_what_cannot_be_pickled_is_an_error_at_the_start(method):
    if method == "fork":
        pytest.skip("a fork pickles nothing")
    child = broody.get_context(method).Process(target=lambda: None)
    with pytest.raises((AttributeError, TypeError, Exception), match="pickle|lambda"):
        child.start()
    assert child.pid is None


def test_misuse_is_refused(ctx):
    child = ctx.Process(target=sleep)
    with pytest.raises(AssertionError):
        child.join()
    with pytest.raises(ValueError):
        child.sentinel  # noqa: B018
    child.start()
    with pytest.raises(AssertionError):
        child.start()
    with pytest.raises(ValueError):
        child.close()
    child.join(-1)
    assert child.is_alive()
    child.kill()
    child.join()
    child.close()
    with pytest.raises(ValueError):
        child.join()


def join_it(child):
    try:
        child.join()
    except AssertionError:
        sys.exit(5)


def test_only_the_starter_may_join():
    ctx = broody.get_context("fork")
    child = ctx.Process(target=sleep)
    child.start()
    stranger = ctx.Process(target=join_it, args=(child,))
    stranger.start()
    stranger.join(PATIENCE)
    assert stranger.exitcode == 5
    child.kill()
    child.join()


def test_ctrl_c_ends_a_join_at_once(method):
    with Program("join", method) as program:
        program.line()
        os.kill(program.pid, signal.SIGINT)
        code, out, errors = program.end()
        assert "KeyboardInterrupt" in out
        assert code == 0, errors


def test_forks_of_broody_warn_of_no_threads():
    """Python 3.12 and later warn of forks of processes with threads. The engine has some, and they do no harm."""
    code = """
import broody, warnings
warnings.simplefilter('error')
with broody.get_context('fork').Pool(2) as pool:
    child = broody.get_context('fork').Process(target=print, args=('hello',))
    child.start()
    child.join()
    print(pool.map(abs, [-1]), child.exitcode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("hello\n[1] 0\n", "")


def environment(name):
    sys.exit(int(os.environ[name]))


def test_children_see_the_environment_of_their_start(ctx, monkeypatch):
    for code in (3, 4):
        monkeypatch.setenv("BROODY_TEST", str(code))
        child = ctx.Process(target=environment, args=("BROODY_TEST",))
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == code


def directory(expected):
    sys.exit(os.getcwd() != expected)


def test_children_begin_where_they_were_started(ctx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    child = ctx.Process(target=directory, args=(str(tmp_path),))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before, exit functions of atexit ran in children of spawn only")
@pytest.mark.parametrize("what", ["process", "pool"])
def test_children_run_their_own_exit_functions_and_no_others(method, what, tmp_path):
    with Program("exits", method, what, tmp_path) as program:
        assert program.end() == (0, "", "")
    assert (tmp_path / "own").exists()
    assert (tmp_path / "parent's").read_text() == str(program.pid)
