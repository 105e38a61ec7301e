"""A fork forgets its parent's pool while it has one of its own."""

import os
import threading
import warnings

import broody


def main():
    # From 3.12 on: a pool has threads.
    warnings.simplefilter("ignore", DeprecationWarning)
    pools = [broody.Pool(1) for _ in range(4)]
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        # Their threads have the memory of those that are not here.
        own = [broody.Pool(1) for _ in range(4)]
        assert [pool.apply(abs, (-3,)) for pool in own] == [3] * 4
        pools.clear()
        for pool in own:
            pool.terminate()
            pool.join()
        assert threading.active_count() == 1
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main())
