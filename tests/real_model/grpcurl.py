"""The commands of README.md that call grpcurl, and what they answer: `grpcurl.py GATEWAY TOLD`.

GATEWAY stands in for the address in the commands, 127.0.0.1:50051. TOLD gets the units that
each call cost as the client was told. `grpcurl` is on the PATH.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from checks import check, finish

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "127.0.0.1:50051"
gateway, told = sys.argv[1], sys.argv[2]


def commands():
    """What README.md says to type."""
    for block in re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["grpcurl"]:
                yield words


def call(words):
    """Runs a command; its exit code, output and complaints."""
    words = [word.replace(ADDRESS, gateway) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def messages(text):
    """JSON values, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def judge_list(words):
    """`list` names what is served."""
    code, out, err = call(words)
    names = out.split()
    wanted = {"taugate.v1.InferenceService", "grpc.health.v1.Health"}
    check(code == 0 and wanted <= set(names), "grpcurl list", ", ".join(names) or err)


def judge_stream(words):
    """An answer, its units and its receipt."""
    code, out, err = call(words)
    events = messages(out) if code == 0 else []
    text = "".join(event["delta"].get("content", "") for event in events if "delta" in event)
    if not events or "completed" not in events[-1]:
        check(False, "grpcurl StreamGenerate brings a whole answer", err or out)
        return
    completed = events[-1]["completed"]
    request = json.loads(words[words.index("-d") + 1])
    prompt = request["chat"]["messages"][0]["parts"][0]["text"]
    # A development gateway charges a tenth of the prompt.
    owed = -(-len(text) // 4) - (-len(prompt) // 40)
    units = int(completed["usage"]["units"])
    with open(told, "a", encoding="utf-8") as noted:
        noted.write(f"{units}\n")
    check(
        text != "" and units == owed and completed["recorded"],
        "grpcurl StreamGenerate: units are those of the text",
        f"{len(text)} code points, {units} units ({owed})",
    )
    started = next(event["started"] for event in events if "started" in event)
    ask = json.dumps({"requestId": started["requestId"]})
    method = "taugate.v1.InferenceService/GetReceipt"
    code, out, err = call(["grpcurl", "-plaintext", "-d", ask, ADDRESS, method])
    receipt = json.loads(out)["receipt"] if code == 0 else {}
    check(
        receipt.get("units") == completed["usage"]["units"],
        "grpcurl GetReceipt: the receipt agrees",
        receipt.get("units", err),
    )


found = list(commands())
lists = [words for words in found if words[-1] == "list"]
streams = [words for words in found if words[-1].endswith("/StreamGenerate")]
check(
    lists != [] and streams != [] and len(lists) + len(streams) == len(found),
    "README.md has grpcurl commands, and this part knows them all",
    len(found),
)
for command in lists:
    judge_list(command)
for command in streams:
    judge_stream(command)

# A refusal says what to do next to a person, too.
wrong = json.dumps({"task": "nobody", "chat": {"messages": [{"role": "ROLE_USER"}]}})
method = "taugate.v1.InferenceService/Generate"
code, _, err = call(["grpcurl", "-plaintext", "-d", wrong, ADDRESS, method])
check(
    code != 0 and "NotFound" in err and "ListTasks" in err,
    "grpcurl prints a refusal and what helps",
    " ".join(err.split("Details")[0].split()),
)
finish()
