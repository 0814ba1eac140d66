"""Whose process it was: the kernel names a pid with an XID, and often kills that process before anyone can look."""

from holdfast_nodeagent.processes import Processes

MAX_REMEMBERED = 4096


class Blame:
    """Finds the Slurm job of a process, and remembers it for when the process has ended.

    Processes on the GPUs are looked at once in each slow round, so that those that run for longer are known beforehand.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._remembered: dict[int, int] = {}

    def job_of(self, pid: int) -> int:
        """Return the job that the process belongs to, or belonged to when it was last looked at; 0: none, or not known."""
        if pid <= 0:
            return 0
        job_id = self._processes.job_of(pid)
        if job_id is None:
            process = self._processes.get(pid)
            if process is None or process.zombie:
                return self._remembered.get(pid, 0)
        self._remembered.pop(pid, None)
        if job_id is not None:
            self._remembered[pid] = job_id
            if len(self._remembered) > MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
        return job_id or 0
