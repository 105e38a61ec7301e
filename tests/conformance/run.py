"""Runs CPython's own test suites of multiprocessing, and of what stands on it, over broody, and says what passes.

    python tests/conformance/run.py [--suite SUITE ...] [--types processes,none] [-k PATTERN] [--python PYTHON ...] [-j NUMBER] [METHOD ...]

The tests are those of the interpreter's `test` package, unchanged. They and all their children find broody where they ask for `multiprocessing`; the run
proves that none of these processes has opened a file of the standard module. What does not pass is listed in KNOWN.toml, with its reason, or is a failure of
the run. A test that hangs is ended, and the others go on.
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import cell
import suites


def show(result, verbose):
    """What became of a cell, in one piece."""
    lines = [f"\n{result['suite']}, {result['method']}, Python {result['python']}, {result['seconds']} s"]
    for name, (_, reason) in result["known"].items():
        lines.append(f"  known: {name}: {reason}")
    for what, why in result["wrong"]:
        lines.append(f"  {what}")
        if verbose and why:
            lines.append("    " + why.strip().replace("\n", "\n    "))
    if result["missing"]:
        lines.append("  not run: the interpreter comes without these tests")
    else:
        told = ", ".join(f"{outcome} {count}" for outcome, count in result["counts"].items())
        lines.append(f"  run {sum(result['counts'].values())}: {told}")
    print("\n".join(lines), flush=True)


def save(result, folder):
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result['suite']}-{result['python']}-{result['method']}.json"
    what = {**result, "wrong": [what for what, _ in result["wrong"]]}
    (folder / name).write_text(json.dumps(what, indent=1) + "\n")


async def run(cells, options):
    """Runs all cells, so many at a time. Gives what became of each."""
    # The tests are in process groups of their own, and nobody else would end them.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    free = asyncio.Semaphore(options.jobs)

    async def one(wanted):
        async with free:
            result = await cell.run(wanted)
            show(result, options.verbose)
            if options.results:
                save(result, options.results)
            return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(wanted)) for wanted in cells]
    return [task.result() for task in tasks]


def by_version(values, option):
    """{version: value} of what is given as VERSION=VALUE."""
    for value in values:
        if "=" not in value:
            raise ValueError(f"{option} takes a version and what is for it, as 3.11=...: {value}")
    return dict(value.split("=", 1) for value in values)


def choose(parser):
    """The options, and the cells that they ask for."""
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(suites.METHODS)} (default: all)")
    parser.add_argument("--suite", action="append", choices=suites.SUITES, help="several times for several (default: all)")
    parser.add_argument("--python", action="append", help="an interpreter; several times for several (default: this one)")
    parser.add_argument("--types", default="processes,none", help=f"of the suite multiprocessing: {','.join(suites.TYPES)}")
    parser.add_argument("-k", dest="pattern", default="*", help="only tests whose name has this in it, or is like this with * in it")
    parser.add_argument(
        "--tests", action="append", default=[], metavar="VERSION=FOLDER",
        help="where the package `test` has tests that interpreters of that version come without, as 3.11=FOLDER: FOLDER/test/test_concurrent_futures.py",
    )  # fmt: skip
    parser.add_argument("--note", action="append", default=[], metavar="VERSION=TEXT", help="what the document says of these tests")
    parser.add_argument("-j", dest="jobs", type=int, default=1, metavar="NUMBER", help="so many suites at the same time")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where matrix.py finds what became of each run")
    parser.add_argument("--verbose", action="store_true", help="show the tracebacks of what does not pass")
    options = parser.parse_args()
    for method in options.methods:
        if method not in suites.METHODS:
            raise ValueError(f"there is no start method {method}: {', '.join(suites.METHODS)}")
    types = options.types.split(",")
    for kind in types:
        if kind not in suites.TYPES:
            raise ValueError(f"there is no type {kind}: {', '.join(suites.TYPES)}")
    if options.jobs < 1:
        raise ValueError(f"-j takes a number of at least 1: {options.jobs}")
    tests, notes = by_version(options.tests, "--tests"), by_version(options.note, "--note")
    for version, folder in tests.items():
        if not Path(folder, "test").is_dir():
            raise ValueError(f"{folder}, for the tests of {version}, has no folder `test` in it")
        tests[version] = Path(folder).resolve()
    cell.broody()
    interpreters = {}
    for name in options.python or [sys.executable]:
        interpreter = cell.Interpreter.at(name)
        if interpreter.full in interpreters:
            raise ValueError(f"{name} and {interpreters[interpreter.full].path} are both Python {interpreter.full}: one of them will do")
        interpreters[interpreter.full] = interpreter
    pattern = options.pattern if "*" in options.pattern else f"*{options.pattern}*"
    return options, [
        cell.Cell(suite, python, method, types, pattern, tests.get(python.minor), notes.get(python.minor, ""))
        for suite in dict.fromkeys(options.suite or suites.SUITES)
        for python in interpreters.values()
        for method in dict.fromkeys(options.methods or suites.METHODS)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    try:
        options, cells = choose(parser)
    except ValueError as error:
        parser.error(str(error))
    try:
        results = asyncio.run(run(cells, options))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if not any(sum(result["counts"].values()) or result["missing"] or result["wrong"] for result in results):
        sys.exit(f"no test's name is like {options.pattern}")
    sys.exit(any(result["wrong"] for result in results))


if __name__ == "__main__":
    main()
