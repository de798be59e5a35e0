"""What holds for all tests."""

import signal

# Under nohup children inherit that SIGHUP is ignored, which the program respects and its tests do not expect.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
