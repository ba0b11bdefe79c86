"""Follows what a gateway's miners delivered, durably: `consumer.py --state FILE`."""

import argparse
import hashlib
import json
import os
import sqlite3
import struct
import sys
import time
from pathlib import Path

import grpc
import sr25519

sys.path.insert(0, str(Path(__file__).parents[2] / "peers/consumer/stubs"))
from taugate.v1 import capacity_pb2, capacity_pb2_grpc, consumption_pb2

SERVICE = "/taugate.v1.ConsumptionService/"
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

TABLES = """
CREATE TABLE IF NOT EXISTS counter (
    incarnation INTEGER, period INTEGER, miner TEXT, task TEXT, origin INTEGER,
    rev INTEGER, units INTEGER, PRIMARY KEY (incarnation, period, miner, task, origin));
CREATE TABLE IF NOT EXISTS receipt (
    request_id TEXT PRIMARY KEY, place INTEGER, units INTEGER);
CREATE TABLE IF NOT EXISTS seal (
    period INTEGER, revision INTEGER, units INTEGER, PRIMARY KEY (period, revision));
CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), cursor BLOB);
"""


# --- hotkeys and signatures ---


def fields(*parts):
    """A row of fields, each behind its length."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def ss58(public):
    """A public key as an address of prefix 42."""
    body = b"\x2a" + public
    body += hashlib.blake2b(b"SS58PRE" + body).digest()[:2]
    number, text = int.from_bytes(body, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return text


def public_key(address):
    """The public key of an address."""
    number = 0
    for letter in address:
        number = number * 58 + ALPHABET.index(letter)
    public = number.to_bytes(35, "big")[1:33]
    if ss58(public) != address:
        raise ValueError(f"{address} is no hotkey")
    return public


class Key:
    """A hotkey that signs calls."""

    def __init__(self, file=None):
        seed = os.urandom(32)
        if file:
            seed = bytes.fromhex(json.loads(Path(file).read_text())["secretSeed"].removeprefix("0x"))
        self.pair = sr25519.pair_from_seed(seed)

    def metadata(self, method, receiver, message):
        """What makes a call this key's: good for this receiver and message, once."""
        public, now, nonce = self.pair[0], time.time_ns() // 1_000_000, os.urandom(16)
        signed = fields(
            b"taugate-auth-v1",
            (SERVICE + method).encode(),
            public_key(receiver),
            public,
            struct.pack(">Q", now),
            nonce,
            hashlib.sha256(message).digest(),
        )
        return [
            ("taugate-hotkey", ss58(public)),
            ("taugate-timestamp-ms", str(now)),
            ("taugate-nonce-bin", nonce),
            ("taugate-signature-bin", sr25519.sign(self.pair, signed)),
        ]


def verified(record, validator):
    """What a seal says; fails unless it holds and that validator signed it."""
    signed = fields(b"taugate-record-v1", b"seal", record.payload)
    if record.hotkey != validator or not sr25519.verify(
        record.signature, signed, public_key(validator)
    ):
        raise ValueError("a seal's signature does not hold")
    said = consumption_pb2.SealPayload.FromString(record.payload)
    digest = hashlib.sha256()
    for row in said.totals:
        digest.update(fields(row.miner.encode(), row.task.encode()))
        digest.update(struct.pack(">IQQ", row.origin, row.units, row.attempts))
    if digest.digest() != said.digest or said.validator != validator:
        raise ValueError("a seal's digest is not that of its totals")
    return said


# --- the gateway ---


class Gateway:
    """The reports of one gateway."""

    def __init__(self, address, key, name):
        self.channel, self.key, self.name = grpc.insecure_channel(address), key, name
        capacity = capacity_pb2_grpc.CapacityServiceStub(self.channel)
        about = capacity.GetGateway(capacity_pb2.GetGatewayRequest(), timeout=5)
        self.hotkey = about.hotkey

    def _signed(self, method, request):
        # Exactly these bytes are signed and sent.
        message = request.SerializeToString()
        return message, self.key.metadata(method, self.hotkey, message)

    def watch(self, cursor, receipts):
        """The stream of reports from a cursor on."""
        request = consumption_pb2.WatchRequest(
            consumer=self.name, cursor=cursor, receipts=receipts
        )
        message, metadata = self._signed("Watch", request)
        call = self.channel.unary_stream(
            SERVICE + "Watch",
            request_serializer=None,
            response_deserializer=consumption_pb2.WatchResponse.FromString,
        )
        return call(message, metadata=metadata)

    def ack(self, cursor):
        """Says that all up to a cursor took effect."""
        request = consumption_pb2.AckRequest(consumer=self.name, cursor=cursor)
        message, metadata = self._signed("Ack", request)
        call = self.channel.unary_unary(SERVICE + "Ack", None, consumption_pb2.AckResponse.FromString)
        call(message, metadata=metadata, timeout=10)


