//! Fields that the schema has and the server does not support yet. They are named in one warning at load, never silently
//! ignored; the list shrinks as features arrive.

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{ModelConfig, reflect};

/// Schema paths: a field named here stands for everything below it.
const UNSUPPORTED: &[&str] = &[
    "runtime",
    "input.is_shape_tensor",
    "input.allow_ragged_batch",
    "input.is_non_linear_format_io",
    "output.is_shape_tensor",
    "output.is_non_linear_format_io",
    "batch_input",
    "batch_output",
    "optimization.priority",
    "optimization.cuda",
    "optimization.gather_kernel_buffer_threshold",
    "optimization.eager_batching",
    "sequence_batching.state",
    "instance_group.secondary_devices",
    "instance_group.profile",
    "instance_group.passive",
    "instance_group.host_policy",
    "cc_model_filenames",
    "model_operations",
    "model_repository_agents",
    "response_cache.enable",
    "model_metrics",
];

/// The paths of fields that are set and have no effect yet, e.g. `instance_group[1].passive`, in schema order. `by_backend`
/// are schema paths that the model's backend acts on.
pub fn unsupported_fields(config: &ModelConfig, by_backend: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    visit(&reflect::to_dynamic(config), "", "", by_backend, &mut found);
    found
}

/// `schema_path` names the field in the list above, `path` names it in this configuration.
fn visit(message: &DynamicMessage, schema_path: &str, path: &str, by_backend: &[&str], found: &mut Vec<String>) {
    for field in reflect::declared_fields(message).into_iter().filter(|field| message.has_field(field)) {
        let (schema_path, path) = (join(schema_path, field.name()), join(path, field.name()));
        if UNSUPPORTED.contains(&schema_path.as_str()) {
            if !by_backend.contains(&schema_path.as_str()) {
                found.push(path);
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
        for path in UNSUPPORTED {
            let mut message = Some(reflect::schema());
            for name in path.split('.') {
                let field = message.and_then(|message| message.get_field_by_name(name));
                let field = field.unwrap_or_else(|| panic!("'{path}' has no '{name}'"));
                message = field.kind().as_message().cloned();
            }
        }
    }

    #[test]
    fn unsupported_fields_are_named_with_their_paths() {
        let config = from_text(
            "input { name: 'x' } input { name: 'y' allow_ragged_batch: true }\n\
             instance_group [ { kind: KIND_CPU }, { passive: true rate_limiter { priority: 2 } } ]\n\
             optimization { graph { level: 1 } cuda { graphs: true } }\n\
             response_cache { enable: true } model_transaction_policy { }\n\
             sequence_batching { direct { } state { } }",
        );
        assert_eq!(
            unsupported_fields(&config.unwrap(), &[]),
            [
                "input[1].allow_ragged_batch",
                "optimization.cuda",
                "sequence_batching.state",
                "instance_group[1].passive",
                "response_cache.enable",
            ]
        );
    }

    #[test]
    fn what_the_backend_acts_on_is_not_named() {
        let config =
            from_text("input { allow_ragged_batch: true is_shape_tensor: true } model_operations { }").unwrap();
        assert_eq!(
            unsupported_fields(&config, &["input.allow_ragged_batch", "model_operations"]),
            ["input[0].is_shape_tensor"]
        );
    }

    #[test]
    fn defaults_and_supported_fields_are_not_named() {
        let mut config = from_text(
            "name: 'm' backend: 'onnxruntime' max_batch_size: 8 input { name: 'x' dims: 1 reshape { } optional: true }\n\
             dynamic_batching { preserve_ordering: true default_queue_policy { max_queue_size: 3 } }\n\
             parameters { key: 'a' value { string_value: 'b' } } metric_tags { key: 'a' value: 'b' }\n\
             response_cache { enable: false }",
        )
        .unwrap();
        normalize(&mut config, &Machine { gpus: 1 });
        assert_eq!(unsupported_fields(&config, &[]), Vec::<String>::new());
    }
}
