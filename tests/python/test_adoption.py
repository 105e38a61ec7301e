"""Programs that do not know of broody: `python -m broody`, `broody.install()`, and what they start."""

import os
import subprocess
import sys
from pathlib import Path

import broody
import pytest
from conftest import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples/python"

# Says of which package the modules are that it got, also in children of every start method and of subprocess.
SHOW = """
import multiprocessing, multiprocessing.pool, multiprocessing.context, os, subprocess, sys
from multiprocessing.pool import ThreadPool
from multiprocessing import Process, shared_memory
import multiprocessing.connection as connection

def check():
    for module in (multiprocessing, multiprocessing.pool, shared_memory, connection, sys.modules['multiprocessing.context']):
        assert 'broody' in module.__file__, module
        assert module.__name__.startswith('broody'), module
        assert module.__spec__.name == module.__name__, module.__spec__
    standard = os.path.dirname(os.__file__) + '/multiprocessing/'
    for module in list(sys.modules.values()):
        assert not (getattr(module, '__file__', None) or '').startswith(standard), module
    assert ThreadPool is multiprocessing.pool.ThreadPool

if __name__ == '__main__':
    check()
    for method in multiprocessing.get_all_start_methods():
        child = multiprocessing.get_context(method).Process(target=check)
        child.start()
        child.join()
        assert child.exitcode == 0, method
        with multiprocessing.get_context(method).Pool(1) as pool:
            pool.apply(check)
    code = 'import multiprocessing.pool as pool; print(pool.__name__)'
    print(subprocess.check_output([sys.executable, '-c', code], text=True).strip(), *sys.argv[1:])
"""


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **more,
    )


def test_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SHOW)
    done = run("-m", "broody", script, "one", "two")
    assert (done.returncode, done.stdout) == (0, "broody.pool one two\n"), done.stderr


def test_a_module(tmp_path):
    (tmp_path / "shown.py").write_text(SHOW)
    done = run("-m", "broody", "-m", "shown", "three", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "broody.pool three\n"), done.stderr


def test_install_in_code(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import broody\nbroody.install()\n" + SHOW)
    done = run(script)
    assert (done.returncode, done.stdout) == (0, "broody.pool\n"), done.stderr


def test_modules_need_not_be_imported_one_by_one():
    code = "import multiprocessing as mp; print(mp.connection.wait([], 0), mp.pool.Pool.__name__, mp.util.get_temp_dir.__name__)"
    done = run("-m", "broody", "-c", code)
    assert (done.returncode, done.stdout) == (0, "[] Pool get_temp_dir\n"), done.stderr


def test_executors_of_the_standard_library(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
if __name__ == '__main__':
    for method in multiprocessing.get_all_start_methods():
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            print(list(pool.map(abs, [-1, 2])))
""")
    done = run("-m", "broody", script)
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n" * 3), done.stderr


def test_wrong_command_lines():
    for arguments, code, told in (
        ((), 2, "usage"),
        (("-m",), 1, "argument expected"),
        (("/no/such/file.py",), 1, "no such file"),
        (("--help",), 0, ""),
    ):
        done = run("-m", "broody", *arguments)
        assert done.returncode == code
        assert told in done.stderr


def test_the_zombie_programs():
    done = run("-m", "broody", EXAMPLES / "zombies.py")
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["gone", "0 zombies", "gone"], done.stderr


def test_the_downloader():
    done = run("-m", "broody", EXAMPLES / "downloader.py", "1")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 0


def test_a_word_count_is_equal(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("to be or not to be\n" * number)
    outputs = [run(*how, EXAMPLES / "wordfreq.py", tmp_path).stdout for how in ((), ("-m", "broody"))]
    assert outputs[0] == outputs[1] and "be " in outputs[0]


def test_the_defaults_are_the_interpreters():
    expected = "forkserver" if sys.version_info >= (3, 14) else "fork"
    assert run("-c", "import broody; print(broody.get_start_method())").stdout.strip() == expected
    assert broody.get_all_start_methods()[0] == expected


def test_broody_does_not_import_the_standard_module():
    code = "import broody.pool, sys; print([name for name in sys.modules if name.startswith(('multiprocessing', '_multiprocessing'))])"
    assert run("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("flag", ["-E", "-I"])
def test_children_of_an_isolated_interpreter(flag, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import sys
sys.path.insert(0, %r)
import broody
if __name__ == '__main__':
    child = broody.get_context('spawn').Process(target=print, args=('hello',))
    child.start()
    child.join()
""" % os.path.dirname(os.path.dirname(broody.__file__)))
    assert run(flag, script).stdout == "hello\n"
