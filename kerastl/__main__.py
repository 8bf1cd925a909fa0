"""`python -m kerastl` is the same as `kerastl`."""

from kerastl.cli import main

if __name__ == "__main__":
    main()
