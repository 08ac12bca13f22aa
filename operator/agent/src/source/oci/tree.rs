//! The layers of an image, one upon the other: which file of which layer is at a path in the end. Pure: it sees names only.
//!
//! Source: the OCI image specification, "Image Layer Filesystem Changeset".

use std::collections::BTreeMap;

use crate::verify;

/// Before the name of what a layer takes away.
const WHITEOUT: &str = ".wh.";
/// The layer takes away all that is in this folder.
const OPAQUE: &str = ".wh..wh..opq";
/// Folder of an image that holds models, by convention.
const MODELS: &str = "models";
/// What the root of an operating system has, and that of a model has not.
const OF_SYSTEMS: [&str; 6] = ["bin", "etc", "lib", "sbin", "usr", "var"];
/// Links that are followed for one path.
const LINKS_MAX: usize = 40;
/// How deep the folders of a model may be.
const DEEPEST: usize = 32;

/// What all layers of an image may have together: names are kept in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Files, folders and links.
    pub(super) entries: usize,
    /// Bytes of their names.
    pub(super) names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 300_000, names: 32 << 20 }
    }
}

/// What a layer has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The path, as the layer writes it.
    pub(super) path: String,
    /// What is there.
    pub(super) kind: Kind,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A folder.
    Folder,
    /// A file with content of its own.
    File,
    /// Another name of a file.
    HardLink(String),
    /// A path that leads to another one.
    SymbolicLink(String),
    /// A device, a pipe, or whatever else.
    Other,
}

/// Where the content of a file is: the layer, and the number of the entry in it. Both from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) entry: usize,
}

#[derive(Debug, Clone)]
enum Node {
    Folder,
    File(Place),
    Link(String),
    Other,
}

/// What is at each path once some layers lie upon one another.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
    entries: usize,
    names: usize,
}

impl Tree {
    /// Puts a layer upon those that are there.
    ///
    /// Errors: a path leads out of the image; too much of it. A sentence.
    pub(super) fn add(
        &mut self,
        layer: usize,
        entries: &[Entry],
        has_whiteouts: bool,
        bounds: &Bounds,
    ) -> Result<(), String> {
        self.entries += entries.len();
        self.names += entries.iter().map(|entry| entry.path.len()).sum::<usize>();
        if self.entries > bounds.entries || self.names > bounds.names {
            return Err(format!(
                "has more than {} files, or more than {} bytes of names: build one that has the model alone",
                bounds.entries, bounds.names
            ));
        }
        let paths: Vec<String> = entries.iter().map(|entry| plain(&entry.path)).collect::<Result<_, _>>()?;
        let is_marker = |path: &str| has_whiteouts && name_of(path).starts_with(WHITEOUT);
        // markers are about the layers below, wherever in their own layer they stand
        for path in paths.iter().filter(|path| is_marker(path)) {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            match name_of(path) {
                OPAQUE => self.remove_below(folder),
                name => self.remove(&join(folder, &name[WHITEOUT.len()..])),
            }
        }
        for (number, (entry, path)) in entries.iter().zip(paths).enumerate() {
            if path.is_empty() || is_marker(&path) {
                continue;
            }
            let node = match &entry.kind {
                Kind::Folder => Node::Folder,
                Kind::File => Node::File(Place { layer, entry: number }),
                Kind::SymbolicLink(target) => Node::Link(target.clone()),
                Kind::HardLink(target) => match self.nodes.get(&plain(target)?) {
                    Some(Node::File(place)) => Node::File(*place),
                    Some(Node::Link(target)) => Node::Link(target.clone()),
                    _ => Node::Other, // told only if somebody wants it
                },
                Kind::Other => Node::Other,
            };
            self.put(path, node);
        }
        Ok(())
    }

    /// Puts a layer that is one file.
    pub(super) fn add_file(&mut self, layer: usize, path: &str) {
        self.put(path.to_owned(), Node::File(Place { layer, entry: 0 }));
    }

    /// The files of the model: those below `/models` if there are any, else all. By their path below that folder.
    ///
    /// Errors: it is the image of a system without a folder of models; a link leads out of the folder or in circles; a name that no
    /// model's file can have; more than `most` files. A sentence.
    pub(super) fn model(&self, is_image: bool, most: usize) -> Result<BTreeMap<String, Place>, String> {
        let has_models = is_image
            && matches!(self.nodes.get(MODELS), Some(Node::Folder))
            && self.below(MODELS).any(|(_, node)| !matches!(node, Node::Folder));
        let root = if has_models { MODELS } else { "" };
        if !has_models
            && let Some(of_system) = OF_SYSTEMS.iter().find(|name| is_image && self.nodes.contains_key(**name))
        {
            return Err(format!(
                "has no files in /models, and its root is no model: it has /{of_system}; put the model's files into /models"
            ));
        }
        let mut walk = Walk { tree: self, root, most, files: BTreeMap::new(), visits: 0 };
        walk.folder(root, "", 0)?;
        if walk.files.is_empty() {
            return Err("has no files".to_owned());
        }
        Ok(walk.files)
    }

