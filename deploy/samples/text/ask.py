"""Asks a server for the embeddings of a few sentences and of a question, and shows the sentences whose meaning is nearest.

Usage: ask.py [HOST:PORT] [QUESTION]      (default: 127.0.0.1:8000)
"""

import sys

import numpy as np
import tritonclient.http as httpclient

SENTENCES = [
    "The parcel was left with the neighbour because nobody opened.",
    "You can return shoes within thirty days if they were not worn outside.",
    "The invoice is sent by mail at the end of each month.",
    "To reset your password, follow the link on the sign-in page.",
    "The battery of the phone lasts two days with normal use.",
    "Our shop is closed on Sundays and on public holidays.",
    "A cat sleeps on the sofa in the afternoon sun.",
    "Two dogs chase a ball across the meadow.",
    "The train to the coast leaves from platform four.",
    "It will rain in the mountains tomorrow.",
    "She plays the violin in an orchestra.",
    "The bridge was built of stone in the twelfth century.",
]
QUESTION = "I forgot how to log in to my account"
SHOWN = 3


def main(url="127.0.0.1:8000", question=QUESTION):
    client = httpclient.InferenceServerClient(url=url)
    sentences, asked = embed(client, SENTENCES), embed(client, [question])
    likeness = sentences @ asked[0]  # of length 1 all of them, so this is the cosine
    print(question)
    for number in np.argsort(-likeness)[:SHOWN]:
        print(f"  {likeness[number]:5.2f}  {SENTENCES[number]}")


def embed(client, texts):
    """Embeddings [texts, 384], each of length 1."""
    rows = np.array([[text.encode()] for text in texts], dtype=np.object_)
    inputs = [httpclient.InferInput("text", rows.shape, "BYTES")]
    inputs[0].set_data_from_numpy(rows)
    return client.infer("embedding", inputs).as_numpy("embedding")


if __name__ == "__main__":
    main(*sys.argv[1:])
