"""Certificates for tests, made by the `openssl` command as people make them: an authority, and what it signs."""

import subprocess

EXTENSIONS = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n"


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Authority:
    """A root whose certificate is `root.crt` in its folder. Signs certificates of version 3, or with `old` of version 1."""

    def __init__(self, folder, name="tests"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, 0
        self.root, self.key = folder / "root.crt", folder / "root.key"
        openssl("req", "-new", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30, "-subj", f"/CN={name}",
                "-keyout", self.key, "-out", self.root)  # fmt: skip

    def issue(self, name="localhost", old=False):
        """Paths of a new certificate and its key."""
        self.count += 1
        stem = self.folder / f"{self.count}"
        key, request, certificate = (stem.with_suffix(f".{kind}") for kind in ("key", "csr", "crt"))
        openssl("genrsa", "-out", key, 2048)
        openssl("req", "-new", "-key", key, "-out", request, "-subj", f"/CN={name}")
        signing = ["x509", "-req", "-in", request, "-CA", self.root, "-CAkey", self.key, "-set_serial", self.count, "-days", 30, "-out", certificate]
        if not old:
            extensions = stem.with_suffix(".ext")
            extensions.write_text(EXTENSIONS)
            signing += ["-extfile", extensions]
        openssl(*signing)
        return certificate, key


class Mounted:
    """Certificate and key in a folder as Kubernetes mounts a secret: links through `..data`, which an update replaces in one step."""

    def __init__(self, folder):
        self.folder, self.version = folder, 0
        folder.mkdir(parents=True)
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"

    def update(self, certificate, key):
        self.version += 1
        data = self.folder / f"..{self.version}"
        data.mkdir()
        (data / "tls.crt").write_bytes(certificate.read_bytes())
        (data / "tls.key").write_bytes(key.read_bytes())
        (self.folder / "..data_tmp").symlink_to(data.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")
