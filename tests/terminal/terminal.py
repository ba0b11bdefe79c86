"""Watches the demo and the status on a terminal of their own: `terminal.py TAUGATE SCRATCH`."""

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import termios
import time

taugate, scratch = os.path.abspath(sys.argv[1]), sys.argv[2]
failures = 0

CTRL_C = b"\x03"

# The longest that anything may take on a machine with much else to do.
PATIENCE = 60


def check(holds, what, found=""):
    """Prints what a check found."""
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


class Terminal:
    """A program on a terminal of 40 lines and 150 columns."""

    def __init__(self, *arguments):
        self.began, self.text = time.monotonic(), ""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TMPDIR=scratch, TERM="xterm")
            os.execv(taugate, [taugate, *arguments])
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))

    def read(self):
        """Takes what was written; False at the end."""
        if not select.select([self.terminal], [], [], 0.05)[0]:
            return True
        try:
            some = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.text += some.decode("utf-8", "replace")
        return some != b""

    def until(self, holds):
        """Reads until a condition holds; the seconds since the start, or None."""
        while time.monotonic() - self.began < PATIENCE:
            if holds(self.text):
                return time.monotonic() - self.began
            if not self.read():
                break
        return time.monotonic() - self.began if holds(self.text) else None

    def press(self, key):
        """Presses a key."""
        os.write(self.terminal, key)

    def end(self):
        """Reads to the end; the exit code."""
        while self.read():
            if time.monotonic() - self.began > 2 * PATIENCE:
                os.kill(self.pid, 9)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def address(text):
    """Where the gateway says that it listens."""
    host, port = re.search(r"listens at ([0-9.]+):(\d+)", text).groups()
    return host, int(port)


def is_gone(terminal):
    """Whether nothing is left of a demo."""
    with socket.socket() as probe:
        closed = probe.connect_ex(address(terminal.text)) != 0
    return closed and os.listdir(scratch) == []


def call(line):
    """Runs a line that the demo says to try; whether it did well."""
    words = shlex.split(line)
    words[0] = taugate if words[0] == "taugate" else words[0]
    if shutil.which(words[0]) is None:
        return None
    if "miner" in words:
        # It goes on until it is stopped.
        words += ["--key", os.path.join(scratch, "..", "visitor.json")]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as miner:
            declared = any("allotment=" in entry for entry in miner.stderr)
            miner.terminate()
        return declared
    done = subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode == 0 and done.stdout != b""


def whole():
    """To its end, and beyond."""
    demo = Terminal("demo", "--minutes", "1", "--speed", "20")
    took = demo.until(lambda text: "recorded)" in text)
    check(took is not None, "one answer streams first", f"whole after {took or 0:.2f} s")
    took = demo.until(lambda text: "in flight" in text)
    check(took is not None, "then a table comes", f"after {took or 0:.2f} s")
    pictures = demo.until(lambda text: text.count("in flight") >= 4)
    check(pictures is not None, "and is drawn again and again")
    stays = demo.until(lambda text: "/metrics" in text)
    check(stays is not None, "the network stays up, with calls to try")
    check("The books close." in demo.text, "its books close")
    if stays is None:
        print(demo.text)
        return
    lines = demo.text[demo.text.index("stays up until") :].splitlines()[1:]
    for line in filter(None, map(str.strip, lines)):
        well = call(line)
        check(well is not False, "not here, so not tried" if well is None else "works", line)
    demo.press(CTRL_C)
    code = demo.end()
    check(code == 0, "Ctrl-C ends it with 0", code)
    check(is_gone(demo), "and nothing of it is left")


def cut_short():
    """Ended while its traffic runs."""
    demo = Terminal("demo", "--minutes", "50", "--speed", "1")
    demo.until(lambda text: text.count("in flight") >= 2)
    demo.press(CTRL_C)
    code = demo.end()
    proved = "The books close." in demo.text and "(interrupted)" in demo.text
    check(code == 0 and proved, "Ctrl-C in mid-traffic ends it with the proof of its books", code)
    check("stays up" not in demo.text and is_gone(demo), "and nothing of it is left")


def followed():
    """The status of a gateway, followed; the gateway goes and comes back."""
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    path = os.path.join(scratch, "..", "followed.toml")
    with open(path, "w", encoding="utf-8") as file:
        names = zip(("public", "peer", "admin"), ports)
        file.write("[listen]\n" + "".join(f'{name} = "127.0.0.1:{port}"\n' for name, port in names))
        file.write("[keys]\nrequired = false\n[registry]\nopen_registration = true\n[tasks.tiny]\n")
        file.write(f'[store]\npath = "{os.path.join(scratch, "..", "followed.db")}"\n')

    def gateway():
        running = subprocess.Popen(
            [taugate, "gateway", "--config", path], stderr=subprocess.PIPE, text=True
        )
        for line in running.stderr:
            if " ready " in line:
                return running
        return running

    def end(running):
        running.terminate()
        running.communicate(timeout=PATIENCE)

    running = gateway()
    status = Terminal("status", "--watch", "--config", path)
    pictures = status.until(lambda text: text.count(" s left; ready") >= 3)
    check(pictures is not None, "the status is drawn again and again", f"{pictures or 0:.1f} s")
    check("\x1b[" in status.text, "in place")
    end(running)
    told = status.until(lambda text: "no gateway answers at" in text)
    check(told is not None, "a gateway that is gone is told")
    seen = len(status.text)
    running = gateway()
    again = status.until(lambda text: " s left; ready" in text[seen:].split("no gateway answers at")[-1])
    check(again is not None, "and one that is back is shown")
    status.press(CTRL_C)
    code = status.end()
    check(code == 0, "Ctrl-C ends it with 0", code)
    end(running)


whole()
cut_short()
followed()
sys.exit(1 if failures else 0)
