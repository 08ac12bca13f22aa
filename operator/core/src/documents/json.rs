//! JSON documents, one after the other, with or without anything between them: what YAML readers do not take. Each is read as
//! YAML, which JSON is, for the places of its fields; where a YAML reader takes offence it is read as JSON, with the place of
//! the document for all of it.

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value as Json};

use super::{
    Mistake,
    tree::{self, Entry, Node, Value},
};

/// Every document of `text`; none if it is not JSON as a whole.
pub(super) fn read_all(text: &str) -> Option<Result<Vec<Node>, Mistake>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut documents = Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut trees, mut start) = (vec![], 0);
    while let Some(document) = documents.next() {
        document.ok()?; // YAML then, such as JSON documents with `---` between them, or a mistake of the YAML reader's
        let end = documents.byte_offset();
        let skipped = text[start..end].len() - text[start..end].trim_start().len();
        let lines_before = text[..start + skipped].matches('\n').count();
        match read_one(&text[start + skipped..end], lines_before) {
            Ok(found) => trees.extend(found),
            Err(mistake) => return Some(Err(mistake)),
        }
        start = end;
    }
    Some(Ok(trees))
}

fn read_one(text: &str, lines_before: usize) -> Result<Vec<Node>, Mistake> {
    // a tab cannot be part of a text in JSON, and is no white space in YAML
    match tree::read_all(&text.replace('\t', " ")) {
        Ok(mut trees) => {
            trees.iter_mut().for_each(|tree| tree.move_down(lines_before));
            Ok(trees)
        }
        Err(mut mistake) => match serde_json::from_str::<Json>(text) {
            Ok(json) if !mistake.message.contains("stands twice") => Ok(vec![of_json(json, lines_before + 1)]),
            _ => {
                mistake.line += lines_before;
                Err(mistake)
            }
        },
    }
}

fn of_json(json: Json, line: usize) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => Value::Number(number),
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(|item| of_json(item, line)).collect()),
        Json::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, field)| !field.is_null());
            Value::Map(fields.map(|(key, field)| Entry { key, line, column: 1, node: of_json(field, line) }).collect())
        }
    };
    Node { line, column: 1, value }
}
