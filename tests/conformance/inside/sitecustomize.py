"""In every process of a run.

- Notes when a file of the standard module is opened, which must not happen. Interpreters that tests start with the option -I or -E, which would have them pass
  over the folders where broody is, start without it.
- Puts another executor in the place of the standard one, if the run is over that.
- Adds tests that the interpreter comes without to its package `test`.
"""

import os
import sys

_STANDARD = os.path.join(os.path.dirname(os.__file__), "multiprocessing") + os.sep
_LOG = os.environ.get("CONFORMANCE_WATCH")
_EXECUTOR = os.environ.get("CONFORMANCE_EXECUTOR")
_TESTS = os.environ.get("CONFORMANCE_TESTS")


def _watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(_STANDARD):
        with open(_LOG, "a") as log:
            log.write(f"{os.getpid()} {arguments[0]}\n")
    elif event == "subprocess.Popen" and arguments[1][0] == sys.executable:
        # The list that the command is started with.
        arguments[1][:] = [word for word in arguments[1] if word not in ("-I", "-E")]


def _replace_executor(module):
    __import__(_EXECUTOR)
    module.ProcessPoolExecutor = sys.modules[_EXECUTOR].ProcessPoolExecutor


def _add_tests(package):
    # Behind its own, which go first.
    package.__path__.append(os.path.join(_TESTS, "test"))


class _AfterImport:
    """Lets modules be found as always, and does something to some of them as soon as they are loaded."""

    def __init__(self, actions):
        self.actions = actions

    def find_spec(self, name, path=None, target=None):
        if name not in self.actions:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                self.actions[name](module)

            spec.loader.exec_module = exec_module
        return spec


if _LOG:
    sys.addaudithook(_watch)
_ACTIONS = {}
if _EXECUTOR:
    _ACTIONS["concurrent.futures.process"] = _replace_executor
if _TESTS:
    _ACTIONS["test"] = _add_tests
if _ACTIONS:
    sys.meta_path.insert(0, _AfterImport(_ACTIONS))
