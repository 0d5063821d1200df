"""A run of real processes, watched and disturbed from outside: what tests/bench/recovery, elastic and soak have in common."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"
DEADLINE = 300  # seconds, of every wait


def sdp(*arguments):
    """Of the command's end and output; whoever calls judges the exit status."""
    return subprocess.run([BIN / "sdp", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def synthetic_text(folder):
    """A text that a small model learns something of; the same bytes each time."""
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("".join(f"The {i}th line is {i * i % 977} words short.\n" for i in range(20000)))
    return str(path)


class LiveRun:
    """One `sdp train` of `config`, {section: {key: value}}, in folder/name, whose lines are seen as they come. Used in a `with` it leaves
    no process behind, even if SIGTERM ends the program. What does not come within DEADLINE, or before the run ends, is a RuntimeError
    with the run's last output."""

    def __init__(self, folder, name, config):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.folder = folder / name
        self.output = open(folder / f"{name}.out", "w")
        path = folder / f"{name}.toml"
        config = {**config, "run": {"dir": str(self.folder)}}
        path.write_text("".join(  # JSON's numbers, strings, booleans and lists are TOML's
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in config.items()))
        self.top = subprocess.Popen([BIN / "sdp", "train", path], stdout=self.output, stderr=self.output)
        self.joined = {}  # by name, the newest process of each
        self.replaced = []  # processes that another one of their name has followed
        self.lines, self.seen = [], []  # of metrics.jsonl, and when
        self.file, self.rest = None, ""

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        processes = [self.top, *self.joined.values(), *self.replaced]
        for process in processes:
            if kind is not None and process.poll() is None:
                process.kill()  # the children of `sdp train` die with it
            process.wait(timeout=DEADLINE)

    def look(self):
        path = self.folder / "metrics.jsonl"
        if self.file is None and path.exists():
            self.file = open(path)
        if self.file is None:
            return
        while line := self.file.readline():
            self.rest += line
            if self.rest.endswith("\n"):  # else the rest of it is still to come
                self.lines.append(json.loads(self.rest))
                self.seen.append(time.monotonic())
                self.rest = ""

    def failed(self, what):
        self.output.flush()
        return RuntimeError(f"{self.folder.name}: no {what}; {pathlib.Path(self.output.name).read_text()[-2000:]}")

    def until(self, what, condition, begin=0):
        """Waits for it, and returns the number of the first line from `begin` on for which it is true. Lines must keep coming."""
        limit = time.monotonic() + DEADLINE
        while True:
            over = self.top.poll() is not None
            self.look()
            while begin < len(self.lines):
                if condition(begin, self.lines[begin]):
                    return begin
                begin += 1
                limit = time.monotonic() + DEADLINE
            if over or time.monotonic() > limit:
                raise self.failed(what)
            time.sleep(0.002)

    def until_step(self, step):
        self.until(f"step {step}", lambda _, line: line["step"] >= step)

    def more(self, count):
        self.look()
        last = len(self.lines) + count - 1
        return self.until(f"{count} more steps", lambda number, _: number >= last)

    def processes(self):
        """Process ids by name, of all roles that live; `sdp train` itself is "sdp"."""
        found = {"sdp": self.top.pid}
        for pid in os.listdir("/proc"):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                parent = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == self.top.pid and b"--name" in words:
                found[words[words.index(b"--name") + 1].decode()] = int(pid)
        found.update({name: process.pid for name, process in self.joined.items() if process.poll() is None})
        return found

    def kill(self, name, how=signal.SIGKILL):
        """Returns how many lines there were, and when."""
        self.look()
        before = len(self.lines)
        pid = self.processes().get(name)
        if pid is None:
            raise self.failed(f"process {name}")
        os.kill(pid, how)
        return before, time.monotonic()

    def join(self, name):
        """Starts a worker by hand. Returns its process, and when."""
        address = (self.folder / "coordinator.address").read_text().strip()
        if name in self.joined:
            self.replaced = [process for process in [*self.replaced, self.joined[name]] if process.poll() is None]
        self.joined[name] = subprocess.Popen(
            [BIN / "sdp-worker", "--config", self.folder / "config.toml", "--coordinator", address, "--name", name,
             "--grace", "60"], stdout=self.output, stderr=self.output)
        return self.joined[name], time.monotonic()

    def drain(self, name):
        """Asks until it is heard: a worker that was just started may not be known yet, and a coordinator may be away."""
        limit = time.monotonic() + DEADLINE
        while (done := sdp("drain", self.folder, name)).returncode != 0:
            if time.monotonic() > limit or self.top.poll() is not None:
                raise self.failed(f"drain of {name} ({done.stderr.strip()})")
            time.sleep(0.1)

    def end(self):
        if self.top.poll() is None:
            self.top.send_signal(signal.SIGINT)
        return self.until_over()

    def until_over(self):
        """Waits until all have left; the run's exit status. What was to take longer than DEADLINE `until` has waited for."""
        status = self.top.wait(timeout=DEADLINE)
        for process in [*self.joined.values(), *self.replaced]:
            process.wait(timeout=DEADLINE)
        self.look()
        return status

    def by_step(self):
        """The newest line of each step."""
        return {line["step"]: line for line in self.lines}

    def audit(self):
        """Of `sdp audit`: its report, and what is wrong with it; none if every sample was used as promised."""
        done = sdp("audit", self.folder, "--json")
        try:
            report = json.loads(done.stdout)
        except ValueError:
            return {}, [f"sdp audit: {done.stderr.strip()}"]
        wrong = [f"{report[what]} samples {what}" for what in ("lost", "doubled") if report[what] > 0]
        if done.returncode != 0 or report["violations"] > 0:
            wrong.append(f"sdp audit ends with {done.returncode}: {done.stderr.strip()}")
        if report["used_once"] + report["used_again"] + report["waiting"] + report["in_open_steps"] != report["dealt"]:
            wrong.append("the numbers of samples do not add up to those that were dealt")
        return report, wrong
