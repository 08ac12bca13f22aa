//! Fields that the schema has and that change nothing: they are named in one warning at load, never silently ignored.
//!
//! Not among them: `optimization.eager_batching`, `gather_kernel_buffer_threshold` and the pinned memories, which only say
//! how copies to a GPU are made, and fields that verification lets nobody but TensorRT set.

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{ModelConfig, frameworks, reflect};

/// Why a field changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Some backends act on it; this one does not.
    Backend,
    /// A model of this backend reads states as they are at first; only some backends renew them.
    State,
    /// Only TensorRT acts on it.
    TensorRt,
}

/// Schema paths: a field named here stands for everything below it.
const UNSUPPORTED: &[(&str, Why)] = &[
    ("batch_input", Why::Backend),
    ("batch_output", Why::Backend),
    ("model_operations", Why::Backend),
    ("sequence_batching.state", Why::State),
    ("cc_model_filenames", Why::Backend),
    ("instance_group.secondary_devices", Why::TensorRt),
    ("optimization.cuda", Why::TensorRt),
    ("optimization.priority", Why::TensorRt),
];

/// The fields that are set and change nothing, in schema order: path and reason, e.g.
/// `optimization.cuda (only for TensorRT)`. `by_backend` are schema paths that the model's backend acts on.
pub fn unsupported_fields(config: &ModelConfig, by_backend: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    visit(&reflect::to_dynamic(config), "", "", by_backend, &mut found);
    let described = found.into_iter().map(|(path, why)| match why {
        Why::Backend => format!("{path} (not used by backend '{}')", frameworks::backend_name(config)),
        Why::State => format!("{path} (not renewed by backend '{}')", frameworks::backend_name(config)),
        Why::TensorRt => format!("{path} (only for TensorRT)"),
    });
    described.collect()
}

/// `schema_path` names the field in the list above, `path` names it in this configuration.
fn visit(message: &DynamicMessage, schema_path: &str, path: &str, by_backend: &[&str], found: &mut Vec<(String, Why)>) {
    for field in reflect::declared_fields(message).into_iter().filter(|field| message.has_field(field)) {
        let (schema_path, path) = (join(schema_path, field.name()), join(path, field.name()));
        if let Some((_, why)) = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == schema_path) {
            if !by_backend.contains(&schema_path.as_str()) {
                found.push((path, *why));
            }
            continue;
        }
        match &*message.get_field(&field) {
            Value::Message(inner) => visit(inner, &schema_path, &path, by_backend, found),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        visit(inner, &schema_path, &format!("{path}[{index}]"), by_backend, found);
                    }
                }
            }
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                for (key, item) in entries {
                    if let (MapKey::String(key), Value::Message(inner)) = (key, item) {
                        visit(inner, &schema_path, &format!("{path}[{key:?}]"), by_backend, found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::{UNSUPPORTED, unsupported_fields};
    use crate::config::{Machine, from_text, normalize, reflect};

    #[test]
    fn every_listed_path_is_a_field_of_the_schema() {
        for (path, _) in UNSUPPORTED {
            let mut message = Some(reflect::schema());
            for name in path.split('.') {
                let field = message.and_then(|message| message.get_field_by_name(name));
                let field = field.unwrap_or_else(|| panic!("'{path}' has no '{name}'"));
                message = field.kind().as_message().cloned();
            }
        }
    }

    #[test]
    fn unsupported_fields_are_named_with_their_paths_and_reasons() {
        let config = from_text(
            "backend: 'identity' input { name: 'x' } input { name: 'y' allow_ragged_batch: true }\n\
             instance_group [ { kind: KIND_CPU }, { secondary_devices { } rate_limiter { priority: 2 } } ]\n\
             optimization { graph { level: 1 } cuda { graphs: true } eager_batching: true }\n\
             model_transaction_policy { } batch_output { }\n\
             sequence_batching { direct { } state { } } model_metrics { }",
        );
        assert_eq!(
            unsupported_fields(&config.unwrap(), &[]),
            [
                "batch_output (not used by backend 'identity')",
                "optimization.cuda (only for TensorRT)",
                "sequence_batching.state (not renewed by backend 'identity')",
                "instance_group[1].secondary_devices (only for TensorRT)",
            ]
        );
    }

    #[test]
    fn what_the_backend_acts_on_is_not_named() {
        let config = from_text("backend: 'b' batch_input { } model_operations { }").unwrap();
        assert_eq!(unsupported_fields(&config, &["batch_input"]), ["model_operations (not used by backend 'b')"]);
    }

    #[test]
    fn defaults_and_supported_fields_are_not_named() {
        let mut config = from_text(
            "name: 'm' backend: 'onnxruntime' max_batch_size: 8 input { name: 'x' dims: 1 reshape { } optional: true }\n\
             dynamic_batching { preserve_ordering: true default_queue_policy { max_queue_size: 3 } }\n\
             parameters { key: 'a' value { string_value: 'b' } } metric_tags { key: 'a' value: 'b' }\n\
             response_cache { enable: true }",
        )
        .unwrap();
        normalize(&mut config, &Machine { gpus: 1 });
        assert_eq!(unsupported_fields(&config, &[]), Vec::<String>::new());
    }
}
