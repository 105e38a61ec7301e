"""Queues, what goes through them, and the deaths of those who use them."""

import os
import pickle
import queue
import random
import signal
import threading
import time

import pytest
from conftest import PATIENCE, eventually

import broody
from broody.connection import wait
from broody.queues import TasksLostWarning


class Buffers:
    """Something with a long buffer beside its pickle."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, protocol):
        return type(self), (pickle.PickleBuffer(self.buffer),)


MESSAGES = {
    "none": None, "true": True, "false": False, "int": -5, "long int": 2**80, "float": 0.25, "str": "grüße",
    "surrogate": "\udc80", "empty": b"", "bytes": b"x" * 100, "longer bytes": b"y" * 40_000,
    "long bytes": bytes(range(256)) * 4096, "bytearray": bytearray(b"z" * 300_000), "long str": "s" * 300_000,
    "list": [1, "a", {"b": (None, 2.5)}], "long list": list(range(100_000)), "exception": ValueError("x").args,
}  # fmt: skip


def echo(incoming, outgoing):
    while not isinstance(message := incoming.get(), str) or message != "stop":
        outgoing.put(message)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_messages_of_every_kind_come_as_they_were_put(ctx, kind):
    there, back = getattr(ctx, kind)(), getattr(ctx, kind)()
    process = ctx.Process(target=echo, args=(there, back))
    process.start()
    for name, message in MESSAGES.items():
        there.put(message)
        answer = back.get()
        assert answer == message and type(answer) is type(message), name
    there.put("stop")
    process.join(PATIENCE)
    assert process.exitcode == 0


def change(incoming, outgoing):
    message = incoming.get()
    view = memoryview(message.buffer)
    view[0] = 7
    outgoing.put((len(view), view[0], view[-1]))


def test_a_long_buffer_is_the_receivers_own(ctx):
    there, back = ctx.Queue(), ctx.Queue()
    buffer = bytearray(b"\x01" * 1_000_000)
    process = ctx.Process(target=change, args=(there, back))
    process.start()
    there.put(Buffers(buffer))
    assert back.get(timeout=PATIENCE) == (1_000_000, 7, 1)
    process.join()
    assert buffer == b"\x01" * 1_000_000
    # A fork of who has received it changes its own.
    there.put(Buffers(buffer))
    received = memoryview(there.get().buffer)
    fork = broody.get_context("fork").Process(target=received.__setitem__, args=(0, 9))
    fork.start()
    fork.join()
    assert fork.exitcode == 0 and received[0] == 1


def test_a_buffer_that_is_read_only_stays_so():
    messages = broody.SimpleQueue()
    messages.put(Buffers(b"\x01" * 100_000))
    received = memoryview(messages.get().buffer)
    assert received.readonly and len(received) == 100_000


def test_arrays_of_numbers_go_through_whole(ctx):
    numpy = pytest.importorskip("numpy")
    there, back = ctx.Queue(), ctx.Queue()
    process = ctx.Process(target=echo, args=(there, back))
    process.start()
    for array in (numpy.arange(10), numpy.random.rand(500, 300), numpy.arange(1_000_000)[::2], numpy.ones((300, 300)).T):
        there.put(array)
        answer = back.get(timeout=PATIENCE)
        assert (answer == array).all() and answer.dtype == array.dtype
        answer += 1
    there.put("stop")
    process.join()


class Unpicklable:
    def __reduce__(self):
        raise AttributeError("not this one")


def test_what_cannot_be_pickled_leaves_the_queue_whole(ctx, capsys):
    messages = ctx.Queue()
    for message in (Unpicklable(), threading.Lock(), lambda: None, [b"x" * 100_000, Unpicklable()]):
        messages.put(message)
        messages.put(1)
        assert messages.get(timeout=PATIENCE) == 1
    assert "not this one" in capsys.readouterr().err
    simple = ctx.SimpleQueue()
    with pytest.raises(AttributeError, match="not this one"):
        simple.put(Unpicklable())
    assert simple.empty()


class BadToUnpickle:
    def __reduce__(self):
        return int, ("not a number",)


def test_what_cannot_be_unpickled_is_an_error_of_its_get_alone(ctx):
    messages = ctx.Queue()
    messages.put(BadToUnpickle())
    messages.put(2)
    with pytest.raises(ValueError, match="not a number"):
        messages.get()
    assert messages.get() == 2


class PutsWhilePickled:
    """Uses a queue while it is put into one."""

    def __init__(self, messages):
        self.messages = messages

    def __reduce__(self):
        self.messages.put([1, 2])
        return list, ((3,),)


def test_a_message_may_use_a_queue_while_it_is_pickled():
    messages = broody.Queue()
    messages.put(PutsWhilePickled(messages))
    assert [messages.get(), messages.get()] == [[1, 2], [3]]


def test_reducers_that_are_registered_later_are_used():
    import copyreg

    from broody.reduction import ForkingPickler

    class Local:
        pass

    messages = broody.Queue()
    ForkingPickler.register(Local, lambda _: (int, (5,)))
    messages.put(Local())
    assert messages.get() == 5
    ForkingPickler.register(Local, lambda _: (int, (6,)))
    messages.put(Local())
    assert messages.get() == 6
    del ForkingPickler._extra_reducers[Local]
    copyreg.pickle(Local, lambda _: (int, (7,)))
    messages.put(Local())
    assert messages.get() == 7
    del copyreg.dispatch_table[Local]


def use_for_ever(messages, size, seed):
    random.seed(seed)
    number = 0
    while True:
        for _ in range(random.randrange(1, 10)):
            message = (os.getpid(), number, bytes([number % 256]) * random.choice(size))
            messages.put(message)
            number += 1
        for _ in range(random.randrange(1, 10)):
            try:
                _, number_of, content = messages.get_nowait()
            except queue.Empty:
                break
            if content.strip(bytes([number_of % 256])):
                os._exit(99)


@pytest.mark.parametrize("size", [[10], [10, 3000], [100_000, 20]], ids=["short", "mixed", "long"])
def test_fifty_users_are_killed_and_the_queue_goes_on(ctx, size):
    messages = ctx.Queue()
    victims = []

    def start(number):
        victims.append(ctx.Process(target=use_for_ever, args=(messages, size, number)))
        victims[-1].start()

    for number in range(2):
        start(number)
    for number in range(50):
        start(number + 2)
        time.sleep(random.random() * 0.01)
        victim = victims.pop(0)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(PATIENCE)
        assert victim.exitcode == -signal.SIGKILL
    for victim in victims:
        victim.kill()
        victim.join(PATIENCE)
        assert victim.exitcode == -signal.SIGKILL
    # What is left is whole, and the queue can be used.
    messages.put("last")
    for message in iter(lambda: messages.get(timeout=PATIENCE), "last"):
        _, number, content = message
        assert not content.strip(bytes([number % 256]))
    assert messages.empty()
    for number in range(1000):
        messages.put(number)
    assert [messages.get(timeout=PATIENCE) for _ in range(1000)] == list(range(1000))


def put_and_die(messages, count):
    for number in range(count):
        messages.put(number)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_put_is_there_whatever_becomes_of_the_process(ctx):
    messages = ctx.Queue()
    process = ctx.Process(target=put_and_die, args=(messages, 1000))
    process.start()
    process.join(PATIENCE)
    assert [messages.get(timeout=PATIENCE) for _ in range(1000)] == list(range(1000))


def fill(messages, stopped):
    messages.put(b"x" * 1_000_000)
    stopped.set()


def test_a_process_with_much_in_the_queue_ends_and_can_be_joined(ctx):
    messages, stopped = ctx.Queue(), ctx.Event()
    process = ctx.Process(target=fill, args=(messages, stopped))
    process.start()
    # Nobody takes anything: the standard module's feeder would wait for ever.
    process.join(PATIENCE)
    assert process.exitcode == 0 and stopped.is_set()
    assert len(messages.get()) == 1_000_000


def take_and_die(tasks):
    tasks.get()
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_of_the_dead_are_not_waited_for(ctx):
    tasks = ctx.JoinableQueue()
    tasks.put(1)
    process = ctx.Process(target=take_and_die, args=(tasks,))
    process.start()
    process.join(PATIENCE)
    with pytest.warns(TasksLostWarning, match="1 tasks"):
        tasks.join()
    with pytest.raises(ValueError, match="too many times"):
        tasks.task_done()


def put_later(messages):
    time.sleep(0.1)
    messages.put("late")


def test_a_queue_can_be_waited_for_with_others(ctx):
    import select

    messages = ctx.SimpleQueue()
    process = ctx.Process(target=put_later, args=(messages,))
    process.start()
    poll = select.poll()
    poll.register(messages._reader.fileno(), select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    assert messages._reader.recv() == "late"
    process.join()
    assert not select.select([messages._reader], [], [], 0)[0]
    messages.put(1)
    assert select.select([messages._reader], [], [], PATIENCE)[0]


def test_the_bound_counts_objects_not_bytes(ctx):
    messages = ctx.Queue(2)
    messages.put(b"x" * 500_000)
    messages.put(None)
    assert messages.full() and messages.qsize() == 2
    with pytest.raises(queue.Full):
        messages.put(1, timeout=0.01)
    with pytest.raises(queue.Full):
        messages.put_nowait(b"x" * 500_000)
    messages.get()
    messages.put(1, block=False)
    assert [messages.get(), messages.get(False)] == [None, 1]
    with pytest.raises(queue.Empty):
        messages.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        messages.get_nowait()


def memory_in_use():
    for line in open("/proc/meminfo"):
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    return 0


def test_many_long_messages_take_no_more_memory_than_one(ctx):
    messages = ctx.Queue()
    messages.put(b"x" * (8 << 20))
    messages.get()
    before = memory_in_use()
    for _ in range(50):
        messages.put(b"x" * (8 << 20))
        messages.put(Buffers(bytearray(8 << 20)))
        messages.get()
        messages.get()
    eventually(lambda: memory_in_use() - before < 100 << 20, "the memory of messages that are gone")


class ByHand(broody.queues.SimpleQueue):
    """As loky's: it knows of the pipe and the lock."""

    def put(self, obj):
        with self._wlock:
            self._writer.send_bytes(pickle.dumps(("by hand", obj)))


