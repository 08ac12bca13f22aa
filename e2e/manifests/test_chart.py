"""Invariant 22: the chart lints, refuses wrong values by its schema and renders right ones to manifests that API servers take."""

import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import yaml

from tools import CHART, KUBERNETES, NAMESPACE, Failed, Loader, by_name, objects, run, template
from values import Schema, at, wrong_for

SCHEMA = Schema(json.loads((CHART / "values.schema.json").read_text()))
VALUES = yaml.load((CHART / "values.yaml").read_text(), Loader)
REFUSED = "don't meet the specifications of the schema"

# Helm's own, given to every chart of a release.
OF_HELM = {"global"}


def refused(*arguments, **options):
    """What helm says against values; None if it takes them."""
    try:
        template(*arguments, **options)
    except Failed as error:
        assert REFUSED in str(error), f"refused by a template and not by the schema: {error}"
        return str(error)
    return None


def test_22_the_chart_lints():
    run("helm", "lint", "--strict", CHART)
    for overlay in (CHART.parents[1] / "deploy/manifests/overlays").glob("*/values.yaml"):
        run("helm", "lint", "--strict", CHART, "-f", overlay)


def test_22_the_schema_is_closed_at_every_level():
    jsonschema.Draft7Validator.check_schema(SCHEMA.root)
    open_ = []
    for path, schema in SCHEMA.places():
        if schema.get("type") == "object" and schema.get("additionalProperties", True) is True and path[0] not in OF_HELM:
            open_.append(path)
        if not schema.keys() & {"type", "enum", "const"}:
            open_.append(path)
    assert not open_


def test_22_every_value_has_a_default_and_every_default_a_schema():
    def compare(values, schema, path):
        schema = SCHEMA.resolved(schema)
        if "properties" not in schema or not values:
            return
        missing = schema["properties"].keys() - values.keys() - (OF_HELM if not path else set())
        is_kubernetes = schema is SCHEMA.root["definitions"].get(path[-1] if path else "")
        assert is_kubernetes or path[-1:] == ["resources"] or not missing, f"{'.'.join(path)}: {missing} have no default"
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, schema["properties"][name], [*path, name])

    compare(VALUES, SCHEMA.root, [])
    assert SCHEMA.is_valid(SCHEMA.root, VALUES)


def test_22_a_wrong_type_is_refused_everywhere():
    validator = jsonschema.Draft7Validator(SCHEMA.root)
    tried = 0
    for path, schema in SCHEMA.places():
        if path[0] in OF_HELM:
            continue
        for wrong in wrong_for(schema):
            tried += 1
            assert not validator.is_valid(at(path, wrong)), f"{'.'.join(path)}={wrong!r} is taken"
    assert tried > 400


def test_22_helm_refuses_what_the_schema_does():
    fields = [name for name in VALUES]
    for path in fields:
        schema = SCHEMA.resolved(SCHEMA.root["properties"][path])
        wrong = wrong_for(schema)[0]
        assert f"/{path}" in (refused(values={path: wrong}) or ""), path
    assert "replcas" in refused("--set", "replcas=2")


def everything(values, schema, labels):
    """Values with all that can be switched on, and `labels` wherever a user may add some."""
    on = {name: True for name in values if name == "enabled"}
    for name, value in values.items():
        inner = SCHEMA.resolved(schema["properties"][name])
        if isinstance(value, dict) and "properties" in inner:
            on[name] = everything(value, inner, labels)
        elif name.lower().endswith(("labels", "annotations")):
            on[name] = labels
    return on


