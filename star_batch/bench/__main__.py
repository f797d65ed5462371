"""`python -m star_batch.bench`: the same commands where torch is installed, but not Ray.

Knows no job.
"""

import typer

from star_batch.bench.command import bench_group
from star_batch.errors import StarBatchError


def main() -> None:
    """What goes wrong on purpose is said in plain words."""
    try:
        bench_group()(prog_name="python -m star_batch.bench", standalone_mode=True)
    except StarBatchError as error:
        typer.echo(f"star-batch: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
