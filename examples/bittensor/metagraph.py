"""Writes a subnet's metagraph for a gateway: `metagraph.py --netuid N --out FILE`."""

import argparse
import csv
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import bittensor as bt

RAO = 1_000_000_000


def decimal(rao):
    """A stake as the chain has it: whole billionths, so that nothing is rounded."""
    return f"{rao // RAO}.{rao % RAO:09}"


def read(network, netuid):
    """Who is registered now."""
    chain = bt.Subtensor(network)
    try:
        metagraph = chain.subnets.metagraph(netuid, commitments=False)
    finally:
        chain.close()
    if metagraph is None:
        raise LookupError(f"there is no subnet {netuid} on {network}")
    if not metagraph.neurons:
        raise LookupError(f"subnet {netuid} on {network} lists nobody")
    entries = [
        {
            "hotkey": neuron.hotkey,
            "uid": neuron.uid,
            "stake": decimal(neuron.total_stake.rao),
            "validator": bool(neuron.validator_permit),
        }
        for neuron in metagraph.neurons
    ]
    return metagraph.block, entries


def text_of(entries, path):
    """The file's text, by the ending of its name."""
    if path.suffix == ".json":
        return json.dumps(entries, indent=1) + "\n"
    out = io.StringIO()
    rows = csv.DictWriter(out, ["hotkey", "uid", "stake", "validator"], lineterminator="\n")
    rows.writeheader()
    for entry in entries:
        rows.writerow({**entry, "validator": str(entry["validator"]).lower()})
    return out.getvalue()


def put(text, path):
    """Puts a whole file in place of the old one: nobody ever reads half of it."""
    number, scratch = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A scratch file is private; the gateway may be another user.
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def main():
    """Once, or every so often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--netuid", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help=".json or .csv")
    parser.add_argument("--network", default="finney", help="a name or an endpoint")
    parser.add_argument("--every-s", type=float, help="again and again; without it once")
    args = parser.parse_args()
    if args.out.suffix not in (".json", ".csv"):
        parser.error("--out must end in .json or .csv")
    while True:
        try:
            block, entries = read(args.network, args.netuid)
            put(text_of(entries, args.out), args.out)
            print(f"{len(entries)} hotkeys of block {block} in {args.out}", flush=True)
        except (bt.BittensorError, LookupError, OSError) as error:
            print(f"metagraph.py: {error}; {args.out} is left as it was", file=sys.stderr)
            if args.every_s is None:
                return 1
        if args.every_s is None:
            return 0
        time.sleep(args.every_s)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
