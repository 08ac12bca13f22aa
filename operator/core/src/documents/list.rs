//! Lists, as `kubectl get -o yaml` prints them and `kubectl apply` takes them: their items are documents of their own. A List of
//! Lists is one of all their items.

use super::{
    Mistake,
    tree::{Entry, Node, Value},
};

/// `trees` with the items of Lists in their place. A List that has none adds nothing.
pub(super) fn items(trees: Vec<Node>, mistakes: &mut Vec<Mistake>) -> Vec<Node> {
    let mut found = vec![];
    for tree in trees {
        add(tree, &mut found, mistakes);
    }
    found
}

fn add(tree: Node, found: &mut Vec<Node>, mistakes: &mut Vec<Mistake>) {
    let (Some(api_version), Some(kind)) = (tree.text_at(&["apiVersion"]), tree.text_at(&["kind"])) else {
        return found.push(tree);
    };
    let Some(kind_of_items) = kind.strip_suffix("List") else { return found.push(tree) };
    let (api_version, kind_of_items) = (api_version.to_owned(), kind_of_items.to_owned());
    let Value::Map(entries) = tree.value else { return };
    let Some(items) = entries.into_iter().find(|entry| entry.key == "items") else { return };
    let Value::List(list) = items.node.value else {
        return mistakes.push(Mistake {
            line: items.line,
            column: items.column,
            resource: String::new(),
            path: "items".into(),
            message: "is no list: write the resources below it, each with a dash in front".into(),
        });
    };
    for mut item in list {
        // items of a list of one kind leave out what they are
        if !kind_of_items.is_empty() && item.at(&["kind"]).is_none() {
            item.set_text("kind", &kind_of_items);
            item.set_text("apiVersion", &api_version);
        }
        add(item, found, mistakes);
    }
}

impl Node {
    /// Adds a field to a map, as if it were written where the map begins.
    fn set_text(&mut self, key: &str, text: &str) {
        let (line, column) = (self.line, self.column);
        if let Value::Map(entries) = &mut self.value
            && !entries.iter().any(|entry| entry.key == key)
        {
            let node = Self { line, column, value: Value::Text(text.to_owned()) };
            entries.push(Entry { key: key.to_owned(), line, column, node });
        }
    }
}