    fn put(&mut self, path: String, node: Node) {
        // what lies above a file is a folder, whatever the layers below have there
        for (at, _) in path.match_indices('/') {
            if !matches!(self.nodes.get(&path[..at]), Some(Node::Folder)) {
                self.nodes.insert(path[..at].to_owned(), Node::Folder);
            }
        }
        if !matches!(node, Node::Folder) {
            self.remove_below(&path);
        }
        self.nodes.insert(path, node);
    }

    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, folder: &str) {
        let below: Vec<String> = self.below(folder).map(|(path, _)| path.to_owned()).collect();
        for path in below {
            self.nodes.remove(&path);
        }
    }

    /// All below a folder, however deep.
    fn below(&self, folder: &str) -> impl Iterator<Item = (&str, &Node)> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let from = self.nodes.range(prefix.clone()..);
        from.take_while(move |(path, _)| path.starts_with(&prefix)).map(|(path, node)| (path.as_str(), node))
    }

    /// The path with all its links followed. Errors: it leads out of `root`, in circles, or nowhere.
    fn resolve(&self, path: &str, root: &str) -> Result<String, String> {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut found = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found = found.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
                    continue;
                }
                _ => found = join(&found, &part),
            }
            if let Some(Node::Link(target)) = self.nodes.get(&found) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(format!("has a link, '{path}', that leads in circles"));
                }
                found = match target.starts_with('/') {
                    true => String::new(),
                    false => found.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned()),
                };
                left.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        let is_inside =
            root.is_empty() || found == root || found.strip_prefix(root).is_some_and(|it| it.starts_with('/'));
        match self.nodes.contains_key(&found) || found.is_empty() {
            _ if !is_inside => Err(format!("has a link, '{path}', that leads out of the model's folder")),
            true => Ok(found),
            false => Err(format!("has a link, '{path}', that leads nowhere")),
        }
    }
}

/// Gathers the files below a folder.
struct Walk<'a> {
    tree: &'a Tree,
    root: &'a str,
    most: usize,
    files: BTreeMap<String, Place>,
    visits: usize,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &str, shown: &str, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("has a folder, '{shown}', that is too deep, or its links lead in circles"));
        }
        let prefix = if folder.is_empty() { 0 } else { folder.len() + 1 };
        let tree = self.tree;
        for (path, node) in tree.below(folder).filter(|(path, _)| !path[prefix..].contains('/')) {
            self.visits += 1;
            if self.visits > 4 * self.most {
                return Err(format!("has more than {} files, or links that lead in circles", self.most));
            }
            let shown = join(shown, &path[prefix..]);
            let (real, node) = match node {
                Node::Link(_) => {
                    let real = tree.resolve(path, self.root)?;
                    let node = tree.nodes.get(&real).unwrap_or(&Node::Folder);
                    (real, node)
                }
                node => (path.to_owned(), node),
            };
            match node {
                Node::Folder => self.folder(&real, &shown, depth + 1)?,
                Node::File(place) => {
                    if shown.contains(char::REPLACEMENT_CHARACTER) {
                        return Err(format!("has a file, '{shown}', whose name is not UTF-8"));
                    }
                    let path = verify::clean_path(&shown).map_err(|wrong| format!("has a file of which {wrong}"))?;
                    self.files.insert(path, *place);
                    if self.files.len() > self.most {
                        return Err(format!("has more than {} files", self.most));
                    }
                }
                Node::Link(_) | Node::Other => {
                    return Err(format!("has '{shown}', which is neither a file nor a folder"));
                }
            }
        }
        Ok(())
    }
}

