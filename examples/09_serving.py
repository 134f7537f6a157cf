"""An oracle behind a server: in the call shape of an engine from Python, as plain JSON from anywhere else."""

import json
import threading
import time
import urllib.request

import torch
import uvicorn

import oracle_engine as oe
from oracle_engine import samplers
from oracle_engine.serving import RemoteOracle, create_app

torch.manual_seed(0)
engine = oe.OracleEngine(oe.load_dataset("digits"))

# in a shell: oracle-engine serve --data digits
server = uvicorn.Server(uvicorn.Config(create_app(engine), port=0, log_level="error"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.01)
url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

with RemoteOracle(url) as oracle:
    x, t = torch.randn(16, 1, 8, 8), torch.rand(16) * 0.9
    print(f"the server and the engine differ by {(oracle.velocity(x, t) - engine.velocity(x, t)).abs().max():.1e}")
    run = samplers.sample(
        oracle, samplers.initial_noise(oracle, 10), samplers.sampling_times(20), labels=torch.arange(10)
    )
    print("a run over the wire ended with", tuple(run.x.shape))

# any language: the Open Inference Protocol, here one query in JSON
question = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": x[:1].flatten().tolist()},
        {"name": "t", "datatype": "FP64", "shape": [1], "data": [0.3]},
    ],
    "outputs": [{"name": "velocity"}],
}
request = urllib.request.Request(f"{url}/v2/models/oracle/infer", json.dumps(question).encode())
with urllib.request.urlopen(request) as answer:
    velocity = torch.tensor(json.load(answer)["outputs"][0]["data"]).reshape(1, 1, 8, 8)
print(f"and plain JSON by {(velocity - engine.velocity(x[:1], 0.3)).abs().max():.1e}")

server.should_exit = True
thread.join()
