from typing import Any

from ..futures import Future

class BroodyBackend:
    supports_retrieve_callback: bool
    supports_inner_max_num_threads: bool
    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None: ...
    def effective_n_jobs(self, n_jobs: int | None) -> int: ...
    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        mp_context: Any = None,
        **options: Any,
    ) -> int: ...
    def submit(self, func: Any, callback: Any = None) -> Future[Any]: ...
    def retrieve_result_callback(self, future: Future[Any]) -> Any: ...
    def terminate(self) -> None: ...
    def abort_everything(self, ensure_ready: bool = True) -> None: ...
