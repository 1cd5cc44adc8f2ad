"""`paymesh audit`.

command    the command, its output and its exit code
parts      what is looked at, in which order
between    the pages in which two services are compared
compare    what must hold between them
"""

from paymesh_cli.audit.command import audit

__all__ = ["audit"]
