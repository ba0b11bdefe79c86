"""The example's consumer over a line that doubles and reorders what comes within a batch, and
brings old messages again: `scrambled.py SEED [the consumer's arguments]`."""

import random
import sys
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/consumer"))
import consumer

# Counters and receipts that come again much later.
OLD_MAX = 500


def scrambling(dice):
    old = []

    def cut(stream):
        for batch, cursor in consumer.batches(stream):
            start = [one for one in batch if one.HasField("snapshot_start")]
            rest = [one for one in batch if not one.HasField("snapshot_start")]
            if start:
                old.clear()
            again = dice.sample(rest, dice.randint(0, len(rest))) if rest else []
            again += dice.sample(old, dice.randint(0, min(20, len(old))))
            told = rest + again
            dice.shuffle(told)
            old.extend(one for one in rest if one.HasField("consumption") or one.HasField("receipt"))
            del old[:-OLD_MAX]
            yield start + told, cursor

    return cut


def main():
    dice = random.Random(int(sys.argv.pop(1)))
    args = consumer.arguments()
    while True:
        try:
            consumer.follow(args, scrambling(dice))
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        time.sleep(0.1)


main()
