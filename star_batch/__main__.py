"""`python -m star_batch`: the same as `star-batch`."""

from star_batch.cli import main

if __name__ == "__main__":
    main()
