//! Copies of requests to shadow versions.

use super::{
    family::{Family, Kind, Page},
    labels::LabelSet,
};

/// What a shadow version was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShadowSnapshot {
    /// Name of the model.
    pub model: String,
    /// The shadow version.
    pub version: u64,
    /// Copies of requests that it was sent.
    pub copies: u64,
    /// Copies that it was not sent, or that it did not take.
    pub refused: u64,
}

type Count = fn(&ShadowSnapshot) -> u64;

const OF_SHADOWS: [(&str, &str, Count); 2] = [
    ("tritonserver_shadow_copies", "Number of requests copied to a shadow version", |shadow| shadow.copies),
    (
        "tritonserver_shadow_copies_refused",
        "Number of copies that a shadow version was not sent, because too many were in flight, or did not take",
        |shadow| shadow.refused,
    ),
];

impl Page {
    /// Adds the copies to shadow versions, if there are such versions.
    pub fn add_shadow_copies(&mut self, shadows: &[ShadowSnapshot]) {
        if shadows.is_empty() {
            return;
        }
        for (name, help, value) in OF_SHADOWS {
            let numbers = shadows.iter().map(|it| (LabelSet::of_version(&it.model, it.version), value(it) as f64));
            self.families.push(Family::new(Kind::Counter, name, help).with(numbers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_to_shadow_versions_are_shown_where_there_are_such_versions() {
        let mut page = Page::default();
        page.add_shadow_copies(&[]);
        assert_eq!(page, Page::default());
        page.add_shadow_copies(&[ShadowSnapshot { model: "m".into(), version: 3, copies: 12, refused: 1 }]);
        let text = page.text();
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "tritonserver_shadow_copies{model=\"m\",version=\"3\"} 12",
                "tritonserver_shadow_copies_refused{model=\"m\",version=\"3\"} 1",
            ]
        );
    }
}
