//! The structured form of a configuration in the words of `config.pbtxt`, by way of protobuf's JSON.

use crds::{
    TritonModel,
    parts::{
        config::{DynamicBatching, InstanceGroup, ModelConfig, ModelInput, ModelOutput, Reshape},
        versions::VersionPolicy,
    },
};
use serde_json::{Map, Value, json};
use server_core::version_routing;

use crate::{names, versions};

/// The configuration and the names of the top-level fields it sets, zeros included; of parameters that are not the user's own, each
/// by its path.
pub(super) fn to_json(model: &TritonModel) -> (Value, Vec<String>) {
    let mut fields = Map::new();
    fields.insert("name".into(), json!(names::wire_name(model)));
    let versions = model.spec.versions.as_ref();
    if let Some(policy) = versions.and_then(versions::policy) {
        fields.insert("version_policy".into(), version_policy(&policy));
    }
    if let Some(config) = &model.spec.config {
        structured(config, &mut fields);
    }
    let mut names: Vec<String> = fields.keys().cloned().collect();
    let routing = versions.map(versions::parameters).unwrap_or_default();
    if !routing.is_empty() {
        // all of them are said here, those that are absent too; other parameters may stand in the source
        names.extend(version_routing::PARAMETERS.map(version_routing::path));
        let parameters = fields.entry("parameters").or_insert_with(|| json!({}));
        for (key, value) in routing {
            parameters[key] = json!({ "string_value": value });
        }
    }
    (fields.into(), names)
}

fn structured(config: &ModelConfig, fields: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.into(), value);
        }
    };
    set("backend", config.backend.as_ref().map(|backend| json!(backend)));
    set("platform", config.platform.as_ref().map(|platform| json!(platform)));
    set("runtime", config.runtime.as_ref().map(|runtime| json!(runtime)));
    set("default_model_filename", config.default_model_filename.as_ref().map(|file| json!(file)));
    set("max_batch_size", config.max_batch_size.map(|size| json!(size)));
    set("input", list(&config.inputs, input));
    set("output", list(&config.outputs, output));
    set("instance_group", list(&config.instance_groups, instance_group));
    set("dynamic_batching", config.dynamic_batching.as_ref().map(dynamic_batching));
    let parameters = config.parameters.iter().map(|(key, value)| (key.clone(), json!({ "string_value": value })));
    set("parameters", (!config.parameters.is_empty()).then(|| parameters.collect::<Map<_, _>>().into()));
}

fn list<T>(items: &[T], one: fn(&T) -> Value) -> Option<Value> {
    (!items.is_empty()).then(|| items.iter().map(one).collect())
}

fn input(input: &ModelInput) -> Value {
    let mut json = json!({ "name": input.name, "data_type": input.data_type, "dims": input.dims });
    json["optional"] = json!(input.optional.unwrap_or_default());
    reshape(&mut json, input.reshape.as_ref());
    json
}

fn output(output: &ModelOutput) -> Value {
    let mut json = json!({ "name": output.name, "data_type": output.data_type, "dims": output.dims });
    json["label_filename"] = json!(output.label_filename.as_deref().unwrap_or_default());
    reshape(&mut json, output.reshape.as_ref());
    json
}

fn reshape(json: &mut Value, reshape: Option<&Reshape>) {
    if let Some(reshape) = reshape {
        json["reshape"] = json!({ "shape": reshape.shape });
    }
}

fn instance_group(group: &InstanceGroup) -> Value {
    json!({
        "kind": group.kind.unwrap_or_default(),
        "count": group.count.unwrap_or_default(),
        "gpus": group.gpus,
    })
}

fn dynamic_batching(batching: &DynamicBatching) -> Value {
    json!({
        "preferred_batch_size": batching.preferred_batch_size,
        "max_queue_delay_microseconds": batching.max_queue_delay_microseconds.unwrap_or_default(),
        "preserve_ordering": batching.preserve_ordering.unwrap_or_default(),
    })
}

fn version_policy(policy: &VersionPolicy) -> Value {
    if let Some(latest) = &policy.latest {
        json!({ "latest": { "num_versions": latest.num.unwrap_or(1) } })
    } else if let Some(specific) = &policy.specific {
        json!({ "specific": { "versions": specific.versions } })
    } else {
        json!({ "all": {} })
    }
}