# --- what is kept ---


class Kept:
    """Totals and cursor in one file: they change together or not at all."""

    def __init__(self, file, seals=None):
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(TABLES)
        self.seals = Path(seals) if seals else None

    def cursor(self):
        """Where to go on; empty at first."""
        row = self.db.execute("SELECT cursor FROM place").fetchone()
        return row[0] if row else b""

    def take(self, batch, cursor, validator):
        """Takes effect of a batch, and of the cursor behind it."""
        self.db.execute("BEGIN IMMEDIATE")
        for message in batch:
            match message.WhichOneof("event"):
                case "snapshot_start":
                    self.db.execute("DELETE FROM counter")
                case "consumption":
                    self._heed(message.consumption)
                case "receipt":
                    self._receipt(message.receipt)
                case "seal":
                    self._seal(message.seal, validator)
                case "gap":
                    oldest = message.gap.oldest.seconds
                    print(f"counters before period {oldest} may be missing", file=sys.stderr)
        self.db.execute("INSERT OR REPLACE INTO place VALUES (1, ?)", (cursor,))
        self.db.execute("COMMIT")

    def _heed(self, one):
        # The merge rule: the largest rev of a counter wins.
        self.db.execute(
            "INSERT INTO counter VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET rev = excluded.rev, units = excluded.units WHERE excluded.rev > rev",
            (one.incarnation, one.period.seconds, one.miner, one.task, one.origin, one.rev, one.units),
        )

    def _receipt(self, placed):
        # A long call leaves parts, each with all units so far: the last place counts.
        self.db.execute(
            "INSERT INTO receipt VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET place = excluded.place, units = excluded.units WHERE excluded.place > place",
            (placed.receipt.request_id, placed.offset, placed.receipt.units),
        )

    def _seal(self, seal, validator):
        said = verified(seal.record, validator)
        units = sum(row.units for row in said.totals)
        self.db.execute(
            "INSERT OR IGNORE INTO seal VALUES (?, ?, ?)", (said.period_s, said.revision, units)
        )
        if self.seals:
            self.seals.mkdir(parents=True, exist_ok=True)
            file = self.seals / f"{said.period_s}-{said.revision}.seal"
            file.write_bytes(seal.SerializeToString())

    def totals(self):
        """Sums of what is kept."""
        one = lambda query: self.db.execute(query).fetchone()[0]
        newest = "SELECT period, max(revision), units FROM seal GROUP BY period"
        return {
            "units": one("SELECT coalesce(sum(units), 0) FROM counter"),
            "receipts": one("SELECT count(*) FROM receipt"),
            "receipt_units": one("SELECT coalesce(sum(units), 0) FROM receipt"),
            "seals": one("SELECT count(*) FROM seal"),
            "sealed_units": one(f"SELECT coalesce(sum(units), 0) FROM ({newest})"),
        }


def batches(stream):
    """The stream cut behind each heartbeat, which has the cursor."""
    batch = []
    for message in stream:
        if message.WhichOneof("event") == "heartbeat":
            yield batch, message.cursor
            batch = []
        else:
            batch.append(message)


def follow(args, cut=batches):
    """Takes one batch after the other."""
    kept = Kept(args.state, args.seals)
    gateway = Gateway(args.gateway, Key(args.key), args.name)
    for batch, cursor in cut(gateway.watch(kept.cursor(), args.receipts)):
        kept.take(batch, cursor, gateway.hotkey)
        gateway.ack(cursor)
        if args.once:
            break
    return kept


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", default="127.0.0.1:50052", help="the peer listener")
    parser.add_argument("--state", required=True, help="the file with totals and cursor")
    parser.add_argument("--key", help="a key file; without it a random hotkey")
    parser.add_argument("--name", default="consumer", help="names this consumer")
    parser.add_argument("--seals", help="a directory for seals")
    parser.add_argument("--receipts", action="store_true", help="keep receipts, too")
    parser.add_argument("--once", action="store_true", help="end after one batch")
    return parser.parse_args()


def main():
    """Follows for ever: a stream that breaks off is opened again."""
    args = arguments()
    while True:
        try:
            kept = follow(args)
            if args.once:
                print(json.dumps(kept.totals()))
                return
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.ABORTED:
                sys.exit("another consumer of this name took over")
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
