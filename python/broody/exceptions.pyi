from .context import ProcessError, TimeoutError

class WorkerLostError(ProcessError):
    task: int
    pid: int
    exitcode: int | None

class TaskTimeoutError(TimeoutError):
    task: int
    pid: int
    limit: float

class TaskMemoryError(ProcessError):
    task: int
    pid: int
    limit: int
    grown: int

class TaskCancelledError(ProcessError):
    task: int

class TaskExitError(ProcessError):
    kind: str
    code: object

class PoolFullError(ProcessError):
    waiting: int

class PoolTerminatedError(ProcessError):
    task: int

class PoolBrokenError(ProcessError):
    reason: str

class TransferError(ProcessError): ...
class OwnerDiedError(ProcessError): ...
class OwnerDiedWarning(RuntimeWarning): ...
