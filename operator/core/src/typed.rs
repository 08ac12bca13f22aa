//! Values that are written as plain data and have to be what a type of Kubernetes is: what has another type, and what is no field of it, is
//! told with its place.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::strategic::{Mistake, below, item};

/// `value` as what it has to be, that as it is written, and every field that is none of it. `what` the type is: "a pod template".
///
/// Errors: a part has a wrong type, so that nothing more can be said.
pub(crate) fn typed<T>(value: &Value, what: &str) -> Result<(T, Value, Vec<Mistake>), Mistake>
where
    T: DeserializeOwned + Serialize,
{
    let read: T = serde_json::from_value(value.clone()).map_err(|error| wrong_type::<T>(value, &error))?;
    let known = serde_json::to_value(&read).expect("a type of Kubernetes is plain data");
    let mut mistakes = vec![];
    unknown_fields("", value, &known, what, &mut mistakes);
    Ok((read, known, mistakes))
}

/// The first field that keeps a value from being read, and why.
fn wrong_type<T: DeserializeOwned>(merged: &Value, error: &serde_json::Error) -> Mistake {
    let found = first_wrong::<T>("", merged, &|value| value);
    let (path, message) = found.unwrap_or_else(|| (String::new(), error.to_string()));
    Mistake { path, message: format!("has the wrong type: {message}") }
}

/// Goes down as long as a part alone, within nothing but what it stands in, can be read.
fn first_wrong<T: DeserializeOwned>(
    path: &str,
    value: &Value,
    within: &dyn Fn(Value) -> Value,
) -> Option<(String, String)> {
    let shallow = match value {
        Value::Object(_) => json!({}),
        Value::Array(_) => json!([]),
        scalar => scalar.clone(),
    };
    if let Err(error) = serde_json::from_value::<T>(within(shallow)) {
        return Some((path.to_owned(), error.to_string()));
    }
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            first_wrong::<T>(&below(path, name), field, &|value| {
                within(Value::Object([(name.clone(), value)].into_iter().collect()))
            })
        }),
        Value::Array(items) => items.iter().enumerate().find_map(|(at, value)| {
            first_wrong::<T>(&item(path, at, value), value, &|value| within(Value::Array(vec![value])))
        }),
        _ => None,
    }
}

/// Fields of `merged` that reading it has lost.
fn unknown_fields(path: &str, merged: &Value, known: &Value, what: &str, mistakes: &mut Vec<Mistake>) {
    match (merged, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (name, field) in fields {
                let path = below(path, name);
                match known.get(name) {
                    Some(known) => unknown_fields(&path, field, known, what, mistakes),
                    None if is_nothing(field) => {}
                    None => mistakes.push(Mistake { path, message: format!("is no field of {what}") }),
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (at, (value, known)) in items.iter().zip(known).enumerate() {
                unknown_fields(&item(path, at, value), value, known, what, mistakes);
            }
        }
        _ => {}
    }
}

/// Whether a value says nothing.
pub(crate) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
