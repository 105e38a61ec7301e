"""One cell of the matrix: a suite on one interpreter with one start method, run in processes of its own, and judged."""

import asyncio
import dataclasses
import datetime
import fnmatch
import functools
import importlib.util
import json
import os
import shutil
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
# The same for a test that is known not to pass: some of them wait for what does not come.
LITTLE_PATIENCE = 20
# So many tests of a suite may be known not to pass, for each interpreter and start method.
MOST_KNOWN = 8


@dataclasses.dataclass(frozen=True)
class Interpreter:
    path: str
    # Its first two numbers, as "3.11", and all of them.
    minor: str
    full: str

    @classmethod
    def at(cls, name):
        """Asks it. ValueError, if it is none, or older than broody works with."""
        path = shutil.which(name)
        if path is None:
            raise ValueError(f"there is no interpreter {name}")
        asked = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.python_version())"
        try:
            told = subprocess.run([path, "-c", asked], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ValueError(f"{name} cannot be run as an interpreter: {error}") from None
        words = told.stdout.split()
        if told.returncode or len(words) != 2:
            raise ValueError(f"{name} is no interpreter that works: {told.stderr.strip() or told.stdout.strip()}")
        if tuple(map(int, words[0].split("."))) < (3, 11):
            raise ValueError(f"{name} is Python {words[1]}: broody needs 3.11 or later")
        return cls(os.path.abspath(path), *words)


def broody():
    """The folder of the package under test: that of this repository, or the one that is installed beside this interpreter, if CONFORMANCE_INSTALLED is set."""
    if not os.environ.get("CONFORMANCE_INSTALLED"):
        return ROOT / "python/broody"
    # Not imported: what is wrong with it is for the tests to say.
    spec = importlib.util.find_spec("broody")
    if spec is None:
        raise ValueError(f"broody is not installed for {sys.executable}")
    return Path(spec.origin).parent


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    interpreter: Interpreter
    method: str
    types: list
    # Of the names of tests, as the shell's.
    pattern: str = "*"
    # A folder with a package `test`, for what the interpreter comes without, and what the document says of it.
    tests: Path | None = None
    note: str = ""

    @property
    def suite(self):
        return suites.SUITES[self.name]

    def select(self, test):
        return self.suite.is_for(test, self.method, self.types) and fnmatch.fnmatch(test, self.pattern)

    def environment(self, folder):
        """That of the tests: its path begins with the package that stands for the standard module."""
        # Alone, for interpreters that it was not installed for: nothing else of this one's packages.
        package = folder / "package"
        package.mkdir()
        (package / "broody").symlink_to(broody())
        inside = HERE / "inside"
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (inside, package / "broody/_shadow/path", package))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CONFORMANCE_WATCH": str(folder / "watch"),
            "CONFORMANCE_EXECUTOR": self.suite.executor,
            "CONFORMANCE_TESTS": str(self.tests or ""),
        }


class CannotLoad(Exception):
    """What the interpreter says of it."""


async def run(cell):
    """Runs a cell: what became of it, as `matrix` takes it."""
    # Before, as files may change while it runs.
    begun, head = time.monotonic(), commit()
    listed = suites.known(cell.name, cell.method, cell.interpreter.minor)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "watch").touch()
        env = cell.environment(folder)
        outcomes, wrong, missing, borrowed = {}, [], False, False
        try:
            origin = await find(cell, env)
            missing = not origin
            if origin:
                borrowed = cell.tests in Path(origin).parents
                outcomes = await run_tests(cell, env, folder, listed)
        except CannotLoad as error:
            wrong.append((f"the suite cannot be loaded: {str(error).splitlines()[-1]}", str(error)))
        strays = sorted(set((folder / "watch").read_text().splitlines()))
    counts, known, failed = judge(outcomes, listed, strays)
    wrong += failed
    if not (missing or outcomes or wrong) and cell.pattern == "*":
        wrong.append(("no test of the suite is for this start method", ""))
    return {
        "suite": cell.name,
        "method": cell.method,
        "python": cell.interpreter.full,
        "types": cell.types,
        "pattern": cell.pattern,
        "missing": missing,
        "note": (cell.note or f"the tests are those of {cell.tests}") if borrowed else "",
        "counts": counts,
        "known": known,
        "wrong": wrong,
        "commit": head,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - begun),
    }


