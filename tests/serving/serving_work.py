"""What worker processes of the tests run."""

import os
import signal
import time


class Work:
    """Jobs that take a while, hang, or end their process."""

    def __init__(self, scale):
        self.scale, self.known = scale, []

    def __call__(self, name, *arguments, notify=None):
        return getattr(self, name)(*arguments, **({"notify": notify} if notify else {}))

    def double(self, number):
        return number * 2 * self.scale

    def pid(self):
        return os.getpid()

    def steps(self, count, seconds, notify):
        for done in range(count):
            time.sleep(seconds)
            if not notify(done + 1, count, "Working"):
                return "stopped"
        return "done"

    def hang(self, notify):
        time.sleep(60)

    def die(self, marker, notify=None):
        """Kill the process the first time."""
        if not os.path.exists(marker):
            with open(marker, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def always_die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def news(self):
        return self.known

    def learn(self, *news):
        self.known.append(news)

    def forget(self, *what):
        self.known.remove(what)

    def rest(self):
        pass


def make(scale):
    return Work(scale)
