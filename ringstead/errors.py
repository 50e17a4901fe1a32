"""What can go wrong at the command line, each with the exit code that it ends in.

Every message is one line, names the offending value, and says what to do where that is not plain. The command line
prints it behind `ringstead: ` and nothing else; a trace-back that an operator sees is a defect of ours.
"""

from __future__ import annotations


class RingsteadError(Exception):
    """A failure that has a one-line explanation."""

    exit_code = 1


class ConfigError(RingsteadError):
    """A setting that makes no sense: unknown, of the wrong type, out of range. The operator's to mend."""

    exit_code = 2


class UsageError(RingsteadError):
    """The command was asked for something that it does not do."""

    exit_code = 2


class ClusterBusy(RingsteadError):
    """Another supervisor runs this data directory, or another program holds its port."""


class ClusterDown(RingsteadError):
    """The cluster, or the part of it that the command needs, does not answer."""


class ServiceFailed(RingsteadError):
    """A service did not come up."""
