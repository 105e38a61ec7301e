"""Writes what `run` has found as a document."""

import collections
from dataclasses import dataclass

TITLES = {
    "documentation": "The examples of Python's documentation",
    "standard": "The standard library, and programs that need nothing else",
    "packages": "What stands on multiprocessing",
}

HEAD = """\
# Programs

Programs that know nothing of broody, each run once by the interpreter as it is and once by `python -m broody`: whether exit status, output and the files that they write are equal,
and what is left of them when they have ended (processes, zombies, names in /dev/shm, temporary files, sockets). Written by `tests/programs/run.py`; again:
`make programs DOCUMENT=docs/programs.md`. With `TORCH=1` PyTorch is installed for it, which is some gigabytes.

Tracebacks are compared by their last lines, for they pass through other modules; the name of the package (`broody.`) and addresses in memory are not compared; nor are the
resource tracker's warnings, for broody has none. What
else differs from run to run, by the program's nature, is named with the program below.
"""

DOCUMENTED = """\
They are taken from the pages of Debian's python3-doc when they are run: programs as they are, sessions statement by statement, servers together with their clients (on
the port and with the key of the text). Of pages about other things only what uses processes. The number is the block's in its section.
"""


@dataclass
class Part:
    """What was found on one interpreter: rows, and what of each group is left out: {group: [(name, why)]}."""

    version: str
    rows: list
    left_out: dict


def table(heads, rows):
    escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *escaped]) + "\n"


def nature(program):
    """What of its output is not compared."""
    told = []
    for pattern, text in program.replace:
        told.append(f"`{pattern}` is taken for `{text}`".replace("\n", r"\n") if text else f"`{pattern}` is left out")
    return told + [f"the order of `{pattern}`" for pattern in program.unordered]


def text(parts):
    found = [HEAD]
    for group, title in TITLES.items():
        rows = [(part.version, row) for part in parts for row in part.rows if row.group == group]
        if not rows:
            continue
        found.append(f"## {title}\n")
        if group == "documentation":
            found.append(DOCUMENTED)
        # Interpreters that agree share a row.
        versions = collections.defaultdict(list)
        for version, row in rows:
            versions[tuple(row.cells())].append(version)
        order = list(dict.fromkeys(row.program.name for _, row in rows))
        lines = [[*cells, ", ".join(of)] for cells, of in versions.items()]
        lines.sort(key=lambda line: order.index(line[0]))
        found.append(table(["program", "standard", "broody", "equal", "left by the standard module", "left by broody", "Python"], lines))
        if natures := {row.program.name: nature(row.program) for _, row in rows if nature(row.program)}:
            found.append("What differs from run to run:\n")
            found.append("".join(f"- {name}: {'; '.join(what)}\n" for name, what in natures.items()))
        out = next((part.left_out[group] for part in parts if part.left_out.get(group)), [])
        if named := [(name, why) for name, why in out if why != "a fragment"]:
            found.append("Left out:\n")
            found.append("".join(f"- {name}: {why}\n" for name, why in named))
        if fragments := len(out) - len(named):
            found.append(f"{fragments} further blocks are fragments, or show what another one writes.\n")
    return "\n".join(found)