async def find(cell, env):
    """The file of the suite; empty if the interpreter comes without it."""
    asked = f"import importlib.util; spec = importlib.util.find_spec({cell.suite.package!r}); print(spec.origin if spec else '')"
    return (await output([cell.interpreter.path, "-c", asked], env)).strip()


async def run_tests(cell, env, folder, listed):
    """What became of each test: {name: (outcome, why)}."""
    results, names = folder / "results", folder / "names"
    worker = str(HERE / "inside/worker.py")
    command = [cell.interpreter.path, "-W", "ignore", worker, cell.suite.module(cell.method), str(names)]
    names.write_text("")
    left = [test for test in (await output([*command, "-"], env)).split() if cell.select(test)]
    outcomes = {}
    while left:
        names.write_text("\n".join(left))
        results.write_text("")
        hung = await follow([*command, str(results)], env, results, listed)
        for line in results.read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] == "start":
                outcomes.setdefault(entry["test"], ("failed", "its process ended in the middle of it"))
            elif outcomes.get(entry["test"], ("",))[0] != "failed" or "in the middle" in outcomes[entry["test"]][1]:
                outcomes[entry["test"]] = (entry["outcome"], entry.get("why", ""))
        if hung:
            outcomes[hung] = ("hung", "it does not end")
        before, left = left, [name for name in left if name not in outcomes]
        if before == left:
            for name in left:
                outcomes[name] = ("failed", "never begun")
            break
    return outcomes


async def output(command, env):
    """What a command prints, which must work."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    printed, complaint = await child.communicate()
    if child.returncode:
        raise CannotLoad(complaint.decode(errors="replace").strip() or f"it ended with {child.returncode}")
    return printed.decode()


async def follow(command, env, results, listed):
    """Runs until the end, or until a test hangs; gives its name then."""
    nowhere = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *command, env=env, start_new_session=True, stdin=nowhere, stdout=nowhere,
        stderr=None if os.environ.get("CONFORMANCE_VERBOSE") else nowhere,
    )  # fmt: skip
    seen, since = -1, time.monotonic()
    try:
        while True:
            try:
                await asyncio.wait_for(child.wait(), 1)
                return None
            except TimeoutError:
                size = results.stat().st_size
                if size != seen:
                    seen, since = size, time.monotonic()
                    continue
                *_, last = [None, *(json.loads(line)["test"] for line in results.read_text().splitlines())]
                patience = LITTLE_PATIENCE if last and suites.entry_of(last, listed) else PATIENCE
                if time.monotonic() - since > patience:
                    return last
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


@functools.cache
def commit():
    """What was run: the commit, with a plus if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return head.stdout.strip() + "+" * bool(changed.stdout.strip()) if head.returncode == 0 else "unknown"


def judge(outcomes, listed, strays):
    """The counts of a run; what of it is known: {test: (its name in KNOWN.toml, reason)}; and what is wrong: texts, each with a traceback."""
    counts = {outcome: 0 for outcome in ("passed", "skipped", "known", "failed", "hung")}
    known, wrong = {}, []
    for test, (outcome, why) in sorted(outcomes.items()):
        name, entry = suites.name_of(test), suites.entry_of(test, listed)
        if outcome in ("failed", "hung") and entry:
            outcome = "known"
            known[name] = (entry, listed[entry][0])
        elif outcome in ("failed", "hung"):
            wrong.append((f"{outcome}: {name}", why))
        elif outcome == "passed" and entry and not listed[entry][1]:
            wrong.append((f"passed, and is listed as known: {name}", ""))
        counts[outcome] += 1
    if counts["known"] > MOST_KNOWN:
        wrong.append((f"{counts['known']} tests are known not to pass; {MOST_KNOWN} may be", ""))
    wrong += [(f"loaded a file of the standard module: {stray}", "") for stray in strays[:10]]
    return counts, known, wrong
