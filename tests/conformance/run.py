"""Runs CPython's own test suite of multiprocessing over broody, and says what passes.

    python tests/conformance/run.py [--types processes,none] [-k PATTERN] [--python PYTHON] [METHOD ...]

The tests are those of the interpreter's `test` package, unchanged. They and all their children find broody where they ask for `multiprocessing`; the run
proves that none of these processes has opened a file of the standard module. What does not pass is listed in KNOWN.toml, with its reason, or is a failure of
the run. A test that hangs is ended, and the others go on.
"""

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
METHODS = ("fork", "spawn", "forkserver")
# Far more than the slowest test needs on a loaded machine, in seconds.
PATIENCE = int(os.environ.get("PATIENCE", "180"))


def environment(watch):
    folders = [HERE / "watch", HERE.parents[1] / "python/broody/_shadow/path", HERE, HERE.parents[1] / "python"]
    if os.environ.get("CONFORMANCE_INSTALLED"):
        import broody

        home = Path(broody.__file__).parent
        folders = [HERE / "watch", home / "_shadow/path", HERE]
    path = os.pathsep.join(map(str, folders))
    return {**os.environ, "PYTHONPATH": path, "CONFORMANCE_WATCH": str(watch), "PYTHONDONTWRITEBYTECODE": "1"}


def kind(test):
    """The part before the tests of one type: "processes", "manager", "threads", or "none"."""
    name = test.split(".")[1]
    for kind in ("processes", "manager", "threads"):
        if name.startswith("With" + kind.capitalize()):
            return kind
    return "none"


def run(python, method, select, folder):
    """What became of each test: {name: (outcome, why)}."""
    watch, results, names = folder / "watch", folder / f"{method}.jsonl", folder / "names"
    watch.touch()
    command = [python, "-W", "ignore", str(HERE / "worker.py"), f"suite_{method}", str(names)]
    names.write_text("")
    listed = subprocess.run([*command, "-"], env=environment(watch), capture_output=True, text=True)
    if listed.returncode:
        sys.exit(f"the suite cannot be loaded:\n{listed.stderr}")
    left = [name for name in listed.stdout.split() if select(name)]
    outcomes = {}
    while left:
        names.write_text("\n".join(left))
        results.write_text("")
        hung = follow([*command, str(results)], environment(watch), results)
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
    strays = sorted(set(watch.read_text().splitlines()))
    return outcomes, strays


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


def known(method, version):
    with open(HERE / "KNOWN.toml", "rb") as file:
        entries = tomllib.load(file).get("known", [])
    return {
        entry["test"]: (entry["reason"], entry.get("may_pass", False))
        for entry in entries
        if method in entry.get("methods", METHODS) and version in entry.get("versions", [version])
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--types", default="processes,none")
    parser.add_argument("-k", dest="pattern", default="*")
    parser.add_argument("--verbose", action="store_true", help="show the tracebacks of what does not pass")
    options = parser.parse_args()
    types = options.types.split(",")
    pattern = options.pattern if "*" in options.pattern else f"*{options.pattern}*"
    version = subprocess.run(
        [options.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    ).stdout.strip()
    bad = False
    for method in options.methods:
        with tempfile.TemporaryDirectory() as folder:
            select = lambda name: kind(name) in types and fnmatch.fnmatch(name, pattern)  # noqa: E731
            outcomes, strays = run(options.python, method, select, Path(folder))
        listed = known(method, version)
        counts = {outcome: 0 for outcome in ("passed", "failed", "hung", "skipped")}
        print(f"\n{method}, Python {version}")
        for test, (outcome, why) in sorted(outcomes.items()):
            counts[outcome] += 1
            name = test.split(".", 1)[1]
            if outcome in ("failed", "hung"):
                reason = listed.get(name, (None,))[0]
                bad |= reason is None
                print(f"  {outcome}: {name}" + (f" (known: {reason})" if reason else ""))
                if options.verbose and not reason:
                    print("    " + why.strip().replace("\n", "\n    "))
            elif outcome == "passed" and name in listed and not listed[name][1]:
                bad = True
                print(f"  passed, and is listed as known: {name}")
        print(f"  run {len(outcomes)}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.items()))
        for stray in strays[:10]:
            bad = True
            print(f"  loaded a file of the standard module: {stray}")
    sys.exit(bad)


if __name__ == "__main__":
    main()
