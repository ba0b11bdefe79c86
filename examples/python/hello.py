"""A first call, whole and then as a stream: `hello.py [TASK] [PROMPT]`.

TAUGATE_GATEWAY names another gateway than 127.0.0.1:50051, TAUGATE_KEY holds an API key.
"""

import os
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent / "stubs"))
from taugate.v1.inference_pb2 import GenerateRequest, GetReceiptRequest, ListTasksRequest
from taugate.v1.inference_pb2_grpc import InferenceServiceStub
from taugate.v1.payload_pb2 import ChatMessage, ChatPayload, ContentPart

gateway = os.environ.get("TAUGATE_GATEWAY", "127.0.0.1:50051")
key = os.environ.get("TAUGATE_KEY")
# A development gateway asks for no key.
metadata = [("authorization", f"Bearer {key}")] if key else []

# For a gateway that others reach: grpc.secure_channel(gateway, grpc.ssl_channel_credentials()).
stub = InferenceServiceStub(grpc.insecure_channel(gateway))


def chat(prompt):
    """A chat of one message."""
    message = ChatMessage(role="ROLE_USER", parts=[ContentPart(text=prompt)])
    return ChatPayload(messages=[message], max_tokens=64)


def main():
    """Asks twice."""
    tasks = [task.id for task in stub.ListTasks(ListTasksRequest(), metadata=metadata).tasks]
    if not tasks:
        sys.exit("no miner has declared a task yet")
    task = sys.argv[1] if len(sys.argv) > 1 else tasks[0]
    prompt = sys.argv[2] if len(sys.argv) > 2 else "hello"

    # The call itself.
    request = GenerateRequest(task=task, chat=chat(prompt))
    answer = stub.Generate(request, timeout=60, metadata=metadata)
    print(answer.choices[0].content)
    print(f"{answer.usage.units} units, recorded: {answer.recorded}")

    # The same as a stream. It is whole only if it ends with `completed`.
    request_id, completed = "", None
    for event in stub.StreamGenerate(request, timeout=60, metadata=metadata):
        match event.WhichOneof("event"):
            case "started":
                request_id = event.started.request_id
            case "delta":
                print(event.delta.content, end="", flush=True)
            case "completed":
                completed = event.completed
    if completed is None:
        sys.exit("\nthe answer broke off")
    print(f"\n{completed.usage.units} units, recorded: {completed.recorded}")

    # What was booked for it.
    receipt = stub.GetReceipt(GetReceiptRequest(request_id=request_id), metadata=metadata).receipt
    print(f"receipt: {receipt.units} units, answered by {receipt.attempts[-1].miner}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        # `grpc-retry-pushback-ms`, where it is there and not negative: when to try again.
        pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        wait = f" (try again in {pushback} ms)" if pushback and int(pushback) >= 0 else ""
        sys.exit(f"{error.code().name}: {error.details()}{wait}")
