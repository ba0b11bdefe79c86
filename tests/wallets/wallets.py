"""Wallets and signature libraries against the real gateway and miner.

    wallets.py make FOLDER        hotkeys of a network, as a wallet makes them
    wallets.py address FILE       the address of a hotkey's file
    wallets.py read FILE          a wallet reads a hotkey's file of taugate's
    wallets.py session AT HOTKEYS sessions with a miner
    wallets.py declare AT HOTKEYS declarations to a gateway

Signed bytes are made here from the protocol's words alone.
"""

import hashlib
import json
import os
import struct
import sys
import time

import grpc
import nacl.bindings
import sr25519
from bittensor_wallet import Keyfile, Wallet
from substrateinterface import Keypair as SubstrateKeypair

OPEN = "/taugate.v1.MinerService/OpenSession"
GENERATE = "/taugate.v1.MinerService/Generate"
DECLARE = "/taugate.v1.CapacityService/Declare"
POLKADOT = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"


def say(what, good):
    print(("ok   " if good else "FAIL ") + what)


def key(path):
    return Keyfile(path=path, name=os.path.basename(path)).keypair


def fields(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def now_ms():
    return int(time.time() * 1000)


def row(path, receiver, sender, time_ms, nonce, message):
    digest = hashlib.sha256(message).digest()
    stamp = struct.pack(">Q", time_ms)
    return fields(b"taugate-auth-v1", path.encode(), receiver, sender, stamp, nonce, digest)


def mac(session_key, *parts):
    return hashlib.blake2b(fields(*parts), key=session_key, digest_size=32).digest()


def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def mistyped(address):
    other = "3" if address[20] == "4" else "4"
    return address[:20] + other + address[21:]


def tricks(signer, stranger, receiver, path, message, stamp, nonce):
    """Rows of (what, signature, time) that must not count for the signer's call."""
    mine = bytes(signer.public_key)
    good = row(path, receiver, mine, stamp, nonce, message)
    at = lambda ms: signer.sign(row(path, receiver, mine, ms, nonce, message))
    elsewhere = signer.sign(row(path, mine, mine, stamp, nonce, message))
    other_method = signer.sign(row(path + "x", receiver, mine, stamp, nonce, message))
    unmarked = bytearray(signer.sign(good))
    unmarked[63] &= 0x7F
    return [
        ("an empty signature", b"", stamp),
        ("the signature 0x", b"0x", stamp),
        ("63 bytes", signer.sign(good)[:63], stamp),
        ("65 bytes", signer.sign(good) + b"\0", stamp),
        ("an unmarked signature", bytes(unmarked), stamp),
        ("another receiver", elsewhere, stamp),
        ("another method", other_method, stamp),
        ("other bytes", signer.sign(row(path, receiver, mine, stamp, nonce, b"x")), stamp),
        ("a signature over <Bytes>", signer.sign(b"<Bytes>" + good + b"</Bytes>"), stamp),
        ("another signer", stranger.sign(good), stamp),
        ("the past", at(stamp - 60_000), stamp - 60_000),
        ("the future", at(stamp + 60_000), stamp + 60_000),
    ]


# === make, read ===


def make(folder):
    for name in ["validator", "miner", "stranger", "signer"]:
        wallet = Wallet(name="network", hotkey=name, path=folder)
        wallet.create_new_hotkey(use_password=False, overwrite=True, suppress=True)


def read(path):
    told = json.load(open(path))["ss58Address"]
    keypair = key(path)
    say("a wallet reads the miner's hotkey", keypair.ss58_address == told)
    signature = keypair.sign(b"hello")
    public = bytes(keypair.public_key)
    say("and its signatures hold elsewhere", sr25519.verify(signature, b"hello", public))


# === session ===


def session(at, hotkeys):
    pb, _ = grpc.protos_and_services("taugate/v1/miner.proto")
    channel = grpc.insecure_channel(at)
    ask = channel.unary_unary(
        OPEN,
        request_serializer=pb.OpenSessionRequest.SerializeToString,
        response_deserializer=pb.OpenSessionResponse.FromString,
    )
    validator, miner, stranger = (
        key(os.path.join(hotkeys, name)) for name in ["validator", "miner", "stranger"]
    )
    theirs = bytes(miner.public_key)
    secret = os.urandom(32)
    ephemeral = nacl.bindings.crypto_scalarmult_base(secret)
    stamp, nonce = now_ms(), os.urandom(16)

    def question(signer, signature, time_ms, **other):
        told = dict(
            gateway=signer.ss58_address,
            miner=miner.ss58_address,
            ephemeral_key=ephemeral,
            timestamp_ms=time_ms,
            nonce=nonce,
            signature=signature,
        )
        return pb.OpenSessionRequest(**{**told, **other})

    for what, signature, time_ms in tricks(
        validator, stranger, theirs, OPEN, ephemeral, stamp, nonce
    ):
        refused = code(lambda: ask(question(validator, signature, time_ms)))
        say(f"a session by {what} is refused", refused == grpc.StatusCode.UNAUTHENTICATED)
    mine = bytes(validator.public_key)
    signed = row(OPEN, theirs, mine, stamp, nonce, ephemeral)
    good = validator.sign(signed)
    for what, gateway in [("prefix", POLKADOT), ("checksum", mistyped(validator.ss58_address))]:
        refused = code(lambda: ask(question(validator, good, stamp, gateway=gateway)))
        say(f"a wrong {what} is refused", refused == grpc.StatusCode.UNAUTHENTICATED)
    foreign = row(OPEN, theirs, bytes(stranger.public_key), stamp, nonce, ephemeral)
    refused = code(lambda: ask(question(stranger, stranger.sign(foreign), stamp)))
    say("a stranger is not registered", refused == grpc.StatusCode.PERMISSION_DENIED)

    answer = ask(question(validator, good, stamp))
    say("a wallet opens a session, the nonce untouched", len(answer.session_id) == 16)
    refused = code(lambda: ask(question(validator, good, stamp)))
    say("and not twice with one question", refused == grpc.StatusCode.UNAUTHENTICATED)

    until = struct.pack(">Q", answer.expires_ms)
    answered = fields(
        b"taugate-session-v1", signed, answer.session_id, answer.ephemeral_key, until
    )
    say("the miner's signature holds for the wallet", miner.verify(answered, answer.signature))
    say("for py-sr25519", sr25519.verify(answer.signature, answered, theirs))
    address = SubstrateKeypair(ss58_address=miner.ss58_address)
    say("for substrate-interface", address.verify(answered, answer.signature))

    shared = nacl.bindings.crypto_scalarmult(secret, answer.ephemeral_key)
    session_key = hashlib.blake2b(fields(answered), key=shared, digest_size=32).digest()
    work(channel, pb, answer.session_id, session_key)


def work(channel, pb, session_id, session_key):
    message = pb.MinerGenerateRequest(attempt_id="wallet", task="tiny")
    part = {"text": "hello"}
    message.chat.messages.add(role="ROLE_USER").parts.add(**part)
    message.chat.max_tokens = 8
    exact = message.SerializeToString()
    generate = channel.unary_stream(
        GENERATE, request_serializer=bytes, response_deserializer=pb.MinerGenerateResponse.FromString
    )

    def send(counter, sent=exact, hashed=exact):
        told = mac(session_key, GENERATE.encode(), struct.pack(">Q", counter), hashed)
        metadata = [
            ("taugate-session-bin", session_id),
            ("taugate-counter", str(counter)),
            ("taugate-mac-bin", told),
        ]
        return list(generate(sent, metadata=metadata))

    refused = grpc.StatusCode.UNAUTHENTICATED
    say("work without a session is refused", code(lambda: list(generate(exact))) == refused)
    say("work in it is done", send(5)[-1].HasField("completed"))
    say("not twice", code(lambda: send(5)) == refused)
    say("not of other bytes", code(lambda: send(6, sent=exact + b"\x12\x00")) == refused)
    say("in any order", send(4)[-1].HasField("completed"))


# === declare ===


def declare(at, hotkeys):
    pb, rpc = grpc.protos_and_services("taugate/v1/capacity.proto")
    channel = grpc.insecure_channel(at)
    stub = rpc.CapacityServiceStub(channel)
    gateway = stub.GetGateway(pb.GetGatewayRequest())
    validator, stranger, miner = (
        key(os.path.join(hotkeys, name)) for name in ["validator", "stranger", "signer"]
    )
    say("the gateway has the wallet's hotkey", gateway.hotkey == validator.ss58_address)
    receiver = bytes(validator.public_key)

    def request(signer):
        stamp = now_ms()
        payload = pb.Declaration(
            network=gateway.network,
            hotkey=signer.ss58_address,
            sequence=stamp,
            valid_from_ms=stamp,
            valid_until_ms=stamp + 60_000,
            tasks=[dict(task="tiny", units_per_hour=1, kind="TASK_KIND_CHAT")],
        ).SerializeToString()
        record = fields(b"taugate-record-v1", b"declaration", payload)
        signed = pb.SignedRecord(
            payload=payload, signature=signer.sign(record), hotkey=signer.ss58_address
        )
        return pb.DeclareRequest(declaration=signed, endpoint="http://127.0.0.1:9").SerializeToString()

    send = channel.unary_unary(
        DECLARE, request_serializer=bytes, response_deserializer=pb.DeclareResponse.FromString
    )
    exact, stamp, nonce = request(miner), now_ms(), os.urandom(16)

    def metadata(signer, signature, time_ms, **other):
        told = {"hotkey": signer.ss58_address, "timestamp-ms": str(time_ms)}
        told = {**told, "nonce-bin": nonce, "signature-bin": signature, **other}
        return [("taugate-" + name, value) for name, value in told.items() if value is not None]

    refused = grpc.StatusCode.UNAUTHENTICATED
    for what, signature, time_ms in tricks(miner, stranger, receiver, DECLARE, exact, stamp, nonce):
        told = metadata(miner, signature, time_ms)
        say(f"a declaration by {what} is refused", code(lambda: send(exact, metadata=told)) == refused)
    good = miner.sign(row(DECLARE, receiver, bytes(miner.public_key), stamp, nonce, exact))
    for what, other in [
        ("no signature", {"signature-bin": None}),
        ("a wrong prefix", {"hotkey": POLKADOT}),
        ("a wrong checksum", {"hotkey": mistyped(miner.ss58_address)}),
    ]:
        told = metadata(miner, good, stamp, **other)
        say(f"a declaration with {what} is refused", code(lambda: send(exact, metadata=told)) == refused)
    theirs = request(stranger)
    foreign = stranger.sign(row(DECLARE, receiver, bytes(stranger.public_key), stamp, nonce, theirs))
    told = metadata(stranger, foreign, stamp)
    denied = code(lambda: send(theirs, metadata=told))
    say("a stranger is not registered", denied == grpc.StatusCode.PERMISSION_DENIED)
    told = metadata(miner, good, stamp)
    taken = send(exact, metadata=told).allotments
    say("a wallet declares, the nonce untouched", [one.task for one in taken] == ["tiny"])
    say("and not twice with one call", code(lambda: send(exact, metadata=told)) == refused)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "address":
        print(key(arguments[0]).ss58_address)
    else:
        {"make": make, "read": read, "session": session, "declare": declare}[verb](*arguments)
