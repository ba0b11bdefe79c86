"""Hands a gateway's weights to the chain: `taugate weights --format json | weights.py ..`."""

import argparse
import json
import math
import sys
import time

import bittensor as bt

# Weights sum to one; printed decimals may lose a little of it.
SLACK = 1e-6

# The chain has a block every twelve seconds.
BLOCK_S = 12

# What another try does not change.
PERMANENT = {
    bt.ErrorCode.NOT_REGISTERED,
    bt.ErrorCode.NOT_AUTHORIZED,
    bt.ErrorCode.SUBNET_NOT_EXISTS,
    bt.ErrorCode.INVALID_ARGUMENT,
    bt.ErrorCode.INSUFFICIENT_BALANCE,
    bt.ErrorCode.POLICY_VIOLATION,
    bt.ErrorCode.DISABLED,
    # It says how many blocks to wait: more than anyone stays for.
    bt.ErrorCode.RATE_LIMITED,
}


class Wrong(Exception):
    """What was given is not what `taugate weights --format json` says."""


def read(text):
    """The weights by uid, and the hotkeys that have none."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise Wrong(f"no JSON: {error}") from None
    if isinstance(rows, dict):
        rows = rows.get("weights")
    if not isinstance(rows, list) or not rows:
        raise Wrong("no list of weights")
    weights, without = {}, []
    for row in rows:
        if not isinstance(row, dict) or not {"uid", "hotkey", "weight"} <= row.keys():
            raise Wrong(f"no uid, hotkey and weight: {row}")
        uid, weight = row["uid"], row["weight"]
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise Wrong(f"no weight: {row}")
        if not math.isfinite(weight) or weight < 0:
            raise Wrong(f"a weight must be 0 or more: {row}")
        if uid is None:
            without.append(row["hotkey"])
        elif isinstance(uid, bool) or not isinstance(uid, int) or not 0 <= uid <= 65535:
            raise Wrong(f"no uid: {row}")
        elif uid in weights:
            raise Wrong(f"uid {uid} stands there twice")
        else:
            weights[uid] = float(weight)
    total = math.fsum(float(row["weight"]) for row in rows)
    if total == 0:
        raise Wrong("all weights are 0: no miner was judged yet")
    if abs(total - 1) > SLACK:
        raise Wrong(f"the weights sum to {total}, not to 1")
    if not any(weights.values()):
        raise Wrong("no weight has a uid: set registry.metagraph in the gateway's configuration")
    return weights, without


def hand_over(weights, args):
    """Sets them; tries again what may pass. Says what became of it."""
    for tried in range(1, args.tries + 1):
        try:
            # It conforms them to the subnet's rules, commits or sets, and waits for the block.
            return bt.set_weights(
                args.netuid, weights, wallet=args.wallet, hotkey=args.hotkey, network=args.network
            )
        except bt.ChainError as error:
            if error.code in PERMANENT or tried == args.tries:
                raise
            failed = error
        except (bt.RpcConnectionError, bt.ConnectionNotReady, OSError) as error:
            if tried == args.tries:
                raise
            failed = error
        wait_s = args.pause_s * 2 ** (tried - 1)
        print(f"weights.py: try {tried}: {failed}; again in {wait_s:g} s", file=sys.stderr)
        time.sleep(wait_s)
    raise AssertionError("a try returns or raises")


def main():
    """Once: a timer of the system's calls it each period."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--netuid", type=int, required=True)
    parser.add_argument("--wallet", default="default", help="the wallet's name")
    parser.add_argument("--hotkey", default="default", help="the hotkey's name in it")
    parser.add_argument("--network", default="finney", help="a name or an endpoint")
    parser.add_argument("--file", type=argparse.FileType(), default="-", help="else standard input")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--pause-s", type=float, default=BLOCK_S, help="doubles with each try")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be set")
    args = parser.parse_args()
    if args.tries < 1:
        parser.error("--tries must be 1 or more")
    try:
        weights, without = read(args.file.read())
        for hotkey in without:
            print(f"weights.py: left out, for it has no uid: {hotkey}", file=sys.stderr)
        if args.dry_run:
            for uid, weight in sorted(weights.items()):
                print(f"{uid:5} {weight:.12f}")
            print(f"would set {len(weights)} weights on subnet {args.netuid} of {args.network}")
            return 0
        result = hand_over(weights, args)
    except Wrong as error:
        print(f"weights.py: {error}", file=sys.stderr)
        return 2
    except bt.ChainError as error:
        print(f"weights.py: {error}; {error.remediation}", file=sys.stderr)
        return 1
    except (bt.BittensorError, OSError) as error:
        print(f"weights.py: {error}", file=sys.stderr)
        return 1
    place = result.extrinsic_id or result.block_hash or "a block"
    print(f"set {len(weights)} weights on subnet {args.netuid} of {args.network}, in {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
