//! A `TritonModel`: its name, source, versions. Its configuration is checked in [`crate::render`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crds::{
    TritonModel,
    model::MODEL_NAME_MAX,
    parts::{
        source::ModelSource,
        versions::{VersionPolicy, Versions},
    },
};
use server_core::version_routing::PARAMETERS;

use super::{
    findings::{Findings, spec},
    forms::is_http_uri,
    hub, objects,
    sources::{SOURCES, alternatives, named_objects},
};
use crate::{Problem, Reason, names, path::FieldPath, versions};

/// Most bytes of files (paths and contents) a model may carry inline: the manifest of all models has 1 MiB.
pub const INLINE_MAX: usize = 256 * 1024;

/// Longest time a server may have to live on with new content.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(3600);

/// Everything wrong with `model`, its configuration aside.
pub fn model(model: &TritonModel) -> Vec<Problem> {
    let mut findings = Findings::new(names::object(model));
    findings.check_name(crds::model::NAME_MAX);
    name(model, &mut findings);
    source(&model.spec.source, &mut findings);
    checksum(model, &mut findings);
    versions(model, &mut findings);
    if model.spec.config.is_some() && model.spec.config_pbtxt.is_some() {
        findings.add(spec("configPbtxt"), "a model has either config or configPbtxt: move everything into one of them");
    }
    settle_time(model, &mut findings);
    findings.problems
}

fn settle_time(model: &TritonModel, findings: &mut Findings) {
    let time = model.spec.load_policy.as_ref().and_then(|policy| policy.settle_time);
    if let Some(time) = time.filter(|time| time.get() > SETTLE_TIME_MAX) {
        let message =
            format!("is {time}, and 1h is the most: contents would wait that long before they go on to other replicas");
        findings.add(spec("loadPolicy").field("settleTime"), message);
    }
}

fn name(model: &TritonModel, findings: &mut Findings) {
    if model.spec.server_ref.name.is_empty() {
        findings.add(spec("serverRef").field("name"), "is empty: name the TritonServer that serves the model");
    }
    let Some(name) = &model.spec.model_name else { return };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let well_formed = name.starts_with(plain) && name.chars().all(|c| plain(c) || matches!(c, '.' | '+' | '-'));
    if !well_formed {
        let message = format!(
            "'{name}' is not a model name: use letters, digits, '_', '-', '+' and '.', with a letter, digit or '_' first"
        );
        findings.add(spec("modelName"), message);
    } else if name.len() > MODEL_NAME_MAX {
        let message = format!("has {} characters, the most is {MODEL_NAME_MAX}: choose a shorter one", name.len());
        findings.add(spec("modelName"), message);
    }
}

fn source(source: &ModelSource, findings: &mut Findings) {
    let at = spec("source");
    match alternatives(source).as_slice() {
        [_] => {}
        [] => findings.add(at.clone(), format!("names no source: give exactly one of {SOURCES}")),
        several => {
            let message = format!("names {}: a source is exactly one of {SOURCES}", several.join(" and "));
            findings.add(at.clone(), message);
        }
    }
    if let Some(inline) = &source.inline {
        files(&inline.files, &at.field("inline").field("files"), findings);
    }
    if let Some(config_map) = &source.config_map {
        let at = at.field("configMap").field("items");
        let mut taken = BTreeSet::new();
        for (number, item) in config_map.items.iter().enumerate() {
            let at = at.index(number).field("path");
            findings.check_path_inside(at.clone(), &item.path, "the model's folder");
            if !taken.insert(&item.path) {
                findings.add(at, format!("'{}' is the path of two keys: give each its own", item.path));
            }
        }
    }
    if let Some(path) = source.pvc.as_ref().and_then(|pvc| pvc.path.as_deref()).filter(|path| !path.is_empty()) {
        // A trailing slash is how people write folders.
        let path = path.strip_suffix('/').unwrap_or(path);
        findings.check_path_inside(at.field("pvc").field("path"), path, "the root of the claim");
    }
    for ([kind, field], name) in named_objects(source) {
        if !names::is_of_object(name) {
            findings.add(at.field(kind).field(field), format!("'{name}' is not {}", names::RULE_OF_OBJECTS));
        }
    }
    objects::check(source, &at, findings);
    if let Some(http) = &source.http
        && !is_http_uri(&http.uri)
    {
        let message = format!(
            "'{}' is not an address to fetch from: it begins with http:// or https:// and a host, and has no spaces",
            http.uri
        );
        findings.add(at.field("http").field("uri"), message);
    }
    if let Some(hub) = &source.hugging_face {
        hub::hugging_face(hub, &at.field("huggingFace"), findings);
    }
    if let Some(oci) = &source.oci {
        hub::oci(oci, &at.field("oci"), findings);
    }
}

fn files(files: &BTreeMap<String, String>, at: &FieldPath, findings: &mut Findings) {
    if files.is_empty() {
        findings.add(at.clone(), "holds no file: write at least one, such as 1/model.py");
    }
    for path in files.keys() {
        findings.check_path_inside(at.field(path), path, "the model's folder");
        let folder = format!("{path}/");
        if let Some(below) = files.keys().find(|other| other.starts_with(&folder)) {
            findings.add(at.field(path), format!("'{path}' is a file and the folder of '{below}': rename one of them"));
        }
    }
    let bytes: usize = files.iter().map(|(path, content)| path.len() + content.len()).sum();
    if bytes > INLINE_MAX {
        let message = format!(
            "holds {bytes} bytes, the most is {INLINE_MAX}: use a source such as configMap, pvc or http for files of this size"
        );
        findings.add_as(Reason::ManifestTooLarge, at.clone(), message);
    }
}

