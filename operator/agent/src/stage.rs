//! From a source to a folder Triton can read: fetched, checked, arranged, given its configuration, put into the store.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use operator_core::{
    manifest::{ManifestModel, Precedence},
    render,
};
use server_core::config;

use crate::{
    fault::{Fault, Reason},
    layout::{self, CONFIG},
    source::{self, Fetched, Places, Progress, blocking},
    store::{Partial, Staged, Store},
    verify::{self, ContentHash},
};

/// Largest `config.pbtxt` read from a source.
const LARGEST_CONFIG: u64 = 16 << 20;

/// Brings what `model` wants into the store. Returns its content, and what its source was then.
///
/// `before` is what the same entry of the manifest came to last time; if its source has not changed since, that is it.
pub(crate) async fn stage(
    store: &Arc<Store>,
    model: &ManifestModel,
    before: Option<&Staged>,
    places: &Places,
    progress: &Arc<Progress>,
) -> Result<(ContentHash, Option<String>), Fault> {
    let revision = source::revision(model, places).await;
    if let Some(before) = before.filter(|before| revision.is_some() && before.revision == revision) {
        return Ok((before.content.clone(), revision));
    }
    let partial = {
        let store = Arc::clone(store);
        blocking(move || store.partial()).await?
    };
    let fetched = source::fetch(model, &partial.fetched(), &partial.download(), places, progress).await?;
    let (store, model, progress) = (Arc::clone(store), model.clone(), Arc::clone(progress));
    let content = blocking(move || {
        let content = assemble(&store, &model, &partial, fetched)?;
        progress.check()?;
        Ok(content)
    })
    .await?;
    Ok((content, revision))
}

/// Arranges the fetched files in the partial's model folder, with their configuration, and commits them.
fn assemble(store: &Store, model: &ManifestModel, partial: &Partial, fetched: Fetched) -> Result<ContentHash, Fault> {
    let invalid_config = |what: String| Fault::new(Reason::InvalidConfig, what);
    let found = config_in_source(&fetched, &partial.fetched())?;
    let found = found.as_deref().filter(|_| model.config.precedence == Precedence::Fields);
    let text = render::effective(&model.config, found).map_err(|error| invalid_config(error.to_string()))?;
    let config = config::from_text(&text).map_err(|error| invalid_config(error.to_string()))?;

    let paths = fetched.files.keys().map(String::as_str);
    let moves =
        layout::arrange(paths, fetched.is_bare, model.layout, model.format, Some(&config.default_model_filename))
            .map_err(|what| Fault::new(Reason::InvalidSource, what))?;
    let mut files = BTreeMap::new();
    for (from, to) in moves {
        if to == CONFIG {
            continue;
        }
        let target = partial.model().join(&to);
        relocate(&partial.fetched().join(&from), &target)
            .map_err(|error| Fault::store(format_args!("cannot move {to}"), &error))?;
        files.insert(to, fetched.files[&from]);
    }
    let path = partial.model().join(CONFIG);
    let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(()))?;
    files.insert(CONFIG.to_owned(), hash);
    if !files.keys().any(|path| path.split_once('/').is_some_and(|(top, _)| layout::is_version(top))) {
        // a model without files of its own, such as an ensemble, has a version all the same
        fs::create_dir_all(partial.model().join("1")).map_err(|error| Fault::store("cannot make version 1", &error))?;
    }
    store.commit(partial, &files)
}

/// The text of the source's own configuration.
fn config_in_source(fetched: &Fetched, folder: &Path) -> Result<Option<String>, Fault> {
    if fetched.is_bare {
        return Ok(None);
    }
    let Some(path) = layout::config_path(fetched.files.keys().map(String::as_str)) else { return Ok(None) };
    let unreadable = |what: String| Fault::new(Reason::InvalidConfig, format!("{CONFIG} in the source {what}"));
    let place = folder.join(path);
    let length = fs::metadata(&place).map_err(|error| unreadable(format!("cannot be read: {error}")))?.len();
    if length > LARGEST_CONFIG {
        return Err(unreadable(format!("is {length} bytes long")));
    }
    let bytes = fs::read(&place).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map(Some).map_err(|_| unreadable("is not UTF-8 text".to_owned()))
}

fn relocate(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)
}
