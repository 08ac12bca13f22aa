//! Writes the JSON form: what the `config` endpoints answer.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Value};
use serde_json::{Map, Number, Value as Json};

use crate::config::{ModelConfig, reflect};

/// Fields of 64 bits that stay strings, as protobuf's JSON has them; all others are numbers.
const NUMBERS_AS_STRINGS: [&str; 3] = [
    "inference.ModelSequenceBatching.InitialState.dims",
    "inference.ModelOptimizationPolicy.Cuda.GraphSpec.Shape.dim",
    "inference.ModelInstanceGroup.SecondaryDevice.device_id",
];

/// The configuration as the `config` endpoints show it: names as in the schema, zeros and empty lists printed, absent
/// messages left out, enums by name, 64-bit numbers as numbers but for [`NUMBERS_AS_STRINGS`].
///
/// Source: Triton model configuration extension; the exceptions are how Triton answers.
pub fn to_json(config: &ModelConfig) -> Json {
    object(&reflect::to_dynamic(config))
}

fn object(message: &DynamicMessage) -> Json {
    reflect::declared_fields(message)
        .iter()
        .filter(|field| !reflect::is_absent(message, field))
        .map(|field| (field.name().to_owned(), value(field, &message.get_field(field))))
        .collect::<Map<_, _>>()
        .into()
}

fn value(field: &FieldDescriptor, content: &Value) -> Json {
    match content {
        Value::Message(message) => object(message),
        Value::List(items) => items.iter().map(|item| value(field, item)).collect(),
        Value::Map(entries) => {
            let Kind::Message(entry) = field.kind() else { return Json::Null };
            let value_field = entry.map_entry_value_field();
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            entries
                .into_iter()
                .map(|(key, item)| (map_key(key), value(&value_field, item)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::I64(number) if is_string(field) => number.to_string().into(),
        Value::U64(number) if is_string(field) => number.to_string().into(),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(schema) => {
                schema.get_value(*number).map_or_else(|| (*number).into(), |value| value.name().into())
            }
            _ => (*number).into(),
        },
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        // through text, so that 0.1 is shown as 0.1 and not as the nearest double of the nearest single
        Value::F32(value) => float(value.to_string().parse().unwrap_or(f64::from(*value))),
        Value::F64(value) => float(*value),
        Value::String(value) => value.as_str().into(),
        Value::Bytes(_) => unreachable!("the schema has no bytes"),
    }
}

fn is_string(field: &FieldDescriptor) -> bool {
    NUMBERS_AS_STRINGS.contains(&field.full_name())
}

/// Whole numbers up to here are exact, and are printed without a point, as protobuf prints them.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0; // 2^53

fn float(value: f64) -> Json {
    let is_negative_zero = value == 0.0 && value.is_sign_negative(); // which no whole number is
    if value.fract() == 0.0 && value.abs() <= LARGEST_WHOLE && !is_negative_zero {
        return (value as i64).into();
    }
    let word = match value {
        _ if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return Number::from_f64(value).map_or(Json::Null, Json::Number),
    };
    word.into()
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::config::{from_json, from_text, to_json};

    #[test]
    fn floats_that_are_whole_have_no_point() {
        let utilization = |text: &str| {
            let text = format!("sequence_batching {{ direct {{ minimum_slot_utilization: {text} }} }}");
            to_json(&from_text(&text).unwrap())["sequence_batching"]["direct"]["minimum_slot_utilization"].to_string()
        };
        assert_eq!(["0", "1", "0.5"].map(utilization), ["0", "1", "0.5"]);
    }

    #[test]
    fn the_sign_of_zero_is_kept() {
        let config =
            from_text("model_metrics { metric_control { histogram_options { buckets: [ 0, -0.0 ] } } }").unwrap();
        let json = to_json(&config).to_string();
        assert!(json.contains("[0,-0.0]"), "{json}");
        assert_eq!(to_json(&from_json(&json).unwrap()).to_string(), json);
    }

    #[test]
    fn scalars_are_printed_and_absent_messages_are_not() {
        let config = from_text("name: 'm' input { name: 'x' data_type: TYPE_FP32 dims: [ -1 ] }").unwrap();
        assert_eq!(
            to_json(&config),
            json!({
                "name": "m",
                "platform": "",
                "backend": "",
                "runtime": "",
                "max_batch_size": 0,
                "input": [{
                    "name": "x",
                    "data_type": "TYPE_FP32",
                    "format": "FORMAT_NONE",
                    "dims": [-1],
                    "is_shape_tensor": false,
                    "allow_ragged_batch": false,
                    "optional": false,
                    "is_non_linear_format_io": false
                }],
                "output": [],
                "batch_input": [],
                "batch_output": [],
                "instance_group": [],
                "default_model_filename": "",
                "cc_model_filenames": {},
                "metric_tags": {},
                "parameters": {},
                "model_warmup": []
            })
        );
    }

    #[test]
    fn big_numbers_are_numbers_but_for_three() {
        let config = from_text(
            "version_policy { specific { versions: [ 1, 3 ] } }\n\
             instance_group { secondary_devices { device_id: 5 } }\n\
             optimization { cuda { graph_spec { input { key: 'x' value { dim: 7 } } } } }\n\
             sequence_batching { max_sequence_idle_microseconds: 9 state { dims: 2 initial_state { dims: 4 } }\n\
               direct { minimum_slot_utilization: 0.1 } }",
        )
        .unwrap();
        let json = to_json(&config);
        assert_eq!(json["version_policy"], json!({"specific": {"versions": [1, 3]}}));
        assert_eq!(json["instance_group"][0]["secondary_devices"][0]["device_id"], json!("5"));
        assert_eq!(json["optimization"]["cuda"]["graph_spec"][0]["input"]["x"]["dim"], json!(["7"]));
        assert_eq!(json["sequence_batching"]["max_sequence_idle_microseconds"], json!(9));
        assert_eq!(json["sequence_batching"]["state"][0]["dims"], json!([2]));
        assert_eq!(json["sequence_batching"]["state"][0]["initial_state"][0]["dims"], json!(["4"]));
        assert_eq!(json["sequence_batching"]["direct"]["minimum_slot_utilization"], json!(0.1));
    }

    #[test]
    fn levels_of_a_queue_policy_are_strings() {
        let text = "dynamic_batching { priority_queue_policy { key: 2 value { default_timeout_microseconds: 5 } } }";
        let json = to_json(&from_text(text).unwrap());
        assert_eq!(json["dynamic_batching"]["priority_queue_policy"]["2"]["default_timeout_microseconds"], json!(5));
        assert_eq!(json["dynamic_batching"]["max_queue_delay_microseconds"], json!(0));
        assert!(json["dynamic_batching"].get("default_queue_policy").is_none());
    }
}