fn checksum(model: &TritonModel, findings: &mut Findings) {
    let Some(checksum) = &model.spec.checksum else { return };
    let digits = checksum.sha256.chars().count();
    if digits != 64 || !checksum.sha256.chars().all(|c| c.is_ascii_hexdigit()) {
        let message = format!(
            "'{}' is not a SHA-256: write its 64 hexadecimal digits, as sha256sum prints them (found {digits} characters)",
            checksum.sha256
        );
        findings.add(spec("checksum").field("sha256"), message);
    }
}

fn versions(model: &TritonModel, findings: &mut Findings) {
    let Some(versions) = &model.spec.versions else { return };
    let at = spec("versions");
    if versions.policy.is_none() && versions.weights.is_empty() {
        findings.add(at.clone(), "has neither policy nor weights: say which versions are served");
    }
    for (field, by_version) in [("weights", &versions.weights), ("shadow", &versions.shadow)] {
        for key in by_version.keys().filter(|key| versions::version(key).is_none()) {
            findings.add(at.field(field).field(key), format!("'{key}' is no version: versions are numbers from 1"));
        }
    }
    let config = model.spec.config.as_ref().filter(|_| versions::are_routed(model));
    let parameters = config.into_iter().flat_map(|config| config.parameters.keys());
    for key in parameters.filter(|key| PARAMETERS.contains(&key.as_str())) {
        let message = "says what spec.versions says: remove it here";
        findings.add(spec("config").field("parameters").field(key), message);
    }
    if let Some(policy) = &versions.policy {
        version_policy(policy, versions, &at.field("policy"), findings);
    }
}

fn version_policy(policy: &VersionPolicy, versions: &Versions, at: &FieldPath, findings: &mut Findings) {
    let given = [policy.latest.is_some(), policy.all.is_some(), policy.specific.is_some()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        findings.add(at.clone(), "is exactly one of latest, all or specific");
    }
    let Some(specific) = &policy.specific else { return };
    let at = at.field("specific").field("versions");
    let mut seen = BTreeSet::new();
    for (number, version) in specific.versions.iter().enumerate() {
        if *version < 1 {
            findings.add(at.index(number), format!("is {version}, versions are numbered from 1"));
        } else if !seen.insert(version) {
            findings.add(at.index(number), format!("names version {version} again: name each once"));
        }
    }
    for version in versions::named(versions).iter().filter(|version| !seen.contains(version)) {
        let message = format!(
            "leaves out version {version}, which requests are routed to: add it, or remove it from weights, canary and shadow"
        );
        findings.add(at.clone(), message);
    }
    if specific.versions.is_empty() {
        findings.add(at, "names no version: name at least one, or use latest");
    }
}

#[cfg(test)]
mod tests {
    use crds::{TritonModel, TritonModelSpec};

    use super::{MODEL_NAME_MAX, ModelSource, name, source};
    use crate::{names, validate::findings::Findings};

    #[test]
    fn objects_are_named_as_objects_can_be_named() {
        let paths = |text: serde_json::Value| {
            let spec: ModelSource = serde_json::from_value(text).unwrap();
            let mut findings = Findings::new(names::object(&TritonModel::new("m", TritonModelSpec::default())));
            source(&spec, &mut findings);
            findings.problems.into_iter().map(|problem| problem.path).collect::<Vec<_>>()
        };
        let config_map = |name: &str| serde_json::json!({ "configMap": { "name": name } });
        assert_eq!(paths(config_map("files.v1")), [""; 0]);
        assert_eq!(paths(config_map("../secrets/marked")), ["spec.source.configMap.name"]);
        assert_eq!(paths(serde_json::json!({ "pvc": { "claimName": "../../x" } })), ["spec.source.pvc.claimName"]);
        let http = serde_json::json!({ "http": { "uri": "http://h/m.zip", "secretRef": { "name": "a b" } } });
        assert_eq!(paths(http), ["spec.source.http.secretRef"]);
    }

    #[test]
    fn a_name_that_no_folder_can_have_is_refused_with_the_limit_and_the_definition_says_the_same() {
        let problems = |length: usize| {
            let spec = TritonModelSpec { model_name: Some("n".repeat(length)), ..Default::default() };
            let mut model = TritonModel::new("m", spec);
            model.spec.server_ref.name = "s".into();
            let mut findings = Findings::new(names::object(&model));
            name(&model, &mut findings);
            findings.problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>()
        };
        assert!(problems(MODEL_NAME_MAX).is_empty());
        assert_eq!(problems(MODEL_NAME_MAX + 1), ["has 241 characters, the most is 240: choose a shorter one"]);
        let schema = crds::definition::schema_of("TritonModel").unwrap();
        assert_eq!(schema["properties"]["spec"]["properties"]["modelName"]["maxLength"], MODEL_NAME_MAX);
    }
}
