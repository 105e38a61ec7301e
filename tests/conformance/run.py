"""Runs CPython's own test suites of multiprocessing, and of what stands on it, over broody, and says what passes.

    python tests/conformance/run.py [--suite SUITE] [--types processes,none] [-k PATTERN] [--python PYTHON ...] [METHOD ...]

The tests are those of the interpreter's `test` package, unchanged. They and all their children find broody where they ask for `multiprocessing`; the run
proves that none of these processes has opened a file of the standard module. What does not pass is listed in KNOWN.toml, with its reason, or is a failure of
the run. A test that hangs is ended, and the others go on.
"""

import argparse
import datetime
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import suites

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Far more than the slowest test needs on a loaded machine, in seconds.
PATIENCE = int(os.environ.get("PATIENCE", "120"))
# So many tests may be known not to pass, for each interpreter and start method.
MOST_KNOWN = 8


def environment(options, folder):
    """That of the tests: its path begins with the package that stands for the standard module."""
    package = ROOT / "python"
    if os.environ.get("CONFORMANCE_INSTALLED"):
        import broody

        # Alone, for interpreters that it was not installed for: nothing else of this one's packages.
        package = folder / "installed"
        package.mkdir()
        (package / "broody").symlink_to(Path(broody.__file__).parent)
    folders = [HERE / "watch", package / "broody/_shadow/path", HERE, package]
    if options.tests:
        folders.append(Path(options.tests).resolve())
    path = os.pathsep.join(map(str, folders))
    watch = {"CONFORMANCE_WATCH": str(folder / "watch"), "CONFORMANCE_EXECUTOR": options.executor or ""}
    return {**os.environ, "PYTHONPATH": path, **watch, "PYTHONDONTWRITEBYTECODE": "1"}


def version(python):
    """Its first two numbers, and all of them."""
    asked = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.python_version())"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.split()


def run(python, suite, method, select, env, folder):
    """What became of each test: {name: (outcome, why)}; None if the interpreter comes without the suite."""
    results, names = folder / "results", folder / "names"
    command = [python, "-W", "ignore", str(HERE / "worker.py"), suite.module(method), str(names)]
    names.write_text("")
    if subprocess.run([python, "-c", f"import {suite.package}"], env=env, capture_output=True).returncode:
        return None
    listed = subprocess.run([*command, "-"], env=env, capture_output=True, text=True)
    if listed.returncode:
        sys.exit(f"the suite cannot be loaded:\n{listed.stderr}")
    left = [name for name in listed.stdout.split() if select(name)]
    outcomes = {}
    while left:
        names.write_text("\n".join(left))
        results.write_text("")
        hung = follow([*command, str(results)], env, results)
        for line in results.read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] == "start":
                outcomes.setdefault(entry["test"], ("failed", "its process ended in the middle of it"))
            elif outcomes.get(entry["test"], ("",))[0] != "failed" or "in the middle" in outcomes[entry["test"]][1]:
                outcomes[entry["test"]] = (entry["outcome"], entry.get("why", ""))
        if hung:
            outcomes[hung] = ("hung", f"no end within {PATIENCE} s")
        before, left = left, [name for name in left if name not in outcomes]
        if before == left:
            for name in left:
                outcomes[name] = ("failed", "never begun")
            break
    return outcomes


def follow(command, env, results):
    """Runs until the end, or until a test hangs; gives its name then."""
    child = subprocess.Popen(
        command, env=env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("CONFORMANCE_VERBOSE") else subprocess.DEVNULL,
    )  # fmt: skip
    seen = -1
    try:
        while True:
            try:
                child.wait(PATIENCE)
                return None
            except subprocess.TimeoutExpired:
                size = results.stat().st_size
                if size != seen:
                    seen = size
                    continue
                lines = [json.loads(line) for line in results.read_text().splitlines()]
                return lines[-1]["test"] if lines else None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def commit():
    """What was run: the commit, with a plus if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else "unknown"


def judge(outcomes, listed, strays):
    """The counts of a run, what of it is known, and what is wrong: texts."""
    counts = {outcome: 0 for outcome in ("passed", "failed", "hung", "skipped")}
    known, wrong = {}, []
    for test, (outcome, why) in sorted(outcomes.items()):
        counts[outcome] += 1
        name = suites.name_of(test)
        if outcome in ("failed", "hung"):
            if name in listed:
                known[name] = listed[name][0]
            else:
                wrong.append((f"{outcome}: {name}", why))
        elif outcome == "passed" and name in listed and not listed[name][1]:
            wrong.append((f"passed, and is listed as known: {name}", ""))
    if len(known) > MOST_KNOWN:
        wrong.append((f"{len(known)} tests are known not to pass; {MOST_KNOWN} may be", ""))
    wrong += [(f"loaded a file of the standard module: {stray}", "") for stray in strays[:10]]
    return counts, known, wrong


def one(options, python, method):
    """One start method on one interpreter. Gives whether all is well."""
    suite = suites.SUITES[options.suite]
    types = options.types.split(",")
    pattern = options.pattern if "*" in options.pattern else f"*{options.pattern}*"
    minor, full = version(python)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        watch = folder / "watch"
        watch.touch()
        select = lambda name: suite.is_for(name, method, types) and fnmatch.fnmatch(name, pattern)  # noqa: E731
        outcomes = run(python, suite, method, select, environment(options, folder), folder)
        strays = sorted(set(watch.read_text().splitlines()))
    print(f"\n{options.suite}, {method}, Python {full}")
    missing = outcomes is None
    counts, known, wrong = judge(outcomes or {}, suites.known(options.suite, method, minor), strays)
    for name, reason in known.items():
        print(f"  known: {name}: {reason}")
    for what, why in wrong:
        print(f"  {what}")
        if options.verbose and why:
            print("    " + why.strip().replace("\n", "\n    "))
    if missing:
        print("  not run: the interpreter comes without these tests", flush=True)
    else:
        told = ", ".join(f"{outcome} {count}" for outcome, count in counts.items())
        print(f"  run {len(outcomes)}: {told}", flush=True)
    if options.results:
        cell = {
            "suite": options.suite,
            "executor": options.executor,
            "method": method,
            "python": full,
            "types": types,
            "pattern": options.pattern,
            "missing": missing,
            "note": options.note,
            "counts": counts,
            "known": known,
            "wrong": [what for what, _ in wrong],
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - begun),
        }
        store = Path(options.results)
        store.mkdir(parents=True, exist_ok=True)
        (store / f"{options.suite}-{full}-{method}.json").write_text(json.dumps(cell, indent=1) + "\n")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=suites.METHODS)
    parser.add_argument("--suite", choices=suites.SUITES, default="multiprocessing")
    parser.add_argument("--python", action="append", help="an interpreter; several times for several (default: this one)")
    parser.add_argument("--types", default="processes,none", help=f"of {','.join(suites.TYPES)}")
    parser.add_argument("-k", dest="pattern", default="*")
    parser.add_argument("--tests", help="a folder with a `test` package, for interpreters that come without theirs")
    parser.add_argument("--note", help="what the document says of these runs beside their figures")
    parser.add_argument("--executor", help="a module whose ProcessPoolExecutor takes the place of the standard one")
    parser.add_argument("--results", help="a folder where matrix.py finds what became of each run")
    parser.add_argument("--verbose", action="store_true", help="show the tracebacks of what does not pass")
    options = parser.parse_args()
    well = [one(options, python, method) for python in options.python or [sys.executable] for method in options.methods]
    sys.exit(not all(well))


if __name__ == "__main__":
    main()
