//! The JSON form: what the `config` endpoints answer, and what a load may bring in place of `config.pbtxt`.

mod bind;
mod mistake;
mod syntax;
mod write;

pub use write::to_json;

use super::{ModelConfig, ParseError, reflect};

/// Reads a configuration in protobuf's JSON format, with everything that protobuf's own reader lets pass.
///
/// Names in either case; numbers as numbers or strings. Let pass: single quotes, names without quotes, commas before a
/// closing bracket, one value where a list is expected, `"true"` and `"false"`, enums by number or in lower case, and
/// `null` for a field that is left out.
/// Errors: other mistakes of form, an unknown field or enum value, a value of another type, with line and column.
/// Source: protobuf, "ProtoJSON Format"; what is let pass, from the reader of protobuf 3.
pub fn from_json(text: &str) -> Result<ModelConfig, ParseError> {
    let message = syntax::parse(text).and_then(|value| bind::message(reflect::schema(), &value));
    match message {
        Ok(message) => Ok(reflect::from_dynamic(&message)),
        Err(mistake) => Err(ParseError::at(text, mistake.at, mistake.message)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::config::{from_json, from_text};

    /// The JSON means the same as the text.
    #[track_caller]
    fn check(json: &str, text: &str) {
        assert_eq!(from_json(json).unwrap_or_else(|error| panic!("{error}\n{json}")), from_text(text).unwrap());
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(from_json(text).expect_err("must not parse").to_string(), expected);
    }

    #[test]
    fn names_are_read_in_either_case() {
        let text = "max_batch_size: 8 input { data_type: TYPE_INT8 dims: 16 }";
        check(r#"{"maxBatchSize": 8, "input": [{"dataType": "TYPE_INT8", "dims": ["16"]}]}"#, text);
        check(r#"{"max_batch_size": 8, "input": [{"data_type": "TYPE_INT8", "dims": [16]}]}"#, text);
    }

    #[test]
    fn what_python_prints_of_a_dictionary_is_read() {
        check("{'backend': 'onnxruntime', 'max_batch_size': 4,}", "backend: 'onnxruntime' max_batch_size: 4");
        check("{backend: \"a'b\", 'name': 'c\"d'}", r#"backend: "a'b" name: 'c"d'"#);
        check("{'input': [{'dims': [1, 2, ], }, ]}", "input { dims: [ 1, 2 ] }");
    }

    #[test]
    fn one_value_is_a_list_of_one() {
        check(r#"{"input": {"name": "x", "dims": 3}}"#, "input { name: 'x' dims: 3 }");
        check(r#"{"instance_group": {"count": 2, "gpus": 1}}"#, "instance_group { count: 2 gpus: 1 }");
        check(r#"{"dynamic_batching": {"preferred_batch_size": "4"}}"#, "dynamic_batching { preferred_batch_size: 4 }");
    }

    #[test]
    fn booleans_enums_and_numbers_have_several_spellings() {
        check(r#"{"response_cache": {"enable": "true"}}"#, "response_cache { enable: true }");
        check(r#"{"response_cache": {"enable": "false"}}"#, "response_cache { }");
        let text = "input { data_type: TYPE_FP32 }";
        for spelling in [r#""TYPE_FP32""#, r#""type_fp32""#, r#""Type-Fp32""#, "11", r#""11""#] {
            check(&format!(r#"{{"input": [{{"data_type": {spelling}}}]}}"#), text);
        }
        check(r#"{"max_batch_size": 8.0}"#, "max_batch_size: 8");
        check(r#"{"max_batch_size": "8e0"}"#, "max_batch_size: 8");
        let ratio = "sequence_batching { direct { minimum_slot_utilization: 0.5 } }";
        check(r#"{"sequence_batching": {"direct": {"minimum_slot_utilization": "0.5"}}}"#, ratio);
        check(r#"{"sequence_batching": {"direct": {"minimum_slot_utilization": 5e-1}}}"#, ratio);
    }

    #[test]
    fn null_leaves_a_field_out() {
        check(r#"{"name": null, "input": null, "dynamic_batching": null, "backend": "b"}"#, "backend: 'b'");
    }

    #[test]
    fn maps_are_objects_and_their_keys_may_be_numbers() {
        check(
            r#"{"parameters": {"a": {"string_value": "b"}}, "metric_tags": {"c": "d", "e": "f"}}"#,
            "parameters { key: 'a' value { string_value: 'b' } } metric_tags { key: 'c' value: 'd' }
             metric_tags { key: 'e' value: 'f' }",
        );
        check(
            r#"{"dynamic_batching": {"priority_queue_policy": {"2": {"max_queue_size": 3}}}}"#,
            "dynamic_batching { priority_queue_policy { key: 2 value { max_queue_size: 3 } } }",
        );
    }

    #[test]
    fn strings_are_unescaped() {
        check(r#"{"name": "\u00e4\ud83d\ude00\n\/\"\'"}"#, "name: 'ä😀\\n/\\\"\\''");
        check(r#"{"name": "\ud83d"}"#, "name: '\u{fffd}'");
        check("\u{feff}{\"name\": \"two\nlines\"}", "name: 'two\\nlines'");
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        check_error("{\n  \"nam\": 1\n}", "line 2, column 3: no field 'nam' in 'inference.ModelConfig'");
        check_error(r#"{"input": [{"dim": 1}]}"#, "line 1, column 13: no field 'dim' in 'inference.ModelInput'");
        check_error("{", "line 1, column 2: expected a field name or '}', but the text ends");
        check_error("", "line 1, column 1: expected an object, but the text ends");
        check_error("{} x", "line 1, column 4: unexpected text after the object");
        check_error("{\"name\" 'm'}", "line 1, column 9: expected ':' after a field name");
        check_error("{\"name\": 'm' 'b': 1}", "line 1, column 14: expected ',' or '}'");
        check_error("{\"name\": \"m", "line 1, column 10: string without a closing quote");
        check_error("{\"name\": nope}", "line 1, column 10: expected a value");
        check_error(
            r#"{"max_batch_size": "many"}"#,
            "line 1, column 20: field 'max_batch_size' expects a whole number from -2147483648 to 2147483647, got \"many\"",
        );
        check_error(
            r#"{"max_batch_size": 1.5}"#,
            "line 1, column 20: field 'max_batch_size' expects a whole number from -2147483648 to 2147483647, got 1.5",
        );
        check_error(r#"{"name": 7}"#, "line 1, column 10: field 'name' expects a string, got 7");
        check_error(r#"{"name": ["m"]}"#, "line 1, column 10: field 'name' expects a string, got a list");
        check_error(
            r#"{"dynamic_batching": 1}"#,
            "line 1, column 22: field 'dynamic_batching' expects an object, got 1",
        );
        check_error(r#"{"parameters": []}"#, "line 1, column 16: field 'parameters' expects an object, got a list");
        check_error(
            r#"{"input": [{"data_type": "FP32"}]}"#,
            "line 1, column 26: field 'data_type' expects a value of 'inference.DataType', got \"FP32\"",
        );
        check_error(
            r#"{"dynamic_batching": {}, "sequence_batching": {}}"#,
            "line 1, column 26: field 'sequence_batching' excludes 'dynamic_batching', which is set too",
        );
        check_error("[]", "line 1, column 1: expected an object, got a list");
        let deep = format!("{{\"input\": {}", "[".repeat(1_000_000));
        assert_eq!(from_json(&deep).unwrap_err().message, "nested more than 100 levels deep");
    }

    proptest! {
        #[test]
        fn junk_never_panics(text in "\\PC{0,60}|[a-z_\\[\\]{}:,'\"\\\\0-9eE.+\n -]{0,80}") {
            let _ = from_json(&text);
        }
    }
}
