"""Work that runs beside the prediction."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs tasks one after the other in a thread of its own.

    Meant for what releases the interpreter's lock, such as coding of PNGs. A task's error is
    raised by a later `submit` or by `close`.

    Args:
        name: of the thread.
        max_waiting: tasks beyond which `submit` waits for the oldest one.
    """

    def __init__(self, name: str, max_waiting: int):
        self._name = name
        self._max_waiting = max_waiting
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[Future] = deque()

    def submit(self, task: Callable, *args) -> None:
        """Queue a task; raises what an earlier one raised."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        while self._waiting and (
            len(self._waiting) >= self._max_waiting or self._waiting[0].done()
        ):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(task, *args))

    def close(self) -> None:
        """Wait for all tasks and end the thread; raises the first error."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Drop what has not begun and end the thread; errors are forgotten."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread = None
        self._waiting.clear()
