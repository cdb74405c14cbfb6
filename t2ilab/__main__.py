"""`python -m t2ilab` and the `t2ilab` script start the command line."""

import signal

from t2ilab.chain import lifeline
from t2ilab.signals import SIGNALS, deaf, leave


def main() -> None:
    """The command line, in which a signal is answered from the first import on."""
    for number in SIGNALS:
        signal.signal(number, leave)
    lifeline.hold()
    from t2ilab.cli import main as command_line

    try:
        command_line()
    finally:
        deaf()


if __name__ == "__main__":
    main()
