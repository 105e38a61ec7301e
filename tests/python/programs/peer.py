"""A manager of the standard module, or a client of one. (Knows nothing of broody.)"""

import gc
import sys
from multiprocessing.managers import SyncManager

KEY = b"a key"

# Whatever is sent here has to do without it.
sys.modules["broody"] = None


def serve():
    manager = SyncManager(("127.0.0.1", 0), KEY)
    server = manager.get_server()
    print(server.address[1], flush=True)
    server.serve_forever()


def use(port):
    manager = SyncManager(("127.0.0.1", port), KEY)
    manager.connect()
    numbers = manager.list([1, 2])
    numbers.append(3)
    queue = manager.Queue()
    queue.put(sum(numbers))
    shared = manager.dict(numbers=list(numbers))
    print(queue.get(), list(shared.keys()), sum(shared["numbers"]), flush=True)
    try:
        numbers.pop(100)
    except IndexError as error:
        print(error, flush=True)
    del numbers, queue, shared
    # The error's traceback has frames with the proxy and the error.
    gc.collect()
    print(manager._number_of_objects(), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        use(int(sys.argv[1]))
