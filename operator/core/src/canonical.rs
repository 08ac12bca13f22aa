//! JSON with one spelling per value: keys sorted, no white space. Sorting is done here and not left to the map type, which
//! another crate of the workspace could turn into one that keeps the order of insertion.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

/// `value` as canonical JSON.
pub(crate) fn to_string(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("plain data with text keys");
    let mut text = String::new();
    write(&value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            text.push('{');
            for (at, (name, field)) in fields.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                // writing to a String cannot fail
                let _ = write!(text, "{}:", Value::from(name.as_str()));
                write(field, text);
            }
            text.push('}');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({ "b": [{ "z": 1, "a": "x\"y" }], "a": { "c": null, "b": true } });
        assert_eq!(super::to_string(&value), r#"{"a":{"b":true,"c":null},"b":[{"a":"x\"y","z":1}]}"#);
    }
}
