"""What holds for all tests, and for the processes that they start."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Whoever runs the tests in the background of a shell without job control has them ignore Ctrl-C (sh(1), "Signals"), and
# with nohup(1) the end of the terminal; and every process that they start as well. Some tests are about what these do.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Without a limit of its own for each example, 200 ms where nothing is said: on a busy machine it is missed by chance. A
# property that hangs ends at the limit that every test has.
settings.register_profile("appvss", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("appvss")
