"""What the text of Python's documentation does not tell of its examples, for `documentation`.

Each rule speaks of the one block that has the text `has`.
"""

from dataclasses import dataclass, field


@dataclass
class Rule:
    has: str
    # Why it is left out.
    out: str = ""
    # It goes on with the session that has this text, which is played before it.
    after: str = ""
    # It is a server, and listens on `port`; the blocks with these texts talk to it, one after the other. `interrupt`: it runs until Ctrl-C.
    clients: tuple = ()
    port: int = 0
    interrupt: bool = True
    # Statements of other blocks, or of the reader's, that it takes for granted.
    before: str = ""
    # Words that stand for something else: (word, what).
    change: list = field(default_factory=list)
    # It is a whole program, though it has no main guard.
    program: bool = False
    # See `program.Program`.
    replace: list = field(default_factory=list)
    unordered: list = field(default_factory=list)
    needs: tuple = ()
    alone: bool = False


LIST_PROXY = "print(repr(l))"
LIST_SHARED = "shared_memory.ShareableList(['howdy'"
PICKLED = "sl = shared_memory.ShareableList(range(10))"
GETTER = "queue.get()\n'hello'"
REMOTE = [("foo.bar.org", "127.0.0.1")]
# A worker's number: whoever is free takes the next task.
WORKER = (r"-\d+ says", "-N says")
# A name that nobody has chosen.
BLOCK = (r"psm_\w+", "psm_NAME")

RULES = [
    # library/multiprocessing
    Rule("print('parent process:', os.getppid())", replace=[(r"(parent process|process id): \d+", r"\1: PID")]),
    Rule("Process(target=f, args=(lock, num)).start()", unordered=[r"^hello world \d$"]),
    # After the map: the squares in arbitrary order, 400, the pid of one worker and those of four.
    Rule("# print same numbers in arbitrary order", unordered=[r"^\d\d?$"], replace=[(r"^400\n\d+\n\[.*\]$", "400\nPID\nPIDS")],
         alone=True),
    Rule("Process PoolWorker-1:", out="the standard module waits for ever: the workers die of the error that the text shows"),
    Rule("<Process ... initial>", replace=[(r"(parent|pid)=\d+", r"\1=PID")], alone=True),
    Rule("manager = BaseManager(address=('', 50000)", clients=("m = BaseManager(address=('127.0.0.1', 50000)",), port=50000),
    Rule("Global = manager.Namespace()", before="import multiprocessing"),
    Rule("callable=lambda:queue)", clients=("queue.put('hello')", GETTER), port=50000, change=REMOTE),
    Rule("callable=lambda: queue)", clients=(GETTER,), port=50000, change=REMOTE),
    Rule("a.append(b)         #", after=LIST_PROXY),
    Rule("l_outer = manager.list(", after=LIST_PROXY),
    Rule("manager.list([1,2,3]) == [1,2,3]", after=LIST_PROXY),
    Rule("l._callmethod('__len__')", after=LIST_PROXY),
    Rule("Listener(address, authkey=b'secret password')", clients=("Client(address, authkey=b'secret password')",), port=6000, interrupt=False,
         program=True, replace=[(r"\('127.0.0.1', \d+\)", "('127.0.0.1', PORT)")]),
    Rule("# raises multiprocessing.TimeoutError", alone=True),
    Rule("for r in wait(readers):", unordered=[r"^\(\d, 'Process-\d'\)$"]),
    # The names of a socket, and of the folder that it is in: broody's is in none. Two processes write.
    Rule("logger.warning('doomed')", unordered=[r"^\["], replace=[(r"^.* created temp directory .*\n", ""), (r"manager serving at '.*'", "manager serving at ADDRESS")]),
    Rule("# this deadlocks", out="the standard module waits for ever, as the text says"),
    Rule("\ndef foo():\n    print('hello')\n\np = Process(target=foo)", program=True),
    Rule("'%s says that %s%s = %s' % (", unordered=[r"^Unordered .*\n(.+\n)+"], replace=[WORKER, (r"\.+$", "")]),
    Rule("# Add more tasks using `put()`", unordered=["-N says"], replace=[WORKER]),
    # library/multiprocessing.shared_memory
    Rule("shm.name  # We did not specify a name", change=[("'psm_21467_46075')", "shm.name)")], replace=[BLOCK], needs=("numpy",)),
    Rule("smm.ShareableList(range(4))", replace=[BLOCK]),
    Rule("args=(sl, 0, 1000)", before="""\
from multiprocessing import Process
from multiprocessing.managers import SharedMemoryManager
def do_work(block, start, end):
    for index in range(start, end):
        block[index] *= 2

"""),
    Rule("b = shared_memory.ShareableList(range(5))", after=LIST_SHARED, replace=[BLOCK]),
    Rule("deserialized_sl = pickle", after=PICKLED),
    Rule("deserialized_sl[1] = -2", after="deserialized_sl = pickle"),
    Rule("sl.shm.unlink()", after="deserialized_sl[1] = -2"),
    # library/asyncio-eventloop: it reads random bytes.
    Rule('f.read(100)', replace=[(r"thread pool b['\"].*$", "thread pool BYTES")]),
    # howto/logging-cookbook: what is logged there, and from which level on it shows, is chosen at random.
    Rule("def worker_process(queue, configurer):", unordered=["^Worker (started|finished)"]),
    Rule("def logger_thread(q):", replace=[(r"^Message no\. \d+\n", "")]),
    Rule("class MyHandler:", replace=[(r"^.*Message no\. +\d+\n", "")]),
]
