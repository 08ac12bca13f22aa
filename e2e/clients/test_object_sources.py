"""Models of `triton-operator up` whose source is an object store: each kind of store as a real server, with folders, archives, keys of a Secret
and keys that are wrong."""

import hashlib
import io
import tarfile

import graphs
import pytest
from object_stores import BUCKET, S3, Azure, Google, Proxy

from bringing_up import Up, write
from talking import add_one, connect

SERVER = "apiVersion: triton-operator.dev/v1alpha1\nkind: TritonServer\nmetadata: {name: test}\nspec: {server: {exitTimeout: 10s, drainDelay: 0s}}\n"


def model(name, source, more=""):
    """A TritonModel on the test server."""
    head = f"---\napiVersion: triton-operator.dev/v1alpha1\nkind: TritonModel\nmetadata: {{name: {name}}}\nspec:\n  serverRef: {{name: test}}\n"
    return head + f"  format: onnx\n  source: {{{source}}}\n" + more


def archive(number):
    packed = io.BytesIO()
    content = graphs.add(number).SerializeToString()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("1/model.onnx")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def source(store, path, endpoint=None, secret=None):
    """The source as a resource has it; its address is that of the stand-in."""
    endpoint = endpoint or store.endpoint
    if isinstance(store, Azure):
        endpoint = f"{endpoint}/{store.ACCOUNT}"
    kind, uri = {
        S3: ("s3", f"s3://{BUCKET}/{path}"),
        Google: ("gcs", f"gs://{BUCKET}/{path}"),
        Azure: ("azure", f"as://{Azure.ACCOUNT}/{BUCKET}/{path}"),
    }[type(store)]
    more = f", secretRef: {{name: {secret}}}" if secret else ""
    return f"{kind}: {{uri: '{uri}', endpoint: '{endpoint}'{more}}}"


def secret(folder, keys):
    """A Secret as a folder with one file per key; the flag that hands it to `up`."""
    folder.mkdir()
    for key, value in keys.items():
        (folder / key).write_text(value + "\n")
    return f"--secret={folder.name}={folder}"


# By the names that Triton and those that KServe have for them.
KEYS = {
    "s3": (S3, S3.KEYS),
    "google": (Google, {}),
    "azure": (Azure, {"AZURE_STORAGE_KEY": Azure.KEY}),
    "azure of KServe": (Azure, {"AZURE_STORAGE_ACCESS_KEY": Azure.KEY}),
}


@pytest.mark.parametrize(("kind", "keys"), KEYS.values(), ids=KEYS)
def test_a_folder_and_an_archive_of_every_store_are_served(kind, keys, tmp_path):
    if why := kind.is_missing():
        pytest.skip(why)
    flags = [secret(tmp_path / "keys", keys)] if keys else []
    name = "keys" if keys else None
    packed = archive(3)
    with kind() as store:
        store.put("models/plain/1/model.onnx", graphs.add(1).SerializeToString())
        store.put("models/plain/2/model.onnx", graphs.add(2).SerializeToString())
        store.put("models/packed.tar.gz", packed)
        sum_of_it = f"  checksum: {{sha256: {hashlib.sha256(packed).hexdigest()}}}\n"
        write(
            tmp_path / "all.yaml",
            SERVER,
            model("plain", source(store, "models/plain", secret=name)),
            model("packed", source(store, "models/packed.tar.gz", secret=name), sum_of_it),
        )
        with Up(tmp_path / "all.yaml", flags=flags) as up:
            up.wait_for("Ready: ")
            client = connect("http", up)
            assert [add_one("http", client, name) for name in ("plain", "packed")] == [2, 3]


def test_a_transfer_that_breaks_off_and_one_that_is_damaged_are_mended(tmp_path):
    content = graphs.add(1).SerializeToString()
    disturbances = [("cut", len(content) // 2), ("damage", 3)]

    def disturb(request):
        return disturbances.pop(0) if "model.onnx" in request.path and request.command == "GET" and disturbances else None

    with S3() as store:
        store.put("m/1/model.onnx", content)
        with Proxy(store, disturb) as proxy:
            address = source(store, "m", f"http://127.0.0.1:{proxy.port}", "keys")
            write(tmp_path / "all.yaml", SERVER, model("mended", address))
            with Up(tmp_path / "all.yaml", flags=[secret(tmp_path / "keys", S3.KEYS)]) as up:
                up.wait_for("Ready: ")
                assert add_one("http", connect("http", up), "mended") == 1
            ranges = [asked for method, path, asked in proxy.seen if "model.onnx" in path]
            assert any((asked or "").startswith(f"bytes={len(content) // 2}-") for asked in ranges), ranges
            assert not disturbances


def test_keys_that_open_nothing_are_told_and_new_ones_are_used(tmp_path):
    with S3() as store:
        store.put("m/1/model.onnx", graphs.add(1).SerializeToString())
        key_id, key = store.ask_for_keys()
        flag = secret(tmp_path / "keys", {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": "wrong"})
        write(tmp_path / "all.yaml", SERVER, model("locked", source(store, "m", secret="keys")))
        with Up(tmp_path / "all.yaml", flags=[flag]) as up:
            up.wait_for("CredentialsMissing")
            assert "wrong" not in up.said()
            (tmp_path / "keys" / "AWS_SECRET_ACCESS_KEY").write_text(key)
            up.wait_for("Ready: ", 60)
            assert add_one("http", connect("http", up), "locked") == 1
