"""What the runner knows of a program, and what of its output is compared."""

import re
from dataclasses import dataclass, field


@dataclass
class Program:
    """One row of the table.

    `commands` are the arguments after the interpreter's, of one program or of several that run one after the other; `server` those of a program that runs meanwhile. `replace`
    and `unordered` name what differs from run to run by the program's nature: a pattern with its replacement, and a pattern of lines (if it has an end of a line, of a run of lines) whose order is not given.
    """

    name: str
    commands: list
    server: list | None = None
    port: int = 0
    # Whether the server runs until Ctrl-C.
    interrupt: bool = True
    replace: list = field(default_factory=list)
    unordered: list = field(default_factory=list)
    # Modules that it imports beside the standard library's.
    needs: tuple = ()
    # Whether the contents of the files that it writes are compared, or only their names.
    contents: bool = False
    # Files and folders that it finds in its folder: {name: text}.
    files: dict = field(default_factory=dict)
    # Whether nothing else is to run meanwhile: it waits for a fixed time, or listens on a fixed port.
    alone: bool = False
    # The first version of Python that no longer has what it needs.
    until: tuple = (99,)

    def comparable(self, text):
        """The output of a run without what differs from run to run."""
        for pattern, replacement in [*ALWAYS, *self.replace]:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        runs = [pattern for pattern in self.unordered if r"\n" in pattern]
        for pattern in runs:
            text = re.sub(pattern, lambda match: "".join(sorted(match[0].splitlines(keepends=True))), text, flags=re.MULTILINE)
        lines = text.splitlines()
        for pattern in set(self.unordered) - set(runs):
            places = [number for number, line in enumerate(lines) if re.search(pattern, line)]
            for place, line in zip(places, sorted(lines[place] for place in places)):
                lines[place] = line
        return lines


# Where a traceback passes through is not compared, only what it comes to: the modules are others. Nor is the package's name, or an address in memory.
ALWAYS = [
    (r"\bbroody\.", "multiprocessing."),
    (r'^( *)File ".*", line \d+(, in .*)?\n(?:\1 +.*\n)*', ""),
    # broody has no tracker to warn of what a program has left: see docs/python.md.
    (r"^.*resource_tracker: There appear to be .*\n  warnings\.warn\(.*\n", ""),
    (r"\b0x[0-9a-f]{6,}\b", "0x..."),
]
