"""Writes what a kustomize overlay adds to, changes in and takes from its base, so that building it gives what the chart makes
of the overlay's values.

    overlay.py BASE WANTED FOLDER

BASE and WANTED: manifests as `helm template` writes them. FOLDER gets kustomization.yaml and, as far as there is something for them,
added.yaml, changed.yaml (strategic merge patches) and a file removed-KIND-NAME.yaml for each object to remove: kustomize 5.5 and 5.6 crash
over two of them in one file.
"""

import sys
from pathlib import Path

import yaml

MADE = "# Made from values.yaml by charts/sync.\n"

# Lists whose items a strategic merge patch finds by their names; every other list is replaced as a whole.
BY_NAME = {"containers", "initContainers", "env", "volumes"}


def objects(path):
    """Objects of a file by what identifies them, in their order."""
    found = (it for it in yaml.safe_load_all(Path(path).read_text()) if it)
    return {(it["apiVersion"], it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]): it for it in found}


def change(before, after):
    """What a strategic merge patch has to say to make the fields `after` of the fields `before`."""
    said = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if old == value:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            said[key] = change(old, value)
        elif key in BY_NAME and isinstance(old, list):
            said[key] = change_by_name(old, value)
        else:
            said[key] = value
    return said


def change_by_name(before, after):
    """The same for a list of which each item has a name. New items go to the end, as a patch puts them."""
    old = {it["name"]: it for it in before}
    kept = {it["name"] for it in after}
    said = [{"name": name, "$patch": "delete"} for name in old if name not in kept]
    for item in after:
        if item != old.get(item["name"]):
            said.append({"name": item["name"], **change(old.get(item["name"], {}), item)})
    return said


def identity(it):
    return {"apiVersion": it["apiVersion"], "kind": it["kind"], "metadata": {key: it["metadata"][key] for key in ("name", "namespace") if key in it["metadata"]}}


def patch(before, after):
    said = change(before, after)
    return {**identity(after), **{key: value for key, value in said.items() if key != "metadata"}, "metadata": {**identity(after)["metadata"], **said.get("metadata", {})}}


def main(base, wanted, folder):
    base, wanted, folder = objects(base), objects(wanted), Path(folder)
    files = {
        "added.yaml": [it for key, it in wanted.items() if key not in base],
        "changed.yaml": [patch(base[key], it) for key, it in wanted.items() if key in base and it != base[key]],
    }
    for key, it in base.items():
        if key not in wanted:
            files[f"removed-{it['kind'].lower()}-{it['metadata']['name']}.yaml"] = [{**identity(it), "$patch": "delete"}]
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../../base"]}
    for name, documents in files.items():
        if not documents:
            continue
        (folder / name).write_text(MADE + yaml.safe_dump_all(documents, sort_keys=False, width=160))
        if name == "added.yaml":
            kustomization["resources"].append(name)
        else:
            kustomization.setdefault("patches", []).append({"path": name})
    (folder / "kustomization.yaml").write_text(MADE + yaml.safe_dump(kustomization, sort_keys=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
