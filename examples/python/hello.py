"""A first call: streams an answer of a gateway. `python hello.py [TASK]`."""

import os
import sys

import grpc
from taugate.v1 import inference_pb2 as api
from taugate.v1 import inference_pb2_grpc as stubs
from taugate.v1.payload_pb2 import ChatMessage, ChatPayload, ContentPart, Role

address = os.environ.get("TAUGATE_GATEWAY", "127.0.0.1:50051").removeprefix("http://")
key = os.environ.get("TAUGATE_KEY")
credentials = [("authorization", f"Bearer {key}")] if key else None


def chat(task: str, text: str) -> api.GenerateRequest:
    message = ChatMessage(role=Role.ROLE_USER, parts=[ContentPart(text=text)])
    return api.GenerateRequest(task=task, chat=ChatPayload(messages=[message], max_tokens=64))


def main() -> int:
    with grpc.insecure_channel(address) as channel:
        gateway = stubs.InferenceServiceStub(channel)
        tasks = gateway.ListTasks(api.ListTasksRequest(), metadata=credentials).tasks
        if not tasks:
            print("no miner has declared a task yet", file=sys.stderr)
            return 1
        task = sys.argv[1] if len(sys.argv) > 1 else tasks[0].id
        completed = None
        for event in gateway.StreamGenerate(chat(task, "Say hello."), metadata=credentials):
            if event.HasField("delta"):
                print(event.delta.content, end="", flush=True)
            elif event.HasField("completed"):
                completed = event.completed
    # A stream is whole only if it ended with `completed`.
    if completed is None:
        print("\nthe answer broke off", file=sys.stderr)
        return 1
    print(f"\n{completed.usage.units} units, recorded: {completed.recorded}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as refused:
        # Without it: do not try again. A negative number says so, too.
        retry = dict(refused.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        print(f"{refused.code().name}: {refused.details()} (retry after ms: {retry})", file=sys.stderr)
        sys.exit(1)
