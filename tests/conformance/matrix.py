"""Prints what runs of the conformance suites have given as a document.

    python tests/conformance/run.py --results FOLDER ...
    python tests/conformance/matrix.py FOLDER
"""

import argparse
import collections
import json
import sys
from pathlib import Path

import suites

HEAD = """\
# Conformance

CPython's own tests, unchanged, from each interpreter's `test` package, over broody in the place of `multiprocessing`. Interpreters that tests start with `-E` or `-I`,
which would pass over broody, start without that option. No process opened a file of the standard module (those that a test starts with `-S` are not watched).

As `make conformance` printed it (`tests/conformance/matrix.py`, from what `tests/conformance/run.py` has found). One row again:
`python tests/conformance/run.py --suite SUITE --python PYTHON --types processes,none,manager,threads METHOD`.

*Skipped* is what the tests skip by themselves, as it is for another start method, type or system. *Known* does not pass, and is listed below with its reason; at
most eight tests of a suite may be, for each interpreter and start method. A test that fails and is not known, or is known and passes, fails the run.
"""


def load(folder):
    """What each run gave: whole runs only."""
    cells = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    order = {name: number for number, name in enumerate((*suites.SUITES, *suites.METHODS))}
    version = lambda cell: [int(part) for part in cell["python"].split(".")]  # noqa: E731
    cells = [cell for cell in cells if cell["pattern"] == "*"]
    return sorted(cells, key=lambda cell: (order[cell["suite"]], version(cell), order[cell["method"]]))


def numbers(counts):
    return [sum(counts.values()), counts["passed"], counts["skipped"], counts["known"], counts["failed"] + counts["hung"]]


def row(cell):
    return [cell["python"], cell["method"], *numbers(cell["counts"]), cell["commit"], cell["date"]]


def together(cells):
    """A row for each Python and start method: the sums over the suites."""
    sums = {}
    for cell in cells:
        sums.setdefault((cell["python"], cell["method"]), collections.Counter()).update(cell["counts"])
    return [[*which, *numbers(counts)] for which, counts in sums.items()]


def table(heads, rows):
    lines = [heads, ["---" if type(cell) is str else "---:" for cell in rows[0]], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def reasons(cells):
    """Each test that is known, under its name in KNOWN.toml, why, and where it did not pass."""
    found = {}
    for cell in cells:
        for entry in {tuple(entry) for entry in cell["known"].values()}:
            found.setdefault(entry, {}).setdefault(cell["python"], []).append(cell["method"])
    for (test, reason), where in sorted(found.items()):
        places = "; ".join(f"{python} {', '.join(methods)}" for python, methods in where.items())
        yield [f"`{test}`", reason, places]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER")
    folder = parser.parse_args().folder
    cells = load(folder)
    if not cells:
        sys.exit(f"{folder} has no results of whole runs: run.py --results writes them")
    print(HEAD)
    print("## All suites together\n")
    print(table(["Python", "method", "run", "passed", "skipped", "known", "failed"], together(cells)))
    for name, suite in suites.SUITES.items():
        mine = [cell for cell in cells if cell["suite"] == name]
        if not mine:
            continue
        print(f"## {suite.title}\n")
        if name == "multiprocessing" and {kind for cell in mine for kind in cell["types"]} != set(suites.TYPES):
            print(f"Types: {', '.join(sorted({kind for cell in mine for kind in cell['types']}))}.\n")
        if there := [row(cell) for cell in mine if not cell["missing"]]:
            print(table(["Python", "method", "run", "passed", "skipped", "known", "failed", "commit", "date"], there))
        if missing := sorted({cell["python"] for cell in mine if cell["missing"]}):
            print(f"Not run, as the interpreter comes without these tests: {', '.join(missing)}.\n")
        for python, note in sorted({(cell["python"], cell["note"]) for cell in mine if cell["note"]}):
            print(f"Python {python}: {note}\n")
        if known := list(reasons(mine)):
            print(table(["known", "why", "where"], known))
        if wrong := [f"- {cell['python']} {cell['method']}: {what}" for cell in mine for what in cell["wrong"]]:
            print("Failures:\n\n" + "\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
