"""A client that knows the API only by what the gateway's reflection says of it.

    reflect_client.py GATEWAY TOLD wait TASK MINERS
    reflect_client.py GATEWAY TOLD chats TASK COUNT
    reflect_client.py GATEWAY TOLD cancel TASK MODEL_URL...
    reflect_client.py GATEWAY TOLD lose TASK URL_1 PID_1 URL_2 PID_2

Prints one line per check, `ok` or `FAIL`; appends to the file TOLD the units that each call
cost as the client was told.
"""

import json
import os
import signal
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

from checks import check, finish

SERVICE = "taugate.v1.InferenceService"

# A development gateway charges a tenth of the prompt: ceil(code points x 0.1 / 4).
PROMPT_DIVISOR = 40

PROMPTS = [
    "Count from one to twenty.",
    "Décris l'été à Zürich, s'il vous plaît.",
    "日本の首都について教えてください。",
    "Write a poem about the sea. " * 12,
]

def until(condition, seconds):
    """Waits for a condition; the seconds that took, or None when it did not come."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if condition():
            return time.monotonic() - start
        time.sleep(0.01)
    return None


class Gateway:
    """The inference service, learnt by reflection."""

    def __init__(self, address, told):
        self.channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self.channel).result(timeout=20)
        database = ProtoReflectionDescriptorDatabase(self.channel)
        self.names = sorted(database.get_services())
        pool = DescriptorPool(database)
        self.service = pool.FindServiceByName(SERVICE)
        self.enums = pool.FindEnumTypeByName
        self.told = told

    def method(self, name):
        """A method, callable with a request, and the class of its requests."""
        found = self.service.methods_by_name[name]
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        call = kind(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(found.output_type).FromString,
        )
        return call, GetMessageClass(found.input_type)

    def word(self, enum, number):
        """The name of an enum's value."""
        return self.enums(f"taugate.v1.{enum}").values_by_number[number].name

    def tasks(self):
        """The tasks by id."""
        call, request = self.method("ListTasks")
        return {task.id: task for task in call(request(), timeout=5).tasks}

    def receipt(self, request_id):
        """The receipt of a call; waits for one that is not written yet."""
        call, request = self.method("GetReceipt")
        deadline = time.monotonic() + 5
        while True:
            try:
                receipt = call(request(request_id=request_id), timeout=5).receipt
                if not receipt.part:
                    return receipt
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND or time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"only a part of the receipt of {request_id}")
            time.sleep(0.02)

    def stream(self, task, prompt, tokens, seed=1):
        """Starts a chat."""
        call, request = self.method("StreamGenerate")
        message = request(task=task)
        turn = message.chat.messages.add()
        turn.role = turn.DESCRIPTOR.fields_by_name["role"].enum_type.values_by_name[
            "ROLE_USER"
        ].number
        turn.parts.add().text = prompt
        message.chat.max_tokens = tokens
        message.chat.sampling.seed = seed
        return Chat(self, prompt, call(message, timeout=90))

    def note(self, units):
        """Keeps what a call cost."""
        with open(self.told, "a", encoding="utf-8") as told:
            told.write(f"{units}\n")


def reason(error):
    """The reason in the details of a status, and the pushback beside it."""
    told = ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(told)
    pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    return told.reason, pushback


