"""Runs CPython's own test suite of concurrent.futures over `broody.futures`, and says what passes.

    python tests/conformance/executor.py [-k PATTERN] [--python PYTHON] [--suite FOLDER] [--verbose] [METHOD ...]

The tests are those of the interpreter's `test` package, unchanged, or of the `test` package in FOLDER. They and all their children find broody's
`ProcessPoolExecutor` in the place of the standard's, and broody where they ask for `multiprocessing`. What does not pass is listed in EXECUTOR.toml, with its
reason, or is a failure of the run. A test that hangs is ended, and the others go on.
"""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from run import HERE, PATIENCE, follow

METHODS = ("fork", "spawn", "forkserver")


def environment(suite):
    package = HERE.parents[1] / "python"
    if os.environ.get("CONFORMANCE_INSTALLED"):
        import broody

        package = Path(broody.__file__).parents[1]
    folders = [HERE / "executor", package / "broody/_shadow/path", HERE, package]
    if suite:
        folders.insert(0, suite)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}


def method(test):
    """The start method of a test, by the name of its class; None for those of other executors."""
    name = test.rsplit(".", 2)[-2]
    for found in ("Forkserver", "Spawn", "Fork"):
        if found in name or f"test_{found.lower()}" in test:
            return found.lower()
    return None


def short(test):
    return ".".join(test.rsplit(".", 2)[-2:])


def run(command, env, folder, select):
    """What became of each test: {name: (outcome, why)}."""
    names, results = folder / "names", folder / "results.jsonl"
    names.write_text("")
    listed = subprocess.run([*command, str(names), "-"], env=env, capture_output=True, text=True)
    if "No module named 'test.test_concurrent_futures'" in listed.stderr:
        print("NOT RUN: this interpreter comes without test.test_concurrent_futures; give another --python, or a --suite")
        sys.exit()
    if listed.returncode:
        sys.exit(f"the suite cannot be loaded:\n{listed.stderr}")
    left = [name for name in listed.stdout.split() if select(name)]
    outcomes = {}
    while left:
        names.write_text("\n".join(left))
        results.write_text("")
        hung = follow([*command, str(names), str(results)], env, results)
        for entry in map(json.loads, results.read_text().splitlines()):
            test = entry["test"]
            if entry["event"] == "start":
                outcomes[test] = ("failed", "its process ended in the middle of it")
            elif entry["outcome"] == "failed" or outcomes.get(test, ("", "in the middle"))[1].endswith("of it"):
                outcomes[test] = (entry["outcome"], entry.get("why", ""))
        if hung:
            outcomes[hung] = ("hung", f"no end within {PATIENCE} s")
        before, left = left, [name for name in left if name not in outcomes]
        if before == left:
            outcomes.update(dict.fromkeys(left, ("failed", "never begun")))
            break
    return outcomes


def known(version):
    with open(HERE / "EXECUTOR.toml", "rb") as file:
        entries = tomllib.load(file)["known"]
    listed = {}
    for entry in entries:
        if version in entry.get("versions", [version]):
            for name in entry.get("methods", METHODS):
                listed[entry["test"], name] = entry["reason"], entry.get("may_pass", False)
    return listed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--suite", type=Path, help="a folder with the package `test` in it")
    parser.add_argument("-k", dest="pattern", default="*")
    parser.add_argument("--verbose", action="store_true", help="show the tracebacks of what does not pass")
    options = parser.parse_args()
    pattern = options.pattern if "*" in options.pattern else f"*{options.pattern}*"
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([options.python, "-c", ask], capture_output=True, text=True).stdout.strip()
    command = [options.python, "-W", "ignore", str(HERE / "worker.py"), "suite_executor"]
    select = lambda name: method(name) in options.methods and fnmatch.fnmatch(name, pattern)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(command, environment(options.suite), Path(folder), select)
    listed, bad = known(version), False
    for wanted in options.methods:
        counts = dict.fromkeys(("passed", "failed", "hung", "skipped", "known"), 0)
        print(f"\n{wanted}, Python {version}")
        for test, (outcome, why) in sorted(outcomes.items()):
            if method(test) != wanted:
                continue
            # The class's name has the start method in it.
            name = test.rsplit(".", 1)[-1]
            reason, may_pass = listed.get((name, wanted), (None, True))
            if outcome in ("failed", "hung") and reason:
                outcome = "known"
                print(f"  known: {short(test)} ({reason})")
            elif outcome in ("failed", "hung"):
                bad = True
                print(f"  {outcome}: {short(test)}")
                if options.verbose:
                    print("    " + why.strip().replace("\n", "\n    "))
            elif outcome == "passed" and not may_pass:
                bad = True
                print(f"  passed, and is listed as known: {short(test)}")
            counts[outcome] += 1
        print(f"  run {sum(counts.values())}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.items()))
    sys.exit(bad)


if __name__ == "__main__":
    main()
