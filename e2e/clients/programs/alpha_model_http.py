"""Asks alpha_model for one prediction over HTTP. Usage: alpha_model_http.py HOST:PORT"""

import sys

import numpy as np
import tritonclient.http as httpclient

client = httpclient.InferenceServerClient(url=sys.argv[1])

# Create input
features = np.random.randn(1, 50).astype(np.float32)
inputs = [httpclient.InferInput("features", features.shape, "FP32")]
inputs[0].set_data_from_numpy(features)

# Request output
outputs = [httpclient.InferRequestedOutput("prediction")]

# Infer
result = client.infer("alpha_model", inputs, outputs=outputs)
prediction = result.as_numpy("prediction")
print(f"Prediction: {prediction.shape} of version {result.get_response()['model_version']}")
