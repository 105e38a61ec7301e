"""The runner of `make programs`: that it sees what is left behind, and what differs. (The programs themselves are run by it.)"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests/programs"

LEAVES = """
import os, subprocess, sys, tempfile, time
open('/dev/shm/left-by-a-test', 'w').close()
open(os.path.join(tempfile.gettempdir(), 'forgotten'), 'w').close()
subprocess.Popen(['sleep', '600'], start_new_session=True)
if os.fork() == 0:
    os._exit(0)
# As long as it takes for a zombie to count.
time.sleep(2)
print('out')
sys.exit(3)
"""

RUNNER = """
import json, sys
sys.path.insert(0, {folder!r})
import run
from program import Program
one = run.run(Program('one', [[{script!r}]]), [sys.executable], {{}})
program = Program('two', [], replace=[(r'pid \\d+', 'pid')], unordered=[r'^line'])
told = [dict(codes=[0], out=out, err='', files={{}}) for out in ('pid 1\\nline a\\nline b\\nend\\n', 'pid 2\\nline b\\nline a\\nend\\n', 'pid 1\\nline a\\nline a\\nend\\n')]
print(json.dumps([one, run.differences(program, *told[:2]), run.differences(program, told[0], told[2]), run.differences(program, told[0], told[0] | dict(codes=[1]))]))
"""


def test_what_is_left_behind_is_seen_and_what_differs(tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    try:
        done = subprocess.run([sys.executable, "-c", RUNNER.format(folder=str(RUN), script=str(script))], capture_output=True, text=True, timeout=120)
    finally:
        # Where the runner has no /dev/shm of its own.
        Path("/dev/shm/left-by-a-test").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    one, equal, other, code = json.loads(done.stdout)
    assert (one["codes"], one["out"], one["err"]) == ([3], "out\n", "")
    assert one["left"] == ["process sleep 600 (S)", "1 zombies while it ran", "/dev/shm/left-by-a-test", "temporary file forgotten"]
    assert equal == []
    assert [line for line in other if line[:2] in ("-l", "+l")] == ["-line b", "+line a"]
    assert code == ["exit status: [0], [1]"]
