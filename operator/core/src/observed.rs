//! What was fetched before deciding. Decisions get it handed in, so that the same resources and the same surroundings give
//! the same answer, whoever asks and how often.

use crate::Manifest;

/// What surrounds a server at the moment of deciding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The manifest the pods were last told, if there is one. A model whose newer form is wrong goes on as it stands there.
    pub manifest: Option<Manifest>,
}