class Named(broody.queues.Queue):
    """As those of the standard library: it does not."""

    def __init__(self, name, ctx):
        self.name = name
        super().__init__(3, ctx=ctx)


def put_there(queue):
    queue.put("there")


def test_a_class_that_knows_the_inside_of_the_standard_one_is_derived_from_that(ctx):
    queue = ByHand(ctx=ctx)
    child = ctx.Process(target=put_there, args=(queue,))
    child.start()
    assert queue.get() == ("by hand", "there")
    child.join()
    queue.close()
    assert isinstance(Named("n", ctx), broody.queues.Queue)
    assert not isinstance(queue, broody.queues.SimpleQueue)
    with pytest.raises(ImportError):
        from broody.queues import _no_such_name  # noqa: F401
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_what_was_put_before_a_descriptor_was_ready_is_seen_beside_it(ctx, kind):
    # A pool that hears of a worker's end has to know whether that one had put its result before.
    messages = getattr(ctx, kind)()
    reading, writing = os.pipe()
    try:
        for number in range(200):
            messages.put(number)
            os.write(writing, b".")
            assert wait([messages._reader, reading]) == [messages._reader, reading]
            assert messages.get() == number and os.read(reading, 1) == b"."
            assert wait([messages._reader, reading], 0) == []
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("made", ["fork", "spawn", "forkserver"])
def test_a_queue_of_any_context_goes_to_a_process_of_any_other(ctx, made):
    # The standard module refuses those of fork to the others.
    there, back = broody.get_context(made).Queue(), broody.get_context(made).JoinableQueue()
    process = ctx.Process(target=echo, args=(there, back))
    process.start()
    there.put(made)
    assert back.get() == made
    there.put("stop")
    process.join(PATIENCE)
    assert process.exitcode == 0
