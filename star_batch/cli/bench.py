"""`star-batch bench`: its commands, heard as all others are."""

from star_batch.bench.command import Modes, bench_group
from star_batch.cli.exits import exit_codes, plainly
from star_batch.cli.usage import Command, Group


class _Modes(Group, Modes):
    """Knows the old spellings."""


app = bench_group(group=_Modes, command=Command, wrapped=plainly, epilog=exit_codes())
