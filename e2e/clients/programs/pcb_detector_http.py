"""Runs pcb_detector on a picture over HTTP, and again over gRPC. Usage: pcb_detector_http.py HOST:PORT HOST:GRPC_PORT PICTURE"""

import sys

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from PIL import Image

# Initialize client
client = httpclient.InferenceServerClient(url=sys.argv[1])

# Prepare input
image = Image.open(sys.argv[3]).resize((640, 640))
img_array = np.array(image).transpose(2, 0, 1).astype(np.float32) / 255.0
img_array = np.expand_dims(img_array, axis=0)

# Create input
inputs = [httpclient.InferInput("images", img_array.shape, "FP32")]
inputs[0].set_data_from_numpy(img_array)

# Inference
outputs = [httpclient.InferRequestedOutput("output")]
response = client.infer("pcb_detector", inputs, outputs=outputs)

# Get result
output_data = response.as_numpy("output")
print(output_data.shape)

# Same inference over gRPC
client = grpcclient.InferenceServerClient(url=sys.argv[2])
inputs = [grpcclient.InferInput("images", img_array.shape, "FP32")]
inputs[0].set_data_from_numpy(img_array)
response = client.infer("pcb_detector", inputs)
print("the same over gRPC:", np.array_equal(response.as_numpy("output"), output_data))
print("the picture came through:", np.array_equal(output_data.ravel()[: img_array.size], img_array.ravel()))
