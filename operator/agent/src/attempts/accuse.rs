//! Which contents the end of a server process is held against. Pure.
//!
//! | what was open in the process | held against |
//! |---|---|
//! | contents in rollout that ended servers before, among others | these |
//! | contents in rollout, being loaded or not settled, among others | all of these |
//! | only proven contents, being loaded | all of these |
//! | nothing | none: the end is unexplained |
//!
//! Contents accused together are loaded one at a time from then on, so that the second end is that of the guilty one alone.

use std::collections::{BTreeMap, BTreeSet};

use super::note::{Note, Open, Stage};
use crate::verify::ContentHash;

/// Of all contents, those that the end of the process is held against.
pub(super) fn accused(contents: &BTreeMap<ContentHash, Note>) -> BTreeSet<ContentHash> {
    let mut groups: [BTreeSet<ContentHash>; 3] = Default::default();
    for (content, note) in contents {
        let group = match note.open {
            Some(open) if open.is_unproven() && note.crashes > 0 => 0,
            Some(open) if open.is_unproven() => 1,
            Some(Open { stage: Stage::Loading, .. }) => 2,
            Some(Open { stage: Stage::Settling, .. }) | None => continue,
        };
        groups[group].insert(content.clone());
    }
    groups.into_iter().find(|group| !group.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter for each content: `L` and `S` are in rollout and loading or settling, `l` is proven and loading; `!` after it: it has
    /// ended a server before.
    #[track_caller]
    fn check(open: &str, expect: &str) {
        let mut contents = BTreeMap::new();
        for (number, word) in open.split(' ').enumerate() {
            let stage = if word.starts_with('S') { Stage::Settling } else { Stage::Loading };
            let open = Open { stage, settle_ms: (!word.starts_with('l')).then_some(10_000) };
            let note = Note { crashes: u32::from(word.ends_with('!')), open: Some(open), ..Note::default() };
            contents.insert(content(number), note);
        }
        contents.insert(content(99), Note { crashes: 1, ..Note::default() });
        let numbers =
            expect.split(' ').filter(|number| !number.is_empty()).map(|number| content(number.parse().unwrap()));
        assert_eq!(accused(&contents), numbers.collect(), "{open}");
    }

    fn content(number: usize) -> ContentHash {
        ContentHash::from_name(&format!("sha256-{number:064}")).unwrap()
    }

    #[test]
    fn what_is_in_rollout_is_accused_before_what_is_proven() {
        check("l l L", "2");
        check("l S l", "1");
        check("L S l", "0 1");
    }

    #[test]
    fn what_ended_a_server_before_is_accused_before_what_did_not() {
        check("S! L l", "0");
        check("L! S! S", "0 1");
    }

    #[test]
    fn proven_contents_are_accused_only_while_they_load_and_nothing_is_in_rollout() {
        check("l l", "0 1");
        assert!(accused(&BTreeMap::new()).is_empty());
    }
}