/// A path of a layer without what means nothing: `./a//b/` is `a/b`.
fn plain(path: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("has an entry '{}' that leads out of it", path.escape_debug())),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries by a short text: `a/` a folder, `a` a file, `a -> b` a link, `a = b` a hard link, `a !` a device.
    fn entries(text: &[&str]) -> Vec<Entry> {
        let entry = |text: &&str| {
            let (path, kind) = if let Some((path, target)) = text.split_once(" -> ") {
                (path, Kind::SymbolicLink(target.to_owned()))
            } else if let Some((path, target)) = text.split_once(" = ") {
                (path, Kind::HardLink(target.to_owned()))
            } else if let Some(path) = text.strip_suffix(" !") {
                (path, Kind::Other)
            } else if text.ends_with('/') {
                (*text, Kind::Folder)
            } else {
                (*text, Kind::File)
            };
            Entry { path: path.to_owned(), kind }
        };
        text.iter().map(entry).collect()
    }

    fn tree(layers: &[&[&str]]) -> Tree {
        let mut tree = Tree::default();
        for (number, layer) in layers.iter().enumerate() {
            tree.add(number, &entries(layer), true, &Bounds::default()).unwrap();
        }
        tree
    }

    #[track_caller]
    fn check(layers: &[&[&str]], expect: &[&str]) {
        let files = tree(layers).model(true, 100).unwrap();
        let found: Vec<String> =
            files.iter().map(|(path, place)| format!("{path} {}.{}", place.layer, place.entry)).collect();
        assert_eq!(found, expect);
    }

    #[track_caller]
    fn refused(layers: &[&[&str]], saying: &str) {
        let error = tree(layers).model(true, 100).unwrap_err();
        assert!(error.contains(saying), "{error}");
    }

    #[test]
    fn the_folder_of_models_is_taken_and_the_system_around_it_is_not() {
        let system = &["bin/", "bin/sh -> busybox", "etc/passwd", "dev/null !", "lib -> usr/lib"][..];
        check(
            &[system, &["models/", "models/1/", "models/1/model.onnx", "models/config.pbtxt"]],
            &["1/model.onnx 1.2", "config.pbtxt 1.3"],
        );
        refused(&[system], "it has /bin; put the model's files into /models");
        refused(&[system, &["models/"]], "put the model's files into /models");
        check(&[&["./config.pbtxt", "./1/model.onnx"]], &["1/model.onnx 0.1", "config.pbtxt 0.0"]);
        refused(&[&[]], "has no files");
    }

    #[test]
    fn a_layer_replaces_and_takes_away_what_lies_below_it() {
        check(&[&["models/a", "models/b"], &["models/a"]], &["a 1.0", "b 0.1"]);
        check(&[&["models/a", "models/b"], &["models/.wh.a"]], &["b 0.1"]);
        check(&[&["models/1/a", "models/2/b"], &["models/.wh.1"]], &["2/b 0.1"]);
        // a marker is about lower layers, also where it comes after the file
        check(&[&["models/a", "models/b"], &["models/b", "models/.wh..wh..opq"]], &["b 1.0"]);
        check(&[&["models/a", "models/b"], &["models/.wh.a", "models/a"]], &["a 1.1", "b 0.1"]);
        // a folder gives way to a file and the other way round
        check(&[&["models/a/x"], &["models/a"]], &["a 1.0"]);
        check(&[&["models/a"], &["models/a/x"]], &["a/x 1.0"]);
        check(&[&["models/a/x"], &["models/a/"]], &["a/x 0.0"]);
    }

    #[test]
    fn markers_mean_nothing_outside_of_images() {
        let mut tree = Tree::default();
        tree.add(0, &entries(&["a", ".wh.a"]), false, &Bounds::default()).unwrap();
        tree.add_file(1, "1/b");
        let files = tree.model(false, 100).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), [".wh.a", "1/b", "a"]);
    }

    #[test]
    fn links_inside_lead_to_their_files() {
        check(&[&["models/blobs/x", "models/1/model.onnx -> ../blobs/x"]], &["1/model.onnx 0.0", "blobs/x 0.0"]);
        check(&[&["models/a", "models/b = models/a", "models/c -> /models/b"]], &["a 0.0", "b 0.0", "c 0.0"]);
        check(&[&["models/1/x", "models/latest -> 1"]], &["1/x 0.0", "latest/x 0.0"]);
        check(&[&["models/real/x", "models/way -> real", "models/y -> way/x"]], &["real/x 0.0", "way/x 0.0", "y 0.0"]);
    }

    #[test]
    fn links_that_lead_out_nowhere_or_in_circles_are_refused() {
        refused(&[&["etc/passwd", "models/a -> /etc/passwd"]], "leads out of the model's folder");
        refused(&[&["etc/passwd", "models/a -> ../../../../etc/passwd"]], "leads out of the model's folder");
        refused(&[&["models/a -> /"]], "leads out");
        refused(&[&["models/a -> absent"]], "leads nowhere");
        refused(&[&["models/a -> b", "models/b -> a"]], "in circles");
        refused(&[&["models/x", "models/a -> .", "models/b -> ."]], "circles");
        refused(&[&["models/a = models/absent"]], "neither a file nor a folder");
        refused(&[&["models/null !"]], "neither a file nor a folder");
    }

    #[test]
    fn names_and_numbers_are_bounded() {
        let mut tree = Tree::default();
        let error = tree.add(0, &entries(&["models/../../evil"]), true, &Bounds::default()).unwrap_err();
        assert!(error.contains("leads out of it"), "{error}");
        let bounds = Bounds { entries: 3, ..Bounds::default() };
        tree.add(0, &entries(&["a", "b"]), true, &bounds).unwrap();
        assert!(tree.add(1, &entries(&["c", "d"]), true, &bounds).unwrap_err().contains("more than 3 files"));
        let bounds = Bounds { names: 10, ..Bounds::default() };
        assert!(Tree::default().add(0, &entries(&["a long name"]), true, &bounds).is_err());
        assert!(super::Tree::default().model(true, 1).is_err());
        refused(&[&["models/a\u{fffd}"]], "not UTF-8");
        refused(&[&["models/a\nb"]], "no file name should have");
        let files: Vec<String> = (0..101).map(|number| format!("models/{number}")).collect();
        refused(&[&files.iter().map(String::as_str).collect::<Vec<_>>()], "more than 100 files");
    }
}
