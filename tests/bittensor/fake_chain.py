"""A stand-in for the chain: `fake_chain.py STATE SCRIPT ARGUMENTS..` runs a script of
examples/bittensor with the real SDK, whose two ways to the chain are replaced.

STATE is a JSON file: `neurons` is what the metagraph holds, `failures` are what the next calls
fail with (a chain error's name, or "connection"), `calls` is what was set. The stand-ins take
exactly the arguments that the SDK's own functions take.
"""

import inspect
import json
import runpy
import sys

import bittensor as bt
from bittensor.namespaces import Subnets as SdkSubnets

state_file, script = sys.argv[1], sys.argv[2]


def load():
    with open(state_file, encoding="utf-8") as file:
        return json.load(file)


def save(state):
    with open(state_file, "w", encoding="utf-8") as file:
        json.dump(state, file)


def fail_as_told():
    """Raises what the state says that this call fails with."""
    state = load()
    if not state["failures"]:
        return
    name = state["failures"].pop(0)
    save(state)
    if name == "connection":
        raise bt.RpcConnectionError("the stand-in is away")
    raise bt.ChainError(f"the stand-in refuses: {name}", name=name)


def neuron(entry):
    """A row as the SDK makes it, with what the example does not read left at nothing."""
    empty = {name: None for name in inspect.signature(bt.MetagraphNeuron).parameters}
    return bt.MetagraphNeuron(
        **empty
        | {
            "uid": entry["uid"],
            "hotkey": entry["hotkey"],
            "validator_permit": entry["validator"],
            "total_stake": bt.Balance.from_rao(entry["rao"], netuid=19),
        }
    )


class Subnets:
    """Stands in for the SDK's reads of subnets."""

    def metagraph(self, netuid, block=None, *, commitments=True):
        fail_as_told()
        if netuid != 19:
            return None
        empty = {name: None for name in inspect.signature(bt.Metagraph).parameters}
        neurons = [neuron(entry) for entry in load()["neurons"]]
        return bt.Metagraph(**empty | {"netuid": netuid, "block": 4_242, "neurons": neurons})


class Subtensor:
    """Stands in for a connection to the chain."""

    def __init__(self, network):
        self.network, self.subnets = network, Subnets()

    def close(self):
        pass


def set_weights(netuid, weights, **more):
    """Stands in for the SDK's one call; what it was given must fit the real one."""
    inspect.signature(real_set_weights).bind(netuid, weights, **more)
    # The SDK's own check of what can be set.
    intent = bt.SetWeights(netuid=netuid, weights=weights)
    fail_as_told()
    state = load()
    state["calls"].append({"netuid": netuid, "uids": intent.uids, "weights": intent.weights, **more})
    save(state)
    return bt.ExtrinsicResult(success=True, extrinsic_id="4242-1")


def parameters(function):
    return list(inspect.signature(function).parameters)


assert parameters(Subnets.metagraph) == parameters(SdkSubnets.metagraph)
assert parameters(bt.Subtensor)[0] == "network" and hasattr(bt.Subtensor, "close")
real_set_weights = bt.set_weights
bt.Subtensor, bt.set_weights = Subtensor, set_weights
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
