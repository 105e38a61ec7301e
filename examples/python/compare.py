"""Runs a program of multiprocessing as it is, and by `python -m broody`: how long it takes, and what is left of it when it is killed half-way.

    python compare.py PROGRAM [ARGUMENT ...]
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def processes():
    """What runs, and in which session: {pid: session}."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, session = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(name)] = int(session)
    return found


def run(command):
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.monotonic() - began, done.stdout


def kill_half_way(command, duration):
    """How many processes and names in shared memory are left a second after the program was killed. They are ended then."""
    names = set(os.listdir("/dev/shm"))
    program = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(duration / 2)
    program.kill()
    program.wait()
    time.sleep(1)
    left = [pid for pid, session in processes().items() if session == program.pid]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left), len(set(os.listdir("/dev/shm")) - names)


def main():
    program = sys.argv[1:]
    outputs = []
    for name, how in (("multiprocessing", []), ("broody", ["-m", "broody"])):
        command = [sys.executable, *how, *program]
        duration, output = run(command)
        outputs.append(output)
        left, named = kill_half_way(command, duration)
        print(f"{name:16} {duration:6.2f} s; killed half-way it leaves {left} processes and {named} names in /dev/shm")
    print("the results are equal" if outputs[0] == outputs[1] else "the results DIFFER")
    sys.exit(outputs[0] != outputs[1])


if __name__ == "__main__":
    main()
