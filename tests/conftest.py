"""What holds for all tests, and for the processes that they start."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever runs the tests in the background of a shell without job control has them ignore Ctrl-C (sh(1), "Signals"),
    # and every process that they start as well. Some tests are about what Ctrl-C does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
