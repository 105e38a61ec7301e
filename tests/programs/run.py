"""Runs programs unchanged, under the standard module and by `python -m broody`, and says whether they do the same and what they leave behind.

    python tests/programs/run.py [--python PYTHON ...] [-k PATTERN] [--document FILE] [GROUP ...]

Each program is run once each way, in a folder of its own. Its exit status, its output and the files that it writes are compared; what of the output differs from run to
run is named in its row of the catalogue, and nothing else is left out. What may be left behind: processes, zombies, names in /dev/shm, files and sockets in the folder for
temporary files. A difference, or anything that broody leaves, is a failure.
"""

import argparse
import concurrent.futures
import difflib
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import catalogue
import document

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Only what hangs takes so long, in seconds.
LIMIT = int(os.environ.get("PATIENCE", "300"))


@dataclass
class Row:
    """What became of a program: `standard` and `broody` are what `case` has written."""

    group: str
    program: catalogue.Program
    standard: dict | None = None
    broody: dict | None = None
    skipped: str = ""
    differs: tuple = ()

    @property
    def well(self):
        return bool(self.skipped) or not self.differs and not self.broody["left"]

    def cells(self):
        """The row of the table."""
        if self.skipped:
            return [self.program.name, "", "", f"skipped: {self.skipped}", "", ""]
        told = [status(run) for run in (self.standard, self.broody)]
        left = [", ".join(run["left"]) or "nothing" for run in (self.standard, self.broody)]
        return [self.program.name, *told, "yes" if not self.differs else "NO", *left]


def status(run):
    codes = ["killed: no end" if code is None else str(code) for code in run["codes"]]
    return f"exit {', '.join(codes)}"


def run(program, python, environment):
    """What `case` says of one run."""
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        case = {
            "python": python,
            "programs": program.commands,
            "server": program.server,
            "port": program.port,
            "interrupt": program.interrupt,
            "environment": environment,
            "folder": folder,
            "files": program.files,
            "limit": LIMIT,
        }
        done = subprocess.run([sys.executable, HERE / "case.py"], input=json.dumps(case), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{program.name}: {done.stderr}")
        return json.loads(done.stdout)


def differences(program, standard, broody):
    """What is not equal: texts."""
    found = []
    if standard["codes"] != broody["codes"]:
        found.append(f"exit status: {standard['codes']}, {broody['codes']}")
    for what in ("out", "err"):
        texts = [program.comparable(one[what]) for one in (standard, broody)]
        found += difflib.unified_diff(*texts, f"standard {what}", f"broody {what}", lineterm="", n=1)
    files = [one["files"] if program.contents else dict.fromkeys(one["files"]) for one in (standard, broody)]
    if files[0] != files[1]:
        found.append(f"files: {sorted(set(files[0].items()) ^ set(files[1].items()))}")
    return tuple(found)


def installed(python, module):
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def compare(group, program, python, environment, missing):
    row = Row(group, program)
    if missing:
        row.skipped = f"{', '.join(missing)} is not installed"
        return row
    row.standard = run(program, [python], {})
    row.broody = run(program, [python, "-m", "broody"], environment)
    row.skipped = row.standard.get("skipped") or row.broody.get("skipped", "")
    if not row.skipped:
        row.differs = differences(program, row.standard, row.broody)
    return row


def one(options, python, package):
    """All programs on one interpreter: their rows."""
    asked = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    numbers = tuple(map(int, version.split(".")))
    pattern = options.pattern if "*" in options.pattern else f"*{options.pattern}*"
    groups = {group: catalogue.GROUPS[group](ROOT / "target/programs") for group in options.groups}
    chosen = [(group, program) for group, (rows, _) in groups.items() for program in rows if fnmatch.fnmatch(program.name, pattern)]
    modules = {module for _, program in chosen for module in program.needs}
    missing = {module for module in modules if not installed(python, module)}
    print(f"Python {version}", flush=True)
    for rows, left_out in groups.values():
        if not rows:
            print(f"  skipped: {left_out[0][1]}")
    rows = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as threads:
        arguments = lambda group, program: (group, program, python, {"PYTHONPATH": str(package)}, sorted(missing & set(program.needs)))  # noqa: E731
        chosen = [(group, program) for group, program in chosen if numbers < program.until]
        together = {index: threads.submit(compare, *arguments(*pair)) for index, pair in enumerate(chosen) if not pair[1].alone}
        for index, pair in enumerate(chosen):
            if index in together:
                row = together[index].result()
            else:
                concurrent.futures.wait(together.values())
                row = compare(*arguments(*pair))
            rows.append(row)
            print("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row.cells(), (58, 12, 12, 5, 9, 9))).rstrip(), flush=True)
            for line in row.differs:
                print(f"      {line}")
    return document.Part(version, rows, {group: left_out for group, (_, left_out) in groups.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=list(catalogue.GROUPS), help=f"of {', '.join(catalogue.GROUPS)}")
    parser.add_argument("--python", action="append", help="an interpreter; several times for several (default: this one)")
    parser.add_argument("--package", help="the folder that broody is in (default: where this interpreter finds it)")
    parser.add_argument("-k", dest="pattern", default="*")
    parser.add_argument("--jobs", type=int, default=2, help="programs at once")
    parser.add_argument("--document", help="a file that says what was found")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(catalogue.GROUPS):
        parser.error(f"no such group: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(options.package or folder).resolve()
        if not options.package:
            import broody

            # Alone, for interpreters that it was not installed for: nothing else of this one's packages.
            (package / "broody").symlink_to(Path(broody.__file__).parent)
        # Programs run in folders of their own: the whole path, but not through links, for it says which environment it is.
        pythons = [os.path.abspath(shutil.which(python) or python) for python in options.python or [sys.executable]]
        parts = [one(options, python, package) for python in pythons]
    if options.document:
        Path(options.document).write_text(document.text(parts))
    rows = [row for part in parts for row in part.rows]
    wrong = [row for row in rows if not row.well]
    print(f"{len(rows)} programs: {sum(bool(row.skipped) for row in rows)} skipped, {len(wrong)} not as they should be")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
