"""Asks until a call failed over, and compares its receipt with its trace in Jaeger:
`failover.py TAUGATE GATEWAY JAEGER`.
"""

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request

taugate, gateway, jaeger = sys.argv[1:]
failures = 0


def check(holds, what, found=""):
    """Prints what a check found."""
    global failures
    failures += not holds
    print(f"{'ok  ' if holds else 'FAIL'} {what}" + (f": {found}" if found != "" else ""), flush=True)


def ask():
    """One call; its request id, or None when it brought no whole answer."""
    command = [taugate, "ask", "--gateway", f"http://{gateway}", "--task", "tiny"]
    command += ["--json", "--max-tokens", "1", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return json.loads(done.stdout)["request_id"] if done.returncode == 0 else None


def receipt(request_id):
    """The receipt of a call."""
    command = ["grpcurl", "-plaintext", "-d", json.dumps({"requestId": request_id}), gateway]
    command += ["taugate.v1.InferenceService/GetReceipt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)["receipt"]


def trace(request_id):
    """The trace of a call; waits for it."""
    tags = urllib.parse.quote(json.dumps({"gen_ai.response.id": request_id}))
    url = f"{jaeger}/api/traces?service=taugate&limit=20&lookback=1h&tags={tags}"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]
        if found:
            return found
        time.sleep(0.1)
    return []


def tags_of(span):
    """The attributes of a span."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def compare(request_id, booked):
    """The trace against the receipt."""
    traces = trace(request_id)
    check(len(traces) == 1, "Jaeger has one trace of the call", len(traces))
    if len(traces) != 1:
        return
    spans = sorted(traces[0]["spans"], key=lambda span: span["startTime"])
    roots = [span for span in spans if not span["references"]]
    attempts = [span for span in spans if span["operationName"] == "attempt"]
    check(len(roots) == 1 and len(spans) == 1 + len(attempts), "one root, and else attempts only",
          [span["operationName"] for span in spans])
    root = roots[0]
    tags = tags_of(root)
    check(
        root["operationName"] == "chat tiny"
        and tags["taugate.attempts"] == len(attempts)
        and tags["taugate.finish"] == "good"
        and traces[0]["processes"][root["processID"]]["serviceName"] == "taugate",
        "the root says what the call came to",
        tags,
    )
    seen = [
        (tags["taugate.miner"], "OUTCOME_" + tags["taugate.outcome"].upper(), tags["taugate.units"])
        for tags in map(tags_of, attempts)
    ]
    told = [
        (attempt["miner"], attempt["outcome"], int(attempt.get("units", 0)))
        for attempt in booked["attempts"]
    ]
    check(seen == told, "its attempts are those of the receipt", seen)
    check(
        all(span["references"][0]["spanID"] == root["spanID"] for span in attempts),
        "every attempt is a child of the call",
    )
    ends = [span["startTime"] + span["duration"] for span in [root, *attempts]]
    starts = [span["startTime"] for span in [root, *attempts]]
    # Jaeger counts whole microseconds.
    check(
        min(starts) == starts[0] and max(ends) <= ends[0] + 1,
        "every attempt lies within the call",
        [span["duration"] for span in [root, *attempts]],
    )
    errors = [bool(tags_of(span).get("error", False)) for span in attempts]
    logs = [
        [field["value"] for log in span["logs"] for field in log["fields"]] for span in attempts
    ]
    check(errors == [True] * (len(errors) - 1) + [False], "all but the last failed", errors)
    check(
        "first chunk" in logs[-1] and not any("first chunk" in log for log in logs[:-1]),
        "the last alone has a first chunk",
        logs,
    )


for _ in range(60):
    asked = ask()
    held = receipt(asked) if asked else {"attempts": []}
    if len(held["attempts"]) > 1:
        check(True, "a call failed over", [attempt["outcome"] for attempt in held["attempts"]])
        compare(asked, held)
        break
else:
    check(False, "a call failed over")
sys.exit(1 if failures else 0)
