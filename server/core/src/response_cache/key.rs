//! The key of a request: equal for requests that the same model answers alike, and for no others.
//!
//! A key is a BLAKE3 hash, for whoever chooses the inputs of requests must not be able to find two with one key: the second
//! would be given the answer to the first. Triton's own key has 64 bits and lacks types, shapes and the outputs asked for.

use std::{collections::BTreeSet, fmt};

use crate::{interface::Interface, request::InferRequest, tensor::Tensor};

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In hexadecimal.
impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What answers: a model version as it was loaded, with all that it is made of. Another one has other entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope([u8; 32]);

impl Scope {
    /// The scope of a model version whose content is `content`: different for each of two that may answer differently.
    pub fn new(model: &str, version: u64, content: &[u8]) -> Self {
        let mut hash = Hash::new(None);
        hash.text(model);
        hash.number(version);
        hash.text(content);
        Self(hash.finish())
    }

    /// The scope of an ensemble: its own, and those of the models that it is made of, in the order of its steps.
    pub fn of_ensemble(own: Self, steps: impl IntoIterator<Item = Self>) -> Self {
        let mut hash = Hash::new(None);
        hash.text(own.0);
        steps.into_iter().for_each(|step| hash.text(step.0));
        Self(hash.finish())
    }
}

/// The key of a checked request to what `scope` says. The same key have requests with the same inputs (name, type, shape,
/// bytes) in any order, that ask for the same outputs, in any order: for all of them by naming none, or each. Id, priority,
/// timeout, parameters and classification make no difference, as in Triton; classes are found in what is kept.
///
/// With a `secret`, nobody else can tell keys of requests. `None` for inputs that the host does not see.
pub fn cache_key(
    secret: Option<&[u8; 32]>,
    scope: &Scope,
    interface: &Interface,
    request: &InferRequest,
) -> Option<CacheKey> {
    let mut hash = Hash::new(secret);
    hash.text(scope.0);
    let mut inputs: Vec<&Tensor> = request.inputs.iter().collect();
    inputs.sort_by(|one, other| one.name.cmp(&other.name));
    hash.number(inputs.len() as u64);
    for input in inputs {
        hash.text(&*input.name);
        hash.text(input.data_type.wire_name());
        hash.number(input.shape.len() as u64);
        input.shape.iter().for_each(|&extent| hash.number(extent as u64));
        hash.text(input.data.as_host()?);
    }
    let mut outputs: BTreeSet<&str> = request.outputs.iter().map(|output| &*output.name).collect();
    if outputs.is_empty() {
        outputs.extend(interface.outputs.iter().map(|output| &*output.name));
    }
    hash.number(outputs.len() as u64);
    outputs.into_iter().for_each(|output| hash.text(output));
    Some(CacheKey(hash.finish()))
}

/// A hash of parts, each behind its length, so that no two lists of parts are one.
struct Hash(blake3::Hasher);

impl Hash {
    fn new(secret: Option<&[u8; 32]>) -> Self {
        Self(secret.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed))
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn text(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn finish(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use smallvec::smallvec;

    use super::*;
    use crate::{
        config,
        request::{Parameter, RequestedOutput, VersionChoice},
        tensor::DataType,
    };

    fn interface() -> Interface {
        let text = "name: 'm' backend: 'identity' max_batch_size: 8
            input [ { name: 'A' data_type: TYPE_UINT8 dims: [ -1 ] }, { name: 'B' data_type: TYPE_UINT8 dims: [ -1 ] } ]
            output [ { name: 'X' data_type: TYPE_UINT8 dims: [ -1 ] }, { name: 'Y' data_type: TYPE_UINT8 dims: [ -1 ] } ]";
        Interface::new(&config::from_text(text).unwrap(), 1, Default::default()).unwrap()
    }

    fn tensor(name: &str, shape: &[i64], data: &[u8]) -> Tensor {
        Tensor { name: name.into(), data_type: DataType::Uint8, shape: shape.into(), data: data.to_vec().into() }
    }

    fn request() -> InferRequest {
        InferRequest {
            model_name: "m".into(),
            model_version: VersionChoice::Latest,
            id: String::new(),
            inputs: smallvec![tensor("A", &[1, 2], b"ab"), tensor("B", &[1, 2], b"cd")],
            outputs: smallvec![],
            parameters: vec![],
            sequence: None,
            priority: 0,
            timeout: None,
            received_at: Instant::now(),
            callers: None,
            trace: None,
        }
    }

    fn wanted(names: &[&str]) -> smallvec::SmallVec<[RequestedOutput; 2]> {
        names.iter().map(|&name| RequestedOutput { name: name.into(), classification: 0, window: None }).collect()
    }

    fn key(change: impl FnOnce(&mut InferRequest)) -> CacheKey {
        let mut request = request();
        change(&mut request);
        cache_key(None, &Scope::new("m", 1, b""), &interface(), &request).unwrap()
    }

    #[test]
    fn what_says_nothing_about_the_answer_makes_no_other_key() {
        let plain = key(|_| ());
        assert_eq!(key(|request| request.inputs.reverse()), plain);
        assert_eq!(key(|request| request.id = "7".into()), plain);
        assert_eq!(key(|request| request.priority = 2), plain);
        assert_eq!(key(|request| request.parameters = vec![("a".into(), Parameter::Int(1))]), plain);
        assert_eq!(key(|request| request.outputs = wanted(&["Y", "X"])), plain, "all of them");
        assert_eq!(key(|request| request.outputs = wanted(&["X", "X", "Y"])), plain);
        let classes = |count| {
            key(|it| it.outputs = smallvec![RequestedOutput { name: "X".into(), classification: count, window: None }])
        };
        assert_eq!(classes(0), classes(3));
    }

    #[test]
    fn whatever_the_answer_depends_on_makes_another_key() {
        let keys = [
            key(|_| ()),
            key(|request| request.inputs[0].data = b"aB".to_vec().into()),
            key(|request| request.inputs[0].shape = smallvec![2, 1]),
            key(|request| request.inputs[0].data_type = DataType::Int8),
            key(|request| request.inputs[0].name = "C".into()),
            key(|request| request.inputs = smallvec![tensor("A", &[1, 2], b"cd"), tensor("B", &[1, 2], b"ab")]),
            key(|request| request.inputs.truncate(1)),
            // the same bytes in a row, cut elsewhere
            key(|request| request.inputs = smallvec![tensor("A", &[1, 3], b"abc"), tensor("B", &[1, 1], b"d")]),
            key(|request| request.outputs = wanted(&["X"])),
            key(|request| request.outputs = wanted(&["Y"])),
        ];
        let different: BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }

    #[test]
    fn scopes_and_secrets_keep_entries_apart() {
        let (interface, request) = (interface(), request());
        let (one, other) = (Scope::new("m", 1, b"1"), Scope::new("m", 1, b"2"));
        let scopes = [
            one,
            other,
            Scope::new("m", 2, b"1"),
            Scope::new("m2", 1, b"1"),
            Scope::of_ensemble(one, [other]),
            Scope::of_ensemble(one, [other, other]),
            Scope::of_ensemble(one, []),
            Scope::of_ensemble(other, [one]),
        ];
        let mut keys = BTreeSet::new();
        for scope in &scopes {
            for secret in [None, Some(&[0; 32]), Some(&[1; 32])] {
                keys.insert(cache_key(secret, scope, &interface, &request).unwrap());
            }
        }
        assert_eq!(keys.len(), scopes.len() * 3);
        let key = cache_key(None, &one, &interface, &request).unwrap();
        assert_eq!(key.to_string().len(), 64);
    }
}