def test_labels_of_a_user_do_not_stand_beside_ours(conform):
    mine = {"app.kubernetes.io/name": "x", "kubectl.kubernetes.io/default-container": "y", "a": "b"}
    values = {**everything(VALUES, SCHEMA.root, mine), "replicas": 2}
    assert values["metrics"]["serviceMonitor"] == {"enabled": True, "labels": mine}
    text = template(values=values)
    items = by_name(objects(text))  # a key that is there twice is no YAML to helm
    for version in KUBERNETES:
        conform(text, version)
    kinds = {kind for kind, _, _ in items}
    assert {"ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    for it in items.values():
        assert it["metadata"]["labels"].get("app.kubernetes.io/name") != "x", it["metadata"]
    metadata = items["Deployment", NAMESPACE, "triton-operator"]["spec"]["template"]["metadata"]
    assert metadata["labels"]["app.kubernetes.io/name"] == "triton-operator" and metadata["labels"]["a"] == "b"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "operator"


@pytest.mark.parametrize("name", ["1234", "0x10", "1e3"])
def test_names_that_look_like_numbers_stay_texts(conform, name):
    values = {**everything(VALUES, SCHEMA.root, {}), "watchNamespaces": [name], "replicas": 2}
    arguments = ["template", "on", CHART, "--namespace", name, "--kube-version", "1.33.0", "-f", "-"]
    conform(run("helm", *arguments, stdin=json.dumps(values)), KUBERNETES[0])


ALL_SERVICES = ["--set", "metricsApi.enabled=true", "--set", "activator.enabled=true", "--set", "externalScaler.enabled=true"]


@pytest.mark.parametrize("release", ["a.b", "ml", "x" * 53, "v1.triton-operator.main"])
def test_services_have_names_that_they_may_have(release):
    found = objects(run("helm", "template", release, CHART, "--kube-version", "1.33.0", *ALL_SERVICES))
    names = [it["metadata"]["name"] for it in found if it["kind"] == "Service"]
    assert len(names) == 5 and all(len(name) <= 63 and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) for name in names), names


def test_a_release_whose_name_no_service_may_have_is_told_what_to_set():
    render = ("helm", "template", "1st", CHART, "--kube-version", "1.33.0")
    with pytest.raises(Failed, match="begins with a digit, which no Service may: set fullnameOverride"):
        run(*render)
    assert objects(run(*render, "--set", "fullnameOverride=first"))


def paths(values, path=()):
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from paths(value, (*path, name))


def test_22_null_is_refused_or_means_absent():
    def ask(path):
        # a null takes the default away
        said = refused("--set", ".".join(path).replace(",", "\\,") + "=null")
        return None if said is None or path[-1] in said else f"{path}: {said}"

    with ThreadPoolExecutor(4) as pool:
        assert not [it for it in pool.map(ask, paths(VALUES)) if it]


@pytest.mark.parametrize("seed", range(24))
def test_22_right_values_render_to_valid_manifests(conform, seed):
    values = SCHEMA.right(seed)
    text = template(values=values)
    assert by_name(objects(text)), values
    conform(text, KUBERNETES[-1])  # the schema has the fields of the newest


def releases_of_the_readme():
    """What each `helm install` of the chart's README about several operators makes, by kind, namespace and name."""
    text = (CHART / "README.md").read_text().split("## For some namespaces only", 1)[1].split("\n## ", 1)[0].replace("\\\n", " ")
    found = {}
    for line in re.findall(r"^helm install (.*)$", text, re.MULTILINE):
        name, _, *arguments = [word for word in shlex.split(line) if word not in ("--wait", "--create-namespace")]
        made = objects(run("helm", "template", name, CHART, "--kube-version", "1.33.0", *arguments))
        found[name] = {(it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]) for it in made}
    return found


def test_two_releases_of_the_readme_share_no_object_and_one_for_a_namespace_makes_nothing_of_the_cluster():
    made = releases_of_the_readme()
    first, second, alone = made["triton-a"], made["triton-b"], made["triton-operator"]
    assert not first & second, first & second
    in_cluster = lambda objects: {it for it in objects if it[1] is None}
    assert not in_cluster(second) and not in_cluster(alone), (second, alone)
    assert {namespace for _, namespace, _ in alone} == {"ml"}
    assert not any(kind.startswith(("Role", "ClusterRole")) for kind, _, _ in alone), "that is for whoever administers the cluster"


def test_helm_test_says_what_it_checked_and_where_to_look():
    [pod] = [it for it in objects(template("-s", "templates/tests/serve.yaml")) if it["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] == "hook-succeeded,hook-failed"
    [advice] = [it for it in pod["spec"]["containers"][0]["args"] if it.startswith("--advice=")]
    name = f"{NAMESPACE}-test"
    assert f"describe tritonserver,tritonmodel {name} says why" in advice and f"-n {NAMESPACE} logs deployment/{NAMESPACE}" in advice
