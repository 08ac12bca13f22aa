"""Asks text_encoder for one embedding over gRPC. Usage: text_encoder_grpc.py HOST:PORT"""

import sys

import numpy as np
import tritonclient.grpc as grpcclient

client = grpcclient.InferenceServerClient(url=sys.argv[1])

# Check model ready
assert client.is_model_ready("text_encoder")

# Prepare input
inputs = [grpcclient.InferInput("input_ids", [1, 128], "INT64")]
inputs[0].set_data_from_numpy(np.array([[101, 2023] + list(range(3, 128)) + [102]], dtype=np.int64))

# Inference
result = client.infer("text_encoder", inputs)
embeddings = result.as_numpy("embeddings")
print(f"Embeddings: {embeddings.shape} {embeddings.dtype} {embeddings.ravel()[:3].tolist()}")
