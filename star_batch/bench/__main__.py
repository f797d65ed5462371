"""`python -m star_batch.bench`: the same command where torch is installed, but neither Ray nor pydantic."""

import typer

from star_batch.bench.command import bench
from star_batch.errors import StarBatchError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(bench)


def main() -> None:
    """What goes wrong on purpose is said in plain words."""
    try:
        app(prog_name="python -m star_batch.bench", standalone_mode=True)
    except StarBatchError as error:
        typer.echo(f"star-batch: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
