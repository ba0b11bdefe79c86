"""Serves a language model over HTTP as llama.cpp's server does: `serve_llm.py MODEL PORT SLOTS`."""

import signal
import sys

import xllamacpp

model, port, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
# Without an alias the answers would name the file.
params.model.path, params.model_alias = model, {"tiny"}
params.n_parallel, params.n_ctx = slots, 2048 * slots
# More threads than free cores spin against each other and are ten times slower.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port, params.endpoint_metrics = ["127.0.0.1"], port, True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
signal.pause()
