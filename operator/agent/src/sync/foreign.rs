//! What somebody else has had the server load: a model that the manifest does not have, or a configuration or files that the model's
//! folder does not have. Pure; the server's index says it.

use std::collections::BTreeMap;

use crate::load::Index;

/// What is seen in `index`, by model, each in one sentence. `is_ours`: the repository or the ledger has the model, which may be
/// leaving.
pub(super) fn seen(
    index: &Index,
    is_wanted: impl Fn(&str) -> bool,
    is_ours: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let of = |name: &str| match index.overridden(name) {
        Some("files") => {
            Some(format!("somebody else has loaded model '{name}' with files and a configuration of his own"))
        }
        Some(_) => Some(format!("somebody else has loaded model '{name}' with a configuration of his own")),
        None if is_wanted(name) || is_ours(name) => None,
        None => Some(format!("somebody else has loaded model '{name}', which no TritonModel asks for")),
    };
    index.serving().filter_map(|name| Some((name.to_owned(), of(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_loaded_is_told_from_what_is_ours_or_leaving() {
        let index = Index::parse(
            br#"[{"name":"ours","version":"1","state":"READY"},{"name":"leaving","version":"1","state":"READY"},
                 {"name":"strange","version":"1","state":"READY"},{"name":"gone","version":"1","state":"UNAVAILABLE"},
                 {"name":"files","version":"3","state":"READY","override":"files"},
                 {"name":"config","version":"1","state":"READY","override":"config"}]"#,
        )
        .unwrap();
        let is_wanted = |name: &str| ["ours", "files", "config"].contains(&name);
        let seen = seen(&index, is_wanted, |name| name == "leaving");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["config", "files", "strange"]);
        assert!(seen["files"].contains("with files") && !seen["config"].contains("files"));
        assert!(seen["strange"].contains("no TritonModel asks for"));
    }
}
