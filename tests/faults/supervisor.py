"""What keeps a broker running: it starts the command, and starts it again at once whenever it ends.

    python -IS supervisor.py COMMAND...

For each start it writes `supervisor: started PID` to standard error, which the command shares. SIGTERM is passed on,
and then nothing is started any more. It ends with the command's last code, and by itself after `MOST_STARTS`.
"""

import os
import signal
import sys

MOST_STARTS = 20


class Supervisor:
    """One command."""

    def __init__(self, command):
        self.command = command
        self.child = 0
        self.is_ending = False

    def end(self, _number, _frame):
        self.is_ending = True
        if self.child:
            os.kill(self.child, signal.SIGTERM)

    def run(self):
        code = 1
        for _ in range(MOST_STARTS):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            if self.is_ending:
                break
            self.child = os.posix_spawnp(self.command[0], self.command, os.environ, setsigmask=())
            os.write(2, f"supervisor: started {self.child}\n".encode())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
            self.child = 0
            if self.is_ending:
                break
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    supervisor = Supervisor(sys.argv[1:])
    signal.signal(signal.SIGTERM, supervisor.end)
    sys.exit(supervisor.run())
