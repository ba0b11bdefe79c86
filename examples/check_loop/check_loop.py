"""Sends the checks that a gateway says are due, and judges the answers: `check_loop.py`."""

import argparse
import hashlib
import math
import os
import queue
import random
import signal
import sys
import threading
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[1] / "consumer"))
from consumer import SERVICE, Gateway, Key, batches
from taugate.v1 import capacity_pb2, capacity_pb2_grpc, consumption_pb2
from taugate.v1.inference_pb2 import CheckTarget, GenerateRequest
from taugate.v1.inference_pb2_grpc import InferenceServiceStub
from taugate.v1.payload_pb2 import ChatMessage, ChatPayload, ContentPart, Sampling

# What is due is spread over this part of a period; the rest is for what came short.
SPREAD = 0.8
# A call that would be admitted after this part may be booked in the next period.
LAST = 0.97
# Checks of one miner and task at once, at most.
AT_ONCE = 4
# What no wait helps against.
HOPELESS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}

WHO = "A nurse|My neighbour|A small bakery|Our team|An old sailor|A student of law|The town".split("|")
DID = "lost|repaired|wants to sell|has to explain|compares|writes about|plans".split("|")
WHAT = "a wooden boat|the monthly accounts|two bridges|a garden wall|the timetable|a sorting program|a recipe".split("|")
HOW = "before winter|without help|on a small budget|for the third time|in another language|by Friday".split("|")
ASK = "What would you advise?|Explain it step by step.|Which three questions come first?|Tell it as a story.|What could go wrong, and why?".split("|")


# --- what is asked, and what an answer is worth ---


