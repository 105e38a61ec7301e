"""Managers: the types that they come with, types of one's own, proxies in pools and processes."""

import multiprocessing
import queue
import sys
from multiprocessing.managers import BaseManager, NamespaceProxy, SharedMemoryManager


class Account:
    def __init__(self, owner):
        self.owner, self.balance = owner, 0

    def pay(self, amount):
        if amount < 0:
            raise ValueError(f"{amount} is negative")
        self.balance += amount
        return self.balance


class AccountProxy(NamespaceProxy):
    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__", "pay")

    def pay(self, amount):
        return self._callmethod("pay", (amount,))


class Bank(BaseManager):
    pass


Bank.register("Account", Account, AccountProxy)


def add(shared, lock, number):
    with lock:
        shared["sum"] = shared.get("sum", 0) + number
    return number


def visit(numbers, words, space, values, event, barrier, jobs, number):
    barrier.wait(60)
    numbers.append(number)
    words[number] = str(number)
    space.last, values.value = 7, 4
    event.set()
    jobs.put(number * 10)


def main(method):
    context = multiprocessing.get_context(method)
    with context.Manager() as manager:
        shared, lock = manager.dict(), manager.Lock()
        with context.Pool(2) as pool:
            print(sum(pool.starmap(add, [(shared, lock, number) for number in range(20)])), dict(shared))
        numbers, words, space = manager.list(), manager.dict(), manager.Namespace(first=1)
        values, event, barrier, jobs = manager.Value("i", 3), manager.Event(), manager.Barrier(2), manager.Queue()
        visitors = [context.Process(target=visit, args=(numbers, words, space, values, event, barrier, jobs, number)) for number in range(2)]
        for process in visitors:
            process.start()
        for process in visitors:
            process.join()
        print(sorted(numbers), sorted(words.items()), space, values, event.is_set(), sorted(jobs.get() for _ in range(2)), jobs.empty())
        try:
            jobs.get(timeout=0.01)
        except queue.Empty as error:
            print("empty", repr(error))
        nested = manager.list([manager.dict(a=1), manager.list([1, 2])])
        nested[0]["b"] = 2
        nested[1].extend([3])
        print(nested[0], nested[1], len(nested), nested[1][::-1], 2 in nested[1])
        array = manager.Array("i", range(5))
        array[0] = 9
        print(array, array[1:3], str(manager.list("abc")), repr(manager.dict())[:10])
        try:
            shared["missing"]
        except KeyError as error:
            print(repr(error))
        semaphore, condition = manager.BoundedSemaphore(1), manager.Condition()
        with semaphore, condition:
            print(semaphore.acquire(False), condition.wait(0.01))
        with manager.Pool(2) as remote:
            print(remote.map(abs, [-1, -2]), remote.apply_async(max, (1, 2)).get(60))
    with Bank(ctx=context) as bank:
        account = bank.Account("Ada")
        print(account.pay(5), account.owner, account.balance)
        try:
            account.pay(-1)
        except ValueError as error:
            print(error)
        account.owner = "Bob"
        print(account.owner)
    with SharedMemoryManager(ctx=context) as blocks:
        block, listed = blocks.SharedMemory(100), blocks.ShareableList([1, "two", None])
        block.buf[:3] = b"abc"
        print(bytes(block.buf[:3]), list(listed))
        listed.shm.close()
        block.close()


if __name__ == "__main__":
    main(sys.argv[1])
