"""`python -m pgsearch.cli` is `pgsearch`."""

from pgsearch.cli.main import main

if __name__ == "__main__":
    main()
