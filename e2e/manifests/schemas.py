"""JSON schemas for kubeconform, without the network: those of Kubernetes itself, of which the package kubernetes-validate has every
version, and those of definitions, ours and others'. Each becomes a file of its own that refers to no other."""

import json
import shutil

import kubernetes_validate
import yaml
from pathlib import Path

from tools import KUBERNETES, ROOT, Loader

SCHEMAS = ROOT / "target" / "manifests" / "schemas"
DEFINITIONS = ROOT / "target" / "manifests" / "definitions"
THEIRS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"

# Kinds of Kubernetes that something of ours may be. Another one fails, for want of a schema.
KINDS = """
apiservice-apiregistration-v1 clusterrole-rbac-v1 clusterrolebinding-rbac-v1 configmap-v1 customresourcedefinition-apiextensions-v1
deployment-apps-v1 endpointslice-discovery-v1 horizontalpodautoscaler-autoscaling-v2 ingress-networking-v1 job-batch-v1 namespace-v1
networkpolicy-networking-v1 persistentvolumeclaim-v1 pod-v1 poddisruptionbudget-policy-v1 role-rbac-v1 rolebinding-rbac-v1 secret-v1
service-v1 serviceaccount-v1 validatingadmissionpolicy-admissionregistration-v1 validatingadmissionpolicybinding-admissionregistration-v1
""".split()


def make():
    """Writes all of them anew."""
    shutil.rmtree(SCHEMAS, ignore_errors=True)
    for version in KUBERNETES:
        _kubernetes(version)
    for file in [*(ROOT / "crds" / "yaml").glob("triton*.yaml"), *sorted(DEFINITIONS.glob("*.yaml"))]:
        for definition in yaml.load_all(file.read_text(), Loader):
            if definition and definition["kind"] == "CustomResourceDefinition":
                _definition(definition)


def locations():
    """Where kubeconform finds them."""
    kubernetes = SCHEMAS / "{{.NormalizedKubernetesVersion}}" / "{{.ResourceKind}}{{.KindSuffix}}.json"
    return [kubernetes, SCHEMAS / "{{.Group}}" / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"]


def _kubernetes(version):
    source = THEIRS / f"v{version}-local-strict"
    shared = json.loads((source / "_definitions.json").read_text())["$defs"]
    folder = SCHEMAS / f"v{version}"
    folder.mkdir(parents=True)
    for kind in KINDS:
        schema = json.loads((source / f"{kind}.json").read_text())
        needed, open_ = {}, _references(schema)
        while open_:
            name = open_.pop()
            if name not in needed:
                needed[name] = shared[name]
                open_ |= _references(shared[name])
        text = json.dumps({**schema, "$defs": needed})
        (folder / f"{kind}.json").write_text(text.replace("/api/_definitions.json#", "#"))


def _references(schema):
    if isinstance(schema, dict):
        mine = {schema["$ref"].rsplit("/", 1)[1]} if isinstance(schema.get("$ref"), str) else set()
        return mine.union(*map(_references, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(_references, schema))
    return set()


def _definition(definition):
    spec = definition["spec"]
    folder = SCHEMAS / spec["group"]
    folder.mkdir(parents=True, exist_ok=True)
    for version in spec["versions"]:
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"].update(apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"})
        (folder / f"{spec['names']['kind'].lower()}_{version['name']}.json").write_text(json.dumps(schema))


def _closed(schema):
    """As an API server reads it with strict validation: fields that are not there are mistakes."""
    if isinstance(schema, list):
        return [_closed(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _closed(value) for key, value in schema.items() if not key.startswith("x-")}
    if "properties" in schema and isinstance(schema["properties"], dict):
        out["properties"] = {name: _closed(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in out and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    return out
