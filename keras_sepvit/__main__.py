"""Runs the command line: `python -m keras_sepvit`."""

from keras_sepvit.cli import main

if __name__ == "__main__":
    main()
