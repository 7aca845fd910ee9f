"""Every error that a user can meet, named by what the caller must do about it.

Each carries the exit code of the command that ends with it:
0 done · 1 internal error · 2 usage · 3 invalid spec · 4 data · 5 storage ·
6 finished, some trials failed · 7 nothing completed · 75 interrupted and resumable.
"""

from collections.abc import Sequence

EXIT_DONE = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 6
EXIT_NOTHING_COMPLETED = 7
EXIT_INTERRUPTED = 75


class PgsearchError(Exception):
    """Base of the errors that are shown as a message, never as a traceback."""

    exit_code = EXIT_INTERNAL


class UsageError(PgsearchError):
    """The command line asks for something that does not exist: correct the command."""

    exit_code = EXIT_USAGE


class InvalidSpec(PgsearchError):
    """A spec breaks its rules: correct the file. Holds all its problems, not only the first."""

    exit_code = 3

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class IncompatibleResume(PgsearchError):
    """The results folder holds another search: choose another name or restore the spec."""

    exit_code = 3


class InvalidData(PgsearchError):
    """Images, labels or weights break their rules: correct the data. Holds all problems found."""

    exit_code = 4

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class StorageError(PgsearchError):
    """Results cannot be written or read: free space, repair or unlock the storage."""

    exit_code = 5


class AttemptReplaced(PgsearchError):
    """A newer execution of this trial has begun: end quietly and record nothing more."""


class NonFiniteLoss(PgsearchError):
    """Training produced a number that is not finite: the trial fails and is never retried."""


class TrialInterrupted(PgsearchError):
    """A trial was asked to stop: end now, the trial goes on from its checkpoint another time."""

    exit_code = EXIT_INTERRUPTED


class OutOfMemory(PgsearchError):
    """Training did not fit into memory: end the worker, which frees it.

    What else used the memory may be gone by then, so the trial is tried again, a bounded number of
    times.
    """