def question(units, dice):
    """A chat request of about so many units, prompt and answer together; never twice the same."""
    prompt, aim = "", 4 * units * dice.uniform(0.2, 0.5)
    while len(prompt) < aim:
        number = dice.randrange(2, 1000)
        prompt += f"{dice.choice(WHO)} {dice.choice(DID)} {dice.choice(WHAT)} {dice.choice(HOW)}, {number} of them. "
    prompt += dice.choice(ASK)
    message = ChatMessage(role="ROLE_USER", parts=[ContentPart(text=prompt)])
    return ChatPayload(
        messages=[message],
        max_tokens=max(16, units - len(prompt) // 4),
        sampling=Sampling(temperature=dice.choice([0.2, 0.7, 1.0])),
    )


def fault(text, longest, known):
    """What is wrong with an answer; None: nothing that can be seen without a model."""
    if not text.strip():
        return "empty"
    if sum(letter.isprintable() or letter in "\n\t\r" for letter in text) < 0.9 * len(text):
        return "garbled"
    if len(text) > 64 and len(set(text)) < 8:
        return "one thing again and again"
    if len(text) > 16 * longest:
        return "far longer than asked for"
    digest = hashlib.sha256(text.encode()).digest()
    if len(text) >= 64 and digest in known:
        return "the answer to another question"
    known.add(digest)
    return None


# --- the gateway ---


class Checked(Gateway):
    """The reports of a gateway, and its door for clients."""

    def __init__(self, args):
        super().__init__(args.gateway, Key(args.key), args.name)
        capacity = capacity_pb2_grpc.CapacityServiceStub(self.channel)
        self.length = capacity.GetGateway(capacity_pb2.GetGatewayRequest(), timeout=5).period_s
        self.door = InferenceServiceStub(grpc.insecure_channel(args.door))
        self.bearer = [("authorization", f"Bearer {args.api_key}")]

    def check(self, miner, task, chat):
        """Begins a check of one miner."""
        request = GenerateRequest(task=task, chat=chat, check=CheckTarget(miner=miner))
        return self.door.Generate.future(request, timeout=60, metadata=self.bearer)

    def submit(self, request_id, quality):
        """Begins to hand in what an answer is worth."""
        request = consumption_pb2.SubmitCheckRequest(
            request_id=request_id, quality=quality, checker="check_loop"
        )
        message, metadata = self._signed("SubmitCheck", request)
        call = self.channel.unary_unary(
            SERVICE + "SubmitCheck", None, consumption_pb2.SubmitCheckResponse.FromString
        )
        return call.future(message, metadata=metadata, timeout=10)


class Cell:
    """A miner and a task in one period: what was told of it, and what was not told yet."""

    def __init__(self, period):
        self.period = period
        self.due = 0  # as it was told last
        self.booked = 0  # checks' units as they were told last
        self.untold = 0  # units of checks that ended and were not told yet
        self.flying = 0  # units that checks in flight may bring
        self.flights = 0
        self.next = None  # when the next check leaves
        self.failures = 0

    def left(self):
        """What is due beyond all that was sent."""
        return self.due - self.untold - self.flying

    def wait(self, now, length, units):
        """How long until the next check, so that what is due is spread over the period."""
        rest = self.period + SPREAD * length - now
        pause = max(0.0, rest) / max(1, math.ceil(self.left() / units))
        return pause * random.uniform(0.5, 1) + self.failures * length / 20


class Loop:
    """Nothing of it outlives the process: what is due comes from the gateway."""

    def __init__(self, gateway, args):
        self.gateway, self.units, self.dice = gateway, args.units, random.SystemRandom()
        self.events = queue.SimpleQueue()
        self.following = False  # whether what is due is known
        self.watching = None
        self.cells, self.counters, self.known = {}, {}, set()
        self.open = set()  # calls in flight, findings included
        self.sent = self.brought = self.failed = self.found = self.faulty = 0
        self.told_of = None  # the period that the last line was about

    def watch(self):
        """Follows the gateway for ever; for a thread of its own."""
        while True:
            try:
                self.watching = self.gateway.watch(b"", False)
                for batch, _ in batches(self.watching):
                    self.events.put((self.told, batch))
                self.events.put((self.broken, None))
            except grpc.RpcError as error:
                self.events.put((self.broken, error))
            time.sleep(1)

    def broken(self, error):
        """Until the stream is back nobody knows what is due."""
        self.following = False
        if error is None:
            return
        if error.code() == grpc.StatusCode.ABORTED:
            sys.exit("another loop of this name took over")
        if error.code() in HOPELESS:
            sys.exit(f"may not follow what is due: {error.details()}")
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)

    def told(self, batch):
        """Takes effect of a batch. What is due is read after the counters: if these have a
        check's units, so has what is due."""
        for message in batch:
            match message.WhichOneof("event"):
                case "snapshot_start":
                    self.counters.clear()
                case "consumption":
                    one = message.consumption
                    place = (one.miner, one.task, one.period.seconds)
                    key = (one.incarnation, one.origin)
                    rows = self.counters.setdefault(place, {})
                    if key not in rows or rows[key][0] < one.rev:
                        rows[key] = (one.rev, one.units)
                case "due":
                    due = message.due
                    cell = self.cells.get((due.miner, due.task))
                    if cell is None or cell.period != due.period.seconds:
                        cell = self.cells[due.miner, due.task] = Cell(due.period.seconds)
                    cell.due = due.due
        for (miner, task), cell in self.cells.items():
            rows = self.counters.get((miner, task, cell.period), {})
            origin = consumption_pb2.ORIGIN_SYNTHETIC
            booked = sum(units for (_, of), (_, units) in rows.items() if of == origin)
            cell.untold = max(0, cell.untold - max(0, booked - cell.booked))
            cell.booked = booked
        running = max((cell.period for cell in self.cells.values()), default=0)
        self.counters = {at: rows for at, rows in self.counters.items() if at[2] >= running}
        self.following = True
        if running != self.told_of:
            self.told_of = running
            self.say()

    def send(self, now):
        """Sends what is due now. Says when to look again."""
        soonest = now + 1
        for (miner, task), cell in self.cells.items():
            begun, length = now - cell.period, self.gateway.length
            if not self.following or cell.left() <= 0 or begun > LAST * length:
                continue
            if cell.next is None:
                cell.next = now + random.random() * cell.wait(now, length, self.units)
            if cell.next <= now and cell.flights < AT_ONCE:
                self._send(miner, task, cell)
                cell.next = now + max(0.01, cell.wait(now, length, self.units))
            if cell.flights < AT_ONCE:
                soonest = min(soonest, cell.next)
        return max(0.005, soonest - now)

    def _send(self, miner, task, cell):
        units = min(self.units, max(cell.left(), self.units // 3))
        chat = question(units, self.dice)
        cell.flying += units
        cell.flights += 1
        self.sent += 1
        call = self.gateway.check(miner, task, chat)
        self.open.add(call)
        ended = lambda call: self.ended(call, cell, units, miner, chat)
        call.add_done_callback(lambda call: self.events.put((ended, call)))

    def ended(self, call, cell, units, miner, chat):
        """A check came back."""
        self.open.discard(call)
        cell.flying -= units
        cell.flights -= 1
        try:
            answer = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            if call.code() in HOPELESS:
                sys.exit(f"may not send checks: {call.details()}")
            # A client took its place, or the miner failed: the gateway's books know which.
            cell.failures += 1
            self.failed += 1
            return
        cell.failures = 0
        cell.untold += answer.usage.units
        self.brought += answer.usage.units
        text = "".join(choice.reasoning + choice.content for choice in answer.choices)
        wrong = fault(text, chat.max_tokens, self.known)
        if wrong:
            self.faulty += 1
            print(f"{miner}: {wrong} ({answer.request_id})", file=sys.stderr)
        found = self.gateway.submit(answer.request_id, 0.0 if wrong else 1.0)
        self.open.add(found)
        found.add_done_callback(lambda found: self.events.put((self.submitted, found)))

    def submitted(self, found):
        """The gateway keeps a finding, or says why not."""
        self.open.discard(found)
        try:
            found.result()
            self.found += 1
        except (grpc.RpcError, grpc.FutureCancelledError):
            print(f"a finding is lost: {found.code().name}: {found.details()}", file=sys.stderr)

    def say(self):
        """A line of what was done."""
        print(
            f"{self.sent} checks sent, {self.brought} units, {self.failed} without an answer; "
            f"{self.found} findings, {self.faulty} of something wrong",
            flush=True,
        )

    def take(self, patience):
        """Takes what happened meanwhile, if anything."""
        try:
            what, of = self.events.get(timeout=patience)
            what(of)
        except queue.Empty:
            pass

    def run(self):
        """Checks for ever."""
        threading.Thread(target=self.watch, daemon=True).start()
        while True:
            self.take(self.send(time.time()))

    def stop(self):
        """Sends nothing more, and lets end what runs."""
        deadline = time.monotonic() + 10
        while self.open and time.monotonic() < deadline:
            self.take(0.1)
        for call in list(self.open):
            call.cancel()
        self.say()


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", default="127.0.0.1:50052", help="the peer listener")
    parser.add_argument("--door", default="127.0.0.1:50051", help="the listener for clients")
    parser.add_argument("--key", help="a hotkey's file; without it a random hotkey")
    parser.add_argument("--name", default="check_loop", help="names this loop")
    parser.add_argument("--units", type=int, default=300, help="of one check, about")
    args = parser.parse_args()
    args.api_key = os.environ.get("TAUGATE_KEY")
    if not args.api_key:
        parser.error("TAUGATE_KEY must hold a key that `taugate key create --check` made")
    if args.units < 32:
        parser.error("--units must be 32 at least")
    return args


def main():
    """Checks until it is told to stop."""
    args = arguments()
    try:
        loop = Loop(Checked(args), args)
    except grpc.RpcError as error:
        sys.exit(f"no gateway answers at {args.gateway}: {error.details()}")
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"{args.key} holds no hotkey: {error}")
    # Also where it was started in the background, which ignores Ctrl-C else.
    for ends in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ends, signal.default_int_handler)
    try:
        loop.run()
    except KeyboardInterrupt:
        loop.stop()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
