//! Which models a measure is taken over. In a metrics API they are selected by the label `model`.

use std::collections::BTreeMap;

use kube_core::{Selector, SelectorExt};

/// Label by which a metric's selector names models.
pub const MODEL_LABEL: &str = "model";

/// A selection of models.
#[derive(Debug, Clone, Default)]
pub enum Models {
    /// Every model.
    #[default]
    All,
    /// Those of these names.
    Named(Vec<String>),
    /// Those whose label [`MODEL_LABEL`] fits.
    Selected(Selector),
}

impl Models {
    /// Whether every model is selected.
    pub fn are_all(&self) -> bool {
        match self {
            Self::All => true,
            Self::Named(_) => false,
            Self::Selected(selector) => selector.selects_all(),
        }
    }

    /// Whether a model is selected.
    pub fn select(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|it| it == name),
            Self::Selected(selector) => {
                selector.selects_all() || selector.matches(&BTreeMap::from([(MODEL_LABEL.to_owned(), name.to_owned())]))
            }
        }
    }
}
