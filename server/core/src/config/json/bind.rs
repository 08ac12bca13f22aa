//! Values of JSON become fields of a message, as its schema says. A value where a list is expected is a list of one.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value as Field};

use super::{
    mistake::Mistake,
    syntax::{Content, Name, Value},
};

/// The message of this schema that an object describes.
pub(super) fn message(schema: MessageDescriptor, value: &Value) -> Result<DynamicMessage, Mistake> {
    let Content::Object(fields) = &value.content else {
        return Err(Mistake::new(value.at, format!("expected an object, got {}", value.describe())));
    };
    let mut message = DynamicMessage::new(schema);
    fill(&mut message, fields)?;
    Ok(message)
}

fn fill(message: &mut DynamicMessage, fields: &[(Name, Value)]) -> Result<(), Mistake> {
    let schema = message.descriptor();
    for (name, value) in fields {
        let field = schema.get_field_by_name(&name.text).or_else(|| schema.get_field_by_json_name(&name.text));
        let Some(field) = field else {
            let text = format!("no field '{}' in '{}'", name.text, schema.full_name());
            return Err(Mistake::new(name.at, text));
        };
        if matches!(value.content, Content::Null) {
            continue;
        }
        check_choice(message, &field, name)?;
        if field.is_map() {
            fill_map(message, &field, value)?;
        } else if field.is_list() {
            let items = match &value.content {
                Content::List(items) => items.iter().collect(),
                _ => vec![value],
            };
            for item in items.into_iter().filter(|item| !matches!(item.content, Content::Null)) {
                let item = single(&field, &field.kind(), item)?;
                if let Some(list) = message.get_field_mut(&field).as_list_mut() {
                    list.push(item);
                }
            }
        } else if let (Field::Message(inner), Content::Object(fields)) = (message.get_field_mut(&field), &value.content)
        {
            fill(inner, fields)?; // a name that comes twice adds to the first
        } else {
            let single = single(&field, &field.kind(), value)?;
            message.set_field(&field, single);
        }
    }
    Ok(())
}

/// Of the fields of a choice, one may be set.
fn check_choice(message: &DynamicMessage, field: &FieldDescriptor, name: &Name) -> Result<(), Mistake> {
    let choices = field.containing_oneof();
    let others = choices.iter().flat_map(|choice| choice.fields()).filter(|other| other != field);
    match others.into_iter().find(|other| message.has_field(other)) {
        None => Ok(()),
        Some(other) => {
            let text = format!("field '{}' excludes '{}', which is set too", field.name(), other.name());
            Err(Mistake::new(name.at, text))
        }
    }
}

fn fill_map(message: &mut DynamicMessage, field: &FieldDescriptor, value: &Value) -> Result<(), Mistake> {
    let (Content::Object(entries), Kind::Message(entry)) = (&value.content, field.kind()) else {
        return Err(expected(field, "an object", value));
    };
    let (key_kind, value_field) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field());
    for (name, value) in entries.iter().filter(|(_, value)| !matches!(value.content, Content::Null)) {
        let key_text = Value { at: name.at, content: Content::String(name.text.clone()) };
        let key = match single(field, &key_kind, &key_text)? {
            Field::Bool(key) => MapKey::Bool(key),
            Field::I32(key) => MapKey::I32(key),
            Field::I64(key) => MapKey::I64(key),
            Field::U32(key) => MapKey::U32(key),
            Field::U64(key) => MapKey::U64(key),
            Field::String(key) => MapKey::String(key),
            _ => return Err(expected(field, "a key", &key_text)),
        };
        let value = single(field, &value_field.kind(), value)?;
        if let Some(map) = message.get_field_mut(field).as_map_mut() {
            map.insert(key, value);
        }
    }
    Ok(())
}

/// One value of a field.
fn single(field: &FieldDescriptor, kind: &Kind, value: &Value) -> Result<Field, Mistake> {
    let whole = |least: i128, most: i128| {
        let number = whole_number(value).filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| expected(field, &format!("a whole number from {least} to {most}"), value))
    };
    let narrow = "the range was checked";
    match kind {
        Kind::Message(schema) => match &value.content {
            Content::Object(fields) => {
                let mut message = DynamicMessage::new(schema.clone());
                fill(&mut message, fields)?;
                Ok(Field::Message(message))
            }
            _ => Err(expected(field, "an object", value)),
        },
        Kind::Bool => match &value.content {
            Content::Bool(value) => Ok(Field::Bool(*value)),
            Content::String(text) if text == "true" => Ok(Field::Bool(true)),
            Content::String(text) if text == "false" => Ok(Field::Bool(false)),
            _ => Err(expected(field, "true or false", value)),
        },
        Kind::String => match &value.content {
            Content::String(text) => Ok(Field::String(text.clone())),
            _ => Err(expected(field, "a string", value)),
        },
        Kind::Enum(schema) => {
            let by_name = |name: &str| schema.get_value_by_name(name).map(|value| value.number());
            let named = match &value.content {
                Content::String(text) => {
                    by_name(text).or_else(|| by_name(&text.to_ascii_uppercase().replace('-', "_")))
                }
                _ => None,
            };
            let number = named.or_else(|| whole_number(value).and_then(|number| i32::try_from(number).ok()));
            let text = || format!("a value of '{}'", schema.full_name());
            number.map(Field::EnumNumber).ok_or_else(|| expected(field, &text(), value))
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            whole(i32::MIN.into(), i32::MAX.into()).map(|number| Field::I32(number.try_into().expect(narrow)))
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            whole(i64::MIN.into(), i64::MAX.into()).map(|number| Field::I64(number.try_into().expect(narrow)))
        }
        Kind::Uint32 | Kind::Fixed32 => {
            whole(0, u32::MAX.into()).map(|number| Field::U32(number.try_into().expect(narrow)))
        }
        Kind::Uint64 | Kind::Fixed64 => {
            whole(0, u64::MAX.into()).map(|number| Field::U64(number.try_into().expect(narrow)))
        }
        Kind::Float => {
            let number = decimal(value).and_then(|text| text.parse::<f32>().ok());
            number.map(Field::F32).ok_or_else(|| expected(field, "a number", value))
        }
        Kind::Double => {
            let number = decimal(value).and_then(|text| text.parse::<f64>().ok());
            number.map(Field::F64).ok_or_else(|| expected(field, "a number", value))
        }
        Kind::Bytes => Err(expected(field, "nothing, for the schema has no bytes", value)),
    }
}

/// The text of a number, quoted or not.
fn decimal(value: &Value) -> Option<&str> {
    match &value.content {
        Content::Number(text) => Some(text),
        Content::String(text) => match text.as_str() {
            "NaN" | "Infinity" | "-Infinity" => Some(text),
            _ => Some(text.as_str()).filter(|text| text.starts_with(|c: char| c.is_ascii_digit() || c == '-')),
        },
        _ => None,
    }
}

/// A number without a fraction, however it is written: `8`, `"8"`, `8.0`, `8e0`.
fn whole_number(value: &Value) -> Option<i128> {
    let text = decimal(value)?;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let number: f64 = text.parse().ok()?;
    (number.fract() == 0.0 && number.abs() < 2f64.powi(64)).then_some(number as i128)
}

fn expected(field: &FieldDescriptor, expected: &str, value: &Value) -> Mistake {
    Mistake::new(value.at, format!("field '{}' expects {expected}, got {}", field.name(), value.describe()))
}
