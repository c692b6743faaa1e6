"""Jobs that come while others run."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from evaluator.jobs.base import Job


class JobStream:
    """A queue of jobs for `run` of an engine, which ends when the stream is closed and empty.

    Any thread may put jobs into it and close it.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @classmethod
    def of(cls, jobs: "Iterable[Job] | JobStream") -> "JobStream":
        """Returns the stream itself, or a closed one of these jobs."""
        if isinstance(jobs, JobStream):
            return jobs
        stream = cls()
        stream.put(jobs)
        stream.close()
        return stream

    def put(self, jobs: Iterable[Job]) -> None:
        """Adds jobs at the end."""
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def close(self) -> None:
        """No more jobs will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no more jobs will come."""
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether it is closed, and every job was taken."""
        with self._changed:
            return self._closed and not self._jobs

    def take(self, wait: bool = False) -> list[Job]:
        """Returns and removes the jobs that are there.

        Args:
            wait: wait until there is one, or the stream is closed.
        """
        with self._changed:
            while wait and not self._jobs and not self._closed:
                self._changed.wait()
            jobs = list(self._jobs)
            self._jobs.clear()
        return jobs

    def __iter__(self) -> Iterator[Job]:
        while jobs := self.take(wait=True):
            yield from jobs
