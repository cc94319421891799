"""One job at a time in a thread of its own; an error of it is raised where its owner looks next."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs jobs beside the caller, never two at once.

    Example:
        >>> background = Background()
        >>> background.start(print, "written")
        >>> background.wait()
        written
    """

    def __init__(self):
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable, *arguments) -> None:
        """Begins a job, once the one before is done.

        Raises:
            Exception: that of the job before.
        """
        self.wait()

        def run():
            try:
                job(*arguments)
            except BaseException as error:  # raised again in the owner's thread
                self._error = error

        # a daemon: a second Ctrl-C ends the process, and what the job writes appears whole or not at all
        self._thread = threading.Thread(target=run, name=f"background {job.__name__}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises the error of a job that has failed; does not wait for one that runs."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits for the job; raises its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
