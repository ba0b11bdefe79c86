#!/usr/bin/env bash
# Hotkeys and signatures of Bittensor wallets, both ways: gateway and miner run with hotkeys
# that a wallet made, a wallet reads a hotkey that the miner made, and what wallets in Python
# sign (sessions, declarations, and every trick with a signature) meets the real programs.
set -euo pipefail
cd "$(dirname "$0")/../.."

tests/wallets/install.sh
python=peers/wallets/venv/bin/python
# shellcheck source=tests/suite.sh
source tests/suite.sh
export PYTHONPATH=proto

read -r public peer admin miner other < <(free_ports 5)
"$python" tests/wallets/wallets.py make "$run/wallets"
hotkeys=$run/wallets/network/hotkeys
validator=$("$python" tests/wallets/wallets.py address "$hotkeys/validator")
hotkey=$("$python" tests/wallets/wallets.py address "$hotkeys/miner")
signer=$("$python" tests/wallets/wallets.py address "$hotkeys/signer")

# --- both run with a wallet's hotkeys, and let in nobody else ---

cat >"$run/gateway.toml" <<TOML
[gateway]
network = "wallets"
hotkey_file = "$hotkeys/validator"
[listen]
public = "127.0.0.1:$public"
peer = "127.0.0.1:$peer"
admin = "127.0.0.1:$admin"
[keys]
required = false
[registry]
hotkeys = ["$hotkey", "$signer"]
[store]
path = "$run/books.db"
[tasks.tiny]
TOML
start gateway "$taugate" gateway --config "$run/gateway.toml"
until_true "a gateway with a wallet's hotkey is ready" 30 grep -q ready "$run/gateway.log"
start miner "$taugate" miner --simulate --task tiny --key "$hotkeys/miner" \
  --gateway "http://127.0.0.1:$peer" --listen "127.0.0.1:$miner" --validator "$validator"
ask() { "$taugate" ask --gateway "http://127.0.0.1:$public" --task tiny hello; }
until_true "a miner with a wallet's hotkey answers it in a session" 30 ask

# --- a wallet reads the hotkey that a miner made ---

start maker "$taugate" miner --simulate --task tiny --key "$run/made.json" \
  --gateway "http://127.0.0.1:$peer" --listen "127.0.0.1:$other"
until_true "a miner makes a hotkey" 30 test -s "$run/made.json"
checks "$python" tests/wallets/wallets.py read "$run/made.json"

# --- what wallets sign meets the programs ---

checks "$python" tests/wallets/wallets.py session "127.0.0.1:$miner" "$hotkeys"
checks "$python" tests/wallets/wallets.py declare "127.0.0.1:$peer" "$hotkeys"
verdict
