"""`python -m reslab`: the command line."""

from reslab.cli.app import entry

if __name__ == "__main__":
    entry()
