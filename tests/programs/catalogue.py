"""The programs that are run unchanged, in groups."""

from pathlib import Path

import documentation
from program import Program

HERE = Path(__file__).resolve().parent
METHODS = ("fork", "spawn", "forkserver")


def documented(cache):
    """The examples of Python's documentation."""
    pages = documentation.folder(cache)
    if pages is None:
        return [], [("all", "the documentation is neither installed nor to be had: apt-get install python3.11-doc")]
    rows, left_out = documentation.programs(pages, cache / "documentation")
    return rows, [(block.name, why) for block, why in left_out]


def standard(_):
    """What comes with Python, and programs that need nothing else."""
    rows = [
        Program(f"{name} {method}", [[str(HERE / f"standard/{name}.py"), method]])
        for name in ("executors", "pools", "managers", "sharing", "logs")
        for method in METHODS
    ]
    sources = {f"tree/part{number}/module{index}.py": f"VALUE = {index}\n" for number in range(3) for index in range(20)}
    broken = {"tree/wrong.py": "this is no Python\n"}
    rows += [
        # Workers write as they are ready.
        Program("python -m compileall -j 2", [["-m", "compileall", "-j", "2", "tree"]], files=sources, contents=True, unordered=["^(Compiling|Listing)"]),
        Program("python -m compileall -j 2, and an error", [["-m", "compileall", "-q", "-j", "2", "tree"]], files=sources | broken, contents=True),
        Program(
            "python -m lib2to3 -j 2", [["-m", "lib2to3", "--no-diffs", "-w", "-n", "-j", "2", "tree"]], until=(3, 13), contents=True,
            files={f"tree/module{index}.py": f"print 'module', {index}\nd.has_key({index})\n" for index in range(10)},
            unordered=["^RefactoringTool"],
        ),  # fmt: skip
    ]
    return rows, []


def packages(_):
    """What users install."""
    needs = {"joblib": ("joblib", "numpy"), "sklearn": ("sklearn",), "torch": ("torch",)}
    rows = []
    for name, parameters in (("joblib", BACKENDS), ("sklearn", BACKENDS), ("torch", METHODS)):
        for parameter in parameters:
            rows.append(Program(f"{name} {parameter}", [[str(HERE / f"packages/with_{name}.py"), parameter]], needs=needs[name]))
    return rows, []


BACKENDS = ("multiprocessing", "loky", "threading")
GROUPS = {"documentation": documented, "standard": standard, "packages": packages}
