"""``python -m see_rnn_like``: the command line."""

import sys

from see_rnn_like.cli import main

if __name__ == "__main__":
    sys.exit(main())
