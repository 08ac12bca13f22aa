//! Writes the text form: one field per line in the schema's order, maps by key, so that the same configuration gives
//! the same bytes. Values that are the default of their field are left out, as people leave them out.

use std::fmt::Write as _;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

use crate::config::{ModelConfig, reflect};

/// Writes a configuration in protobuf's text format, fit to be a `config.pbtxt`.
///
/// `from_text(&to_text(c))` is `c`.
pub fn to_text(config: &ModelConfig) -> String {
    let mut writer = Writer { text: String::new(), depth: 0 };
    writer.fields(&reflect::to_dynamic(config));
    writer.text
}

struct Writer {
    text: String,
    depth: usize,
}

impl Writer {
    fn fields(&mut self, message: &DynamicMessage) {
        for field in reflect::declared_fields(message) {
            if message.has_field(&field) {
                self.field(&field, &message.get_field(&field));
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Value) {
        let (name, kind) = (field.name(), field.kind());
        match value {
            Value::Message(message) => self.block(name, message, ""),
            Value::List(items) if matches!(kind, Kind::Message(_)) => {
                self.open(&format!("{name} ["));
                for (at, item) in items.iter().enumerate() {
                    let separator = if at + 1 < items.len() { "," } else { "" };
                    if let Value::Message(message) = item {
                        self.block("", message, separator);
                    }
                }
                self.close("]");
            }
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(|item| scalar(item, &kind)).collect();
                self.line(&format!("{name}: [ {} ]", items.join(", ")));
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = &kind else { return };
                let value_field = entry.map_entry_value_field();
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                for (key, value) in entries {
                    self.open(&format!("{name} {{"));
                    self.line(&format!("key: {}", map_key(key)));
                    self.field(&value_field, value);
                    self.close("}");
                }
            }
            _ => self.line(&format!("{name}: {}", scalar(value, &kind))),
        }
    }

    fn block(&mut self, name: &str, message: &DynamicMessage, separator: &str) {
        let gap = if name.is_empty() { "" } else { " " };
        if message.fields().next().is_none() {
            self.line(&format!("{name}{gap}{{ }}{separator}"));
            return;
        }
        self.open(&format!("{name}{gap}{{"));
        self.fields(message);
        self.close(&format!("}}{separator}"));
    }

    fn open(&mut self, line: &str) {
        self.line(line);
        self.depth += 1;
    }

    fn close(&mut self, line: &str) {
        self.depth -= 1;
        self.line(line);
    }

    fn line(&mut self, line: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(line);
        self.text.push('\n');
    }
}

// === values ===

fn scalar(value: &Value, kind: &Kind) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => format!("{value:?}").replace("NaN", "nan"),
        Value::F64(value) => format!("{value:?}").replace("NaN", "nan"),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(schema) => {
                schema.get_value(*number).map_or_else(|| number.to_string(), |value| value.name().to_owned())
            }
            _ => number.to_string(),
        },
        Value::String(value) => quoted(value),
        Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => {
            unreachable!("the schema has no bytes, and the rest are not scalars")
        }
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => quoted(key),
    }
}

fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(text, "\\{:03o}", u32::from(character)); // writing to a string cannot fail
            }
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use server_proto::inference::{
        ModelDynamicBatching, ModelInput, ModelParameter, ModelQueuePolicy, ModelSequenceBatching, model_config,
        model_metrics, model_sequence_batching, model_warmup,
    };

    use crate::config::{ModelConfig, from_text, to_text};

    #[test]
    fn fields_come_in_the_order_of_the_schema_and_maps_by_key() {
        let text = "max_batch_size: 2 name: 'm' backend: 'b' input { name: 'x' dims: [ 1, -1 ] } input { }\n\
                    parameters { key: 'z' value { string_value: '1' } } parameters { key: 'a' value { } }\n\
                    dynamic_batching { priority_queue_policy { key: 10 value { } } priority_queue_policy { key: 9 } }";
        insta::assert_snapshot!(to_text(&from_text(text).unwrap()), @r#"
        name: "m"
        backend: "b"
        max_batch_size: 2
        input [
          {
            name: "x"
            dims: [ 1, -1 ]
          },
          { }
        ]
        dynamic_batching {
          priority_queue_policy {
            key: 9
            value { }
          }
          priority_queue_policy {
            key: 10
            value { }
          }
        }
        parameters {
          key: "a"
          value { }
        }
        parameters {
          key: "z"
          value {
            string_value: "1"
          }
        }
        "#);
    }

    fn words() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z_0-9/.]{0,12}", "\\PC{0,12}", "[\\x00-\\x7f]{0,12}"]
    }

    fn inputs() -> impl Strategy<Value = Vec<ModelInput>> {
        let one = (words(), 0..16_i32, prop::collection::vec(any::<i64>(), 0..4), any::<bool>());
        let one = one.prop_map(|(name, data_type, dims, optional)| ModelInput {
            name,
            data_type,
            dims,
            optional,
            ..Default::default()
        });
        prop::collection::vec(one, 0..4)
    }

    fn scheduling() -> impl Strategy<Value = Option<model_config::SchedulingChoice>> {
        let policies = prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..3).prop_map(|policies| {
            let policy = |time| ModelQueuePolicy { default_timeout_microseconds: time, ..Default::default() };
            policies.into_iter().map(|(level, time)| (level, policy(time))).collect::<BTreeMap<_, _>>()
        });
        let dynamic = (prop::collection::vec(any::<i32>(), 0..4), policies).prop_map(|(sizes, policies)| {
            model_config::SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                preferred_batch_size: sizes,
                priority_queue_policy: policies,
                ..Default::default()
            })
        });
        let sequence = prop::num::f32::ANY.prop_filter("equal to itself", |f| !f.is_nan()).prop_map(|utilization| {
            model_config::SchedulingChoice::SequenceBatching(ModelSequenceBatching {
                strategy_choice: Some(model_sequence_batching::StrategyChoice::Direct(
                    model_sequence_batching::StrategyDirect {
                        minimum_slot_utilization: utilization,
                        ..Default::default()
                    },
                )),
                ..Default::default()
            })
        });
        prop_oneof![Just(None), dynamic.prop_map(Some), sequence.prop_map(Some)]
    }

    fn configs() -> impl Strategy<Value = ModelConfig> {
        let parameters = prop::collection::btree_map(words(), words(), 0..4);
        let buckets = prop::collection::vec(-1e300..1e300_f64, 0..4);
        (words(), any::<i32>(), inputs(), scheduling(), parameters, buckets, any::<bool>()).prop_map(
            |(name, max_batch_size, input, scheduling_choice, parameters, buckets, zero_data)| {
                let zero = model_warmup::Input {
                    input_data_type: Some(model_warmup::input::InputDataType::ZeroData(zero_data)),
                    ..Default::default()
                };
                let control = model_metrics::MetricControl {
                    metric_options: Some(model_metrics::metric_control::MetricOptions::HistogramOptions(
                        model_metrics::metric_control::HistogramOptions { buckets },
                    )),
                    ..Default::default()
                };
                ModelConfig {
                    name,
                    max_batch_size,
                    input,
                    scheduling_choice,
                    parameters: parameters
                        .into_iter()
                        .map(|(key, string_value)| (key, ModelParameter { string_value }))
                        .collect(),
                    model_warmup: vec![server_proto::inference::ModelWarmup {
                        inputs: BTreeMap::from([("x".to_owned(), zero)]),
                        ..Default::default()
                    }],
                    model_metrics: Some(server_proto::inference::ModelMetrics { metric_control: vec![control] }),
                    ..Default::default()
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_it_was(config in configs()) {
            let text = to_text(&config);
            prop_assert_eq!(from_text(&text).map_err(|e| format!("{e}\n{text}")).unwrap(), config);
        }
    }
}
