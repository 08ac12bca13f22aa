//! A YAML document as a tree that remembers where each part was written.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value as Json};
use serde_yaml::{Budget, Options, Spanned};

use super::Mistake;
use crate::path::Step;

/// A part of a document and its place, from 1.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) value: Value,
}

/// What a part is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key is written.
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) node: Node,
}

/// Every document of `text` that holds anything. Fields without a value are left out, as `kubectl apply` leaves them out.
pub(super) fn read_all(text: &str) -> Result<Vec<Node>, Mistake> {
    let options = serde_yaml::options! { budget: budget(text.len()), with_snippet: false };
    let trees: Result<Vec<Node>, _> = read(text, options);
    let without_nulls = |mut trees: Vec<Node>| {
        trees.iter_mut().for_each(Node::drop_nulls);
        trees
    };
    trees.map(without_nulls).map_err(|error| {
        let place = error.location();
        Mistake {
            line: place.as_ref().map_or(1, |place| number(place.line())),
            column: place.as_ref().map_or(1, |place| number(place.column())),
            resource: String::new(),
            path: String::new(),
            message: for_people(&error),
        }
    })
}

fn read(text: &str, options: Options) -> Result<Vec<Node>, serde_yaml::Error> {
    serde_yaml::from_multiple_with_options(text, options)
}

/// The reader's guards against bombs, with space for files carried in a document: a scalar may be as long as the text.
fn budget(bytes: usize) -> Option<Budget> {
    let mut budget = Budget::default();
    budget.max_total_scalar_bytes = budget.max_total_scalar_bytes.max(bytes);
    Some(budget)
}

/// The error for people: without its place, which is shown beside it, and without advice to programmers.
fn for_people(error: &serde_yaml::Error) -> String {
    if let serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return format!("field '{key}' stands twice: keep one of the two");
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.rfind(" at line ").map_or(line, |place| &line[..place]);
    format!("this is not YAML that can be read: {line}")
}

impl Node {
    /// The node a path leads to, as far as it goes: the place of the last key on the way.
    pub(super) fn nearest(&self, steps: &[Step]) -> (usize, usize) {
        let mut place = (self.line, self.column);
        let mut node = self;
        for step in steps {
            match (step, &node.value) {
                (Step::Key(name), Value::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *name) else { break };
                    place = (entry.line, entry.column);
                    node = &entry.node;
                }
                (Step::Index(at), Value::List(items)) => {
                    let Some(item) = items.get(*at) else { break };
                    place = (item.line, item.column);
                    node = item;
                }
                _ => break,
            }
        }
        place
    }

    /// The text at the end of a way of keys.
    pub(super) fn text_at(&self, keys: &[&str]) -> Option<&str> {
        match &self.at(keys)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The field at the end of a way of keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| {
            let Value::Map(entries) = &node.value else { return None };
            entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.node)
        })
    }

    /// Leaves out fields without a value. An item of a list without one stays.
    fn drop_nulls(&mut self) {
        match &mut self.value {
            Value::Map(entries) => {
                entries.retain(|entry| !matches!(entry.node.value, Value::Null));
                entries.iter_mut().for_each(|entry| entry.node.drop_nulls());
            }
            Value::List(items) => items.iter_mut().for_each(Self::drop_nulls),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// Counts that many lines more in front of it.
    pub(super) fn move_down(&mut self, lines: usize) {
        self.line += lines;
        match &mut self.value {
            Value::Map(entries) => {
                for entry in entries {
                    entry.line += lines;
                    entry.node.move_down(lines);
                }
            }
            Value::List(items) => items.iter_mut().for_each(|item| item.move_down(lines)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// The same as JSON.
    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect::<Map<_, _>>().into()
            }
        }
    }
}

// === reading ===

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let (line, column) = (number(spanned.referenced.line()), number(spanned.referenced.column()));
        Ok(Self { line, column, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = vec![];
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut entries = vec![];
        while let Some(key) = fields.next_key::<Spanned<String>>()? {
            let node = fields.next_value()?;
            let (line, column) = (number(key.referenced.line()), number(key.referenced.column()));
            entries.push(Entry { key: key.value, line, column, node });
        }
        Ok(Value::Map(entries))
    }
}

fn number(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
