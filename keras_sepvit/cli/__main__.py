"""Runs the command line: `python -m keras_sepvit.cli`."""

from keras_sepvit.cli import main

if __name__ == "__main__":
    main()
