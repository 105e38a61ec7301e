"""Makes a pool, gives it long tasks, and returns."""

import sys
import time
import warnings

import broody

if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)
    pool = broody.get_context(sys.argv[1]).Pool(2)
    pool.map_async(time.sleep, [600] * 10, 1)
    print(*(worker.pid for worker in pool._pool), flush=True)