class Chat:
    """One answer as it comes."""

    def __init__(self, gateway, prompt, events):
        self.gateway, self.prompt, self.events = gateway, prompt, events
        self.text, self.started, self.completed, self.broken = "", None, None, None

    def read(self, deltas=None):
        """Reads to the end, or until so many deltas with text came."""
        try:
            for response in self.events:
                kind = response.WhichOneof("event")
                if kind == "started":
                    self.started = response.started
                elif kind == "completed":
                    self.completed = response.completed
                elif kind == "delta" and response.delta.content:
                    self.text += response.delta.content
                    if deltas is not None:
                        deltas -= 1
                        if deltas <= 0:
                            return self
        except grpc.RpcError as error:
            self.broken = error
        return self

    def prompt_units(self):
        """What the prompt must cost."""
        return -(-len(self.prompt) // PROMPT_DIVISOR)

    def units(self):
        """What the text so far must cost."""
        return -(-len(self.text) // 4) + self.prompt_units()

    def judge(self, what):
        """Checks a whole answer against its receipt."""
        if self.broken is not None or self.completed is None or self.started is None:
            check(False, f"{what} is whole", self.broken.code() if self.broken else "no Completed")
            return
        receipt = self.gateway.receipt(self.started.request_id)
        usage = self.completed.usage
        self.gateway.note(usage.units)
        outcome = self.gateway.word("Outcome", receipt.outcome)
        good = [a for a in receipt.attempts if self.gateway.word("Outcome", a.outcome) == "OUTCOME_GOOD"]
        holds = (
            len(self.text) > 0
            and usage.units == self.units()
            and usage.prompt_units == self.prompt_units()
            and self.completed.recorded
            and receipt.units == usage.units
            and receipt.quality == usage.quality
            and outcome == "OUTCOME_GOOD"
            and [(a.miner, a.units) for a in good] == [(self.started.miner, usage.units)]
        )
        check(
            holds,
            f"{what}: units are those of the text and of the receipt",
            f"{len(self.text)} code points, {usage.units} units ({self.units()}), prompt "
            f"{usage.prompt_units} ({self.prompt_units()}), receipt {receipt.units} {outcome}, "
            f"recorded {self.completed.recorded}",
        )


def processing(url):
    """How many slots of a model server are at work."""
    with urllib.request.urlopen(f"{url}/slots", timeout=5) as answer:
        return sum(slot["is_processing"] for slot in json.load(answer))


def wait(gateway, task, miners):
    """Waits until a task has so many miners."""

    def there():
        found = gateway.tasks().get(task)
        return found is not None and found.miners == int(miners)

    took = until(there, 30)
    found = "not within 30 s" if took is None else f"{took:.2f} s"
    check(took is not None, f"{miners} miners of {task} are declared", found)


def chats(gateway, task, count):
    """Streams chats, two at a time; both miners must get some."""
    check(SERVICE in gateway.names, "reflection lists the service", ", ".join(gateway.names))
    count = int(count)
    with ThreadPoolExecutor(2) as pool:
        asked = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
        done = list(
            pool.map(lambda n: gateway.stream(task, asked[n], 48, seed=n + 1).read(), range(count))
        )
    for number, chat in enumerate(done):
        chat.judge(f"chat {number + 1}")
    miners = {chat.started.miner for chat in done if chat.started}
    check(len(miners) == 2, "both miners answered", len(miners))


def cancel(gateway, task, *urls):
    """Cancels long answers; the model must stop."""
    for number in range(3):
        chat = gateway.stream(task, "Tell me a very long story.", 1500, seed=number + 10).read(5)
        check(sum(map(processing, urls)) == 1, f"cancel {number + 1}: one slot was at work before")
        chat.events.cancel()
        took = until(lambda: sum(map(processing, urls)) == 0, 10)
        found = "not within 10 s" if took is None else f"{took:.3f} s"
        check(took is not None and took < 1, f"cancel {number + 1}: the slot is free within 1 s", found)
        receipt = gateway.receipt(chat.started.request_id)
        outcome = gateway.word("Outcome", receipt.outcome)
        gateway.note(receipt.units)
        # What was under way when the client left was delivered too: at most a few deltas.
        check(
            outcome == "OUTCOME_CANCELLED" and chat.units() <= receipt.units <= chat.units() + 64,
            f"cancel {number + 1}: the receipt says so and holds what was delivered",
            f"{outcome}, {receipt.units} units, {chat.units()} seen",
        )


def lose(gateway, task, *servers):
    """Kills a model server under running answers; the other miner's go on, and get the rest."""
    urls = dict(zip(servers[::2], map(int, servers[1::2])))
    first = gateway.stream(task, "Tell me a very long story.", 160, seed=20).read(5)
    url = next((url for url in urls if processing(url)), None)
    check(url is not None, "lose: a slot is at work")
    if url is None:
        return
    gone, running = first.started.miner, [first]
    while len(running) < 4 and all(chat.started.miner == gone for chat in running):
        seed = 20 + len(running)
        running.append(gateway.stream(task, "Tell me another story.", 160, seed=seed).read(5))
    broken = [chat for chat in running if chat.started.miner == gone]
    others = [chat for chat in running if chat.started.miner != gone]
    check(others != [], "lose: the other miner is at work, too", f"{len(broken)} and {len(others)}")
    os.kill(urls[url], signal.SIGKILL)
    for number, chat in enumerate(broken):
        judge_lost(gateway, chat, f"lost {number + 1}")
    for number, chat in enumerate(others):
        chat.read().judge(f"under way elsewhere {number + 1}")
    done = [gateway.stream(task, PROMPTS[n % 3], 24, seed=n + 30).read() for n in range(6)]
    for number, after in enumerate(done):
        after.judge(f"after the loss {number + 1}")
    miners = {after.started.miner for after in done if after.started}
    check(
        len(miners) == 1 and gone not in miners, "after the loss: the other miner answers them all"
    )


def judge_lost(gateway, chat, what):
    """Checks an answer whose model server was killed."""
    start = time.monotonic()
    chat.read()
    took = time.monotonic() - start
    code = None if chat.broken is None else chat.broken.code()
    why = (None, None) if chat.broken is None else reason(chat.broken)
    check(
        chat.completed is None
        and code == grpc.StatusCode.UNAVAILABLE
        and why == ("MINER_LOST", "-1"),
        f"{what}: the running answer ends with MINER_LOST, not to be tried again",
        f"{code}, {why} after {took:.2f} s",
    )
    receipt = gateway.receipt(chat.started.request_id)
    gateway.note(receipt.units)
    outcome = gateway.word("Outcome", receipt.outcome)
    check(
        outcome == "OUTCOME_LOST" and receipt.units == chat.units(),
        f"{what}: its receipt holds exactly what was delivered",
        f"{outcome}, {receipt.units} units, {chat.units()} seen",
    )


if __name__ == "__main__":
    at, told, command, *rest = sys.argv[1:]
    {"wait": wait, "chats": chats, "cancel": cancel, "lose": lose}[command](Gateway(at, told), *rest)
    finish()
