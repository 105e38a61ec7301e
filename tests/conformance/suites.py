"""CPython's test suites that run over broody: where their tests are, which start method each is for, and what of them does not pass."""

import tomllib
from pathlib import Path

METHODS = ("fork", "spawn", "forkserver")
TYPES = ("processes", "manager", "threads", "none")


class Multiprocessing:
    """The suite of multiprocessing itself. It is made anew for each start method."""

    title = "`multiprocessing`: test._test_multiprocessing"
    package = "test._test_multiprocessing"
    executor = ""

    @staticmethod
    def module(method):
        return f"suite_{method}"

    @staticmethod
    def is_for(test, method, types):
        name = class_of(test)
        kind = next((kind for kind in TYPES if name.startswith("With" + kind.capitalize())), "none")
        return kind in types


class MainHandling:
    """What children make of the program's main module: scripts, folders, archives, packages."""

    title = "The program's main module: test.test_multiprocessing_main_handling"
    package = "test.test_multiprocessing_main_handling"
    executor = ""
    _prefixes = {"fork": "ForkCmdLine", "spawn": "SpawnCmdLine", "forkserver": "ForkServerCmdLine"}

    @classmethod
    def module(cls, method):
        return cls.package

    @classmethod
    def is_for(cls, test, method, types):
        return class_of(test).startswith(cls._prefixes[method])


class ConcurrentFutures:
    """`concurrent.futures.ProcessPoolExecutor`, the interpreter's own, which runs on broody's processes and queues."""

    title = "`ProcessPoolExecutor` on broody: test.test_concurrent_futures"
    package = "test.test_concurrent_futures"
    executor = ""
    _prefixes = {"fork": "ProcessPoolFork", "spawn": "ProcessPoolSpawn", "forkserver": "ProcessPoolForkserver"}

    @classmethod
    def module(cls, method):
        return cls.package

    @classmethod
    def is_for(cls, test, method, types):
        mine = [name for name, prefix in cls._prefixes.items() if class_of(test).startswith(prefix)]
        return bool(mine) and max(mine, key=len) == method


class Executor(ConcurrentFutures):
    """The same tests over broody's executor, in the place of the interpreter's own."""

    title = "`broody.futures.ProcessPoolExecutor`: test.test_concurrent_futures"
    executor = "broody.futures"


SUITES = {
    "multiprocessing": Multiprocessing,
    "main_handling": MainHandling,
    "concurrent_futures": ConcurrentFutures,
    "executor": Executor,
}


def class_of(test):
    return test.split(".")[-2]


def name_of(test):
    """The test's class and method."""
    return ".".join(test.split(".")[-2:])


def known(suite, method, version):
    """What does not pass: {name: (reason, whether it may pass)}, where a name is that of a test's class and method, or of its method alone."""
    with open(Path(__file__).parent / "KNOWN.toml", "rb") as file:
        entries = tomllib.load(file)["known"]
    return {
        entry["test"]: (entry["reason"], entry.get("may_pass", False))
        for entry in entries
        if suite == entry.get("suite", "multiprocessing")
        and method in entry.get("methods", METHODS)
        and version in entry.get("versions", [version])
    }


def entry_of(test, listed):
    """The name under which `known` lists a test; None if it does not."""
    names = (name_of(test), test.split(".")[-1])
    return next((name for name in names if name in listed), None)
