"""Runs one program once, in a folder of its own, and says what it did and what it left behind.

    python case.py < CASE > RESULT

CASE is JSON: `python` (the interpreter's first arguments), `programs` (commands, one after the other), `server` (a command that runs meanwhile, or null), `port` (on
which it listens), `environment`, `folder` (an empty one), `files` (what is to be in the folder where the programs run: {path: text}), `limit` (seconds).

This process is a subreaper: whatever the programs start and forget becomes its child, so that nothing gets away unseen.
"""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)

# How long a child may wait to be reaped while its parent runs, and what is ending when the program ends may take; in seconds. Generous: only what stays counts.
ZOMBIE_FOR = 1.0
GRACE = 5.0
LOOK_EVERY = 0.2


def processes():
    """{pid: (letter, parent)} of all processes."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            letter, parent = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(name)] = letter, int(parent)
    return found


def below(pid):
    """{pid: (letter, parent)} of the processes below `pid`."""
    everything = processes()
    found, new = {}, {pid}
    while new:
        new = {child for child, (_, parent) in everything.items() if parent in new and child not in found}
        found.update((child, everything[child]) for child in new)
    return found


def own_shared_memory():
    """A /dev/shm that other programs do not see, where that is allowed (to root): what is in it afterwards is this program's. See mount_namespaces(7)."""
    if libc.unshare(CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0:
        libc.mount(b"none", b"/dev/shm", b"tmpfs", 0, None)


def shared_names():
    return {path.relative_to("/dev/shm") for path in Path("/dev/shm").rglob("*")}


def in_use(names):
    """Those that a running process has open or mapped: not left behind, but another program's."""
    # Sockets.
    text = Path("/proc/net/unix").read_text(errors="replace")
    used = {name for name in names if f"/dev/shm/{name}" in text}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            text += "\n".join(os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
        except OSError:
            continue
        used |= {name for name in names if f"/dev/shm/{name}" in text}
    return used


class Zombies:
    """Looks for children that their parents do not reap."""

    def __init__(self):
        self.since, self.found = {}, set()

    def look(self):
        now, me = time.monotonic(), os.getpid()
        dead = {key for key, (letter, parent) in below(me).items() if letter == "Z" and parent != me}
        self.since = {pid: self.since.get(pid, now) for pid in dead}
        self.found |= {pid for pid, since in self.since.items() if now - since >= ZOMBIE_FOR}


class Case:
    def __init__(self, case):
        self.case = case
        self.folder = Path(case["folder"])
        self.work, self.temporary = self.folder / "work", self.folder / "tmp"
        self.end = time.monotonic() + case["limit"]
        self.zombies = Zombies()
        self.outputs = []

    def start(self, command):
        number = len(self.outputs)
        out, err = self.folder / f"out{number}", self.folder / f"err{number}"
        self.outputs.append((out, err))
        # An interpreter as it comes: one that does not buffer, for example, writes lines of two processes into each other.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return subprocess.Popen(
                [*self.case["python"], *command], cwd=self.work, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                env={**inherited, **self.case["environment"], "TMPDIR": str(self.temporary)},
            )  # fmt: skip

    def wait(self, program):
        """Its exit code; None if there was no end in time, and it was killed."""
        while True:
            try:
                return program.wait(LOOK_EVERY)
            except subprocess.TimeoutExpired:
                self.zombies.look()
            if time.monotonic() > self.end:
                program.kill()
                program.wait()
                return None

    def listening(self):
        wanted = f":{self.case['port']:04X}"
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if local.endswith(wanted) and state == "0A":
                    return True
        return False

    def run(self):
        self.work.mkdir()
        self.temporary.mkdir()
        for name, text in self.case["files"].items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            # The same in each run: compiled files tell when their sources were made.
            os.utime(path, (0, 0))
        codes, server = [], None
        if self.case["server"]:
            if self.listening():
                return {"skipped": f"port {self.case['port']} is taken"}
            server = self.start(self.case["server"])
            while not self.listening() and server.poll() is None and time.monotonic() < self.end:
                time.sleep(LOOK_EVERY / 20)
        for command in self.case["programs"]:
            codes.append(self.wait(self.start(command)))
        if server:
            if self.case["interrupt"]:
                server.send_signal(signal.SIGINT)
            codes.insert(0, self.wait(server))
        return {"codes": codes}

    def written(self):
        """What the programs wrote, and whatever they started."""
        texts = [[path.read_text(errors="backslashreplace") for path in pair] for pair in self.outputs]
        return {"out": "".join(out for out, _ in texts), "err": "".join(err for _, err in texts)}

    def processes_left(self):
        """What still runs when there was time enough to end. It is ended now."""
        end = time.monotonic() + GRACE
        while True:
            # What has ended without a parent is reaped here, as init would do it.
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return []
            if time.monotonic() > end:
                break
            time.sleep(LOOK_EVERY / 20)
        told = []
        for pid, (letter, _) in below(os.getpid()).items():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                told.append(f"process {line[:80] or 'without arguments'} ({letter})")
                os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass
        return told

    def names_left(self, before):
        end = time.monotonic() + GRACE
        while (new := shared_names() - before) and (new := new - in_use(new)) and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        return [f"/dev/shm/{name}" for name in sorted(new)]

    def files(self):
        """What the program wrote into its folder: {path: digest}."""
        paths = [path for path in sorted(self.work.rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def main():
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own_shared_memory()
    case = Case(json.load(sys.stdin))
    before = shared_names()
    begun = time.monotonic()
    result = case.run()
    result["seconds"] = round(time.monotonic() - begun, 2)
    left = case.processes_left()
    if case.zombies.found:
        left.append(f"{len(case.zombies.found)} zombies while it ran")
    left += case.names_left(before)
    left += [f"temporary file {path.relative_to(case.temporary)}" for path in sorted(case.temporary.rglob("*"))]
    json.dump({**result, **case.written(), "files": case.files(), "left": left}, sys.stdout)


if __name__ == "__main__":
    main()
