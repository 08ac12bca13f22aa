//! From a source to a folder Triton can read: fetched, checked, arranged, given its configuration, put into the store.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use operator_core::{
    manifest::{ManifestModel, Precedence},
    model_file, render,
};
use server_core::config::{self, ModelConfig};

use crate::{
    fault::{Fault, Reason},
    files::blocking,
    layout::{self, CONFIG, Said},
    source::{self, Fetched, Places, Progress},
    store::{Origin, Partial, Pinned, Staged, Store},
    verify::{self, Files},
};

/// Largest `config.pbtxt` read from a source.
const LARGEST_CONFIG: u64 = 16 << 20;

/// File in a model's folder with the user's word for an attempt of his asking. It makes a content of its own of files that have
/// failed before, so that nothing of what is remembered of those stands against it; servers pass over files with such names.
const RETRY: &str = ".retry";

/// Longest `config.pbtxt` of a source that is remembered; a model with a longer one is fetched again for any change.
const LONGEST_REMEMBERED_CONFIG: usize = 64 << 10;

/// Brings what `model` wants into the store, for the entry and state of its source that `key` says.
///
/// The content is pinned until the caller has noted it. `last` is what was staged for the model before. If it was the same entry, and its source has not changed since, that is it. If
/// only settings have changed that a serving model follows, the files are taken from there: nothing is fetched, and the server sees
/// the files it has.
pub(crate) async fn stage(
    store: &Arc<Store>,
    model: &ManifestModel,
    key: &str,
    last: Option<Staged>,
    places: &Places,
    progress: &Arc<Progress>,
) -> Result<(Staged, Option<Pinned>), Fault> {
    let revision = source::revision(model, places).await;
    if let Some(last) = last.as_ref().filter(|last| last.key == key && revision.is_some() && last.revision == revision)
    {
        return Ok((last.clone(), None));
    }
    let files_key = source::files_key(model, places);
    let staged = |pinned: Pinned, origin| {
        let (key, content) = (key.to_owned(), pinned.content().clone());
        (Staged { key, revision: revision.clone(), content, origin }, Some(pinned))
    };
    let is_of_same_files = |last: &Staged| {
        last.key != key
            && last.revision == revision
            && last.origin.as_ref().is_some_and(|origin| origin.key == files_key)
    };
    if let Some(last) = last.filter(is_of_same_files) {
        let (store, model) = (Arc::clone(store), model.clone());
        let origin = last.origin.clone();
        if let Some(content) = blocking(move || with_other_settings(&store, &model, &last)).await? {
            return Ok(staged(content, origin));
        }
    }
    let by_another = || {
        let (store, key, revision) = (Arc::clone(store), key.to_owned(), revision.clone());
        blocking(move || Ok(store.staged_by_another(&key, revision.as_deref())))
    };
    // of the replicas that share a store, one fetches
    let _turn = store.turn(key, progress).await?;
    if let Some((staged, pinned)) = by_another().await? {
        tracing::info!(model = model.name, content = staged.content.short(), "another replica has fetched it");
        return Ok((staged, Some(pinned)));
    }
    let (partial, fetched) = fetch(store, model, places, progress).await?;
    let of_all = Arc::clone(store);
    let (store, model, progress) = (Arc::clone(store), model.clone(), Arc::clone(progress));
    let (content, config) = blocking(move || {
        let config = config_in_source(&fetched, &partial.fetched())?;
        let content = assemble(&store, &model, &partial, fetched, config.as_deref(), &progress)?;
        progress.check()?;
        Ok((content, config))
    })
    .await?;
    let is_short = config.as_ref().is_none_or(|config| config.len() <= LONGEST_REMEMBERED_CONFIG);
    let (staged, pinned) = staged(content, is_short.then_some(Origin { key: files_key, config }));
    let (told, kept) = (staged.clone(), Arc::clone(&of_all));
    blocking(move || {
        kept.tell_others(&told);
        Ok(())
    })
    .await?;
    Ok((staged, pinned))
}

/// Fetches the files of `model` into a folder of the store.
async fn fetch(
    store: &Arc<Store>,
    model: &ManifestModel,
    places: &Places,
    progress: &Arc<Progress>,
) -> Result<(Partial, Fetched), Fault> {
    let store = Arc::clone(store);
    let partial = blocking(move || store.partial()).await?;
    let (into, beside) = (partial.fetched(), partial.download());
    let filling = Filling(Some(partial));
    let fetched = source::fetch(model, &into, &beside, places, progress).await;
    let partial = filling.end();
    match fetched {
        Ok(fetched) => Ok((partial, fetched)),
        Err(fault) => {
            blocking(move || {
                drop(partial);
                Err(fault)
            })
            .await
        }
    }
}

/// A folder that is fetched into. Dropped before the end, threads may be writing to it: it is left to the next sweep.
struct Filling(Option<Partial>);

impl Filling {
    fn end(mut self) -> Partial {
        self.0.take().expect("taken once, at the end")
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if let Some(partial) = self.0.take() {
            partial.leave();
        }
    }
}

/// The content that has the files of `last` and the configuration of `model`, if they differ only in settings that a serving model
/// follows. `None` if they differ in more, or if the disk cannot share files between folders.
fn with_other_settings(store: &Store, model: &ManifestModel, last: &Staged) -> Result<Option<Pinned>, Fault> {
    let before = store.content(&last.content);
    let in_source = last.origin.as_ref().and_then(|origin| origin.config.as_deref());
    let text = effective(model, in_source)?;
    let (Ok(old), Some(mut files)) = (fs::read_to_string(before.join(CONFIG)), store.files(&last.content)) else {
        return Ok(None);
    };
    let fixed = |text: &str| config::from_text(text).ok().map(|config| config::without_settings(&config));
    if fixed(&old) != fixed(&text) {
        return Ok(None);
    }
    let partial = store.partial()?;
    files.remove(RETRY);
    for path in files.keys().filter(|path| *path != CONFIG) {
        let target = partial.model().join(path);
        let shared =
            target.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::hard_link(before.join(path), &target));
        if let Err(error) = shared {
            tracing::debug!(model = model.name, path, %error, "the file cannot be shared: the model is fetched again");
            return Ok(None);
        }
    }
    finish(store, model, &partial, &mut files, &text).map(Some)
}

/// The configuration that the server gets.
fn effective(model: &ManifestModel, in_source: Option<&str>) -> Result<String, Fault> {
    let found = in_source.filter(|_| model.config.precedence == Precedence::Fields);
    render::effective(&model.config, found).map_err(|error| Fault::new(Reason::InvalidConfig, error.to_string()))
}

/// Arranges the fetched files in the partial's model folder, with their configuration, and commits them.
fn assemble(
    store: &Store,
    model: &ManifestModel,
    partial: &Partial,
    fetched: Fetched,
    config_in_source: Option<&str>,
    progress: &Progress,
) -> Result<Pinned, Fault> {
    let text = effective(model, config_in_source)?;
    let config = config::from_text(&text).map_err(|error| Fault::new(Reason::InvalidConfig, error.to_string()))?;

    let paths = fetched.files.keys().map(String::as_str);
    let moves = layout::arrange(paths, fetched.is_bare, &said(model, &config))
        .map_err(|what| Fault::new(Reason::InvalidSource, what))?;
    let mut files = BTreeMap::new();
    for (from, to) in moves {
        if to == CONFIG || to == RETRY {
            continue;
        }
        progress.check()?;
        let target = partial.model().join(&to);
        relocate(&partial.fetched().join(&from), &target)
            .map_err(|error| Fault::store(format_args!("cannot move {to}"), &error))?;
        files.insert(to, fetched.files[&from]);
    }
    finish(store, model, partial, &mut files, &text)
}

/// What `model` and its whole configuration say of the files.
fn said<'a>(model: &ManifestModel, config: &'a ModelConfig) -> Said<'a> {
    let backend = config::backend_name(config);
    let format = model.format.or_else(|| model_file::format_of_backend(backend));
    let file_name = config.default_model_filename.as_str();
    let is_foreign = format.is_none() && !backend.is_empty() && file_name.is_empty();
    Said { layout: model.layout, format, file_name, keeps_names: is_foreign || !config.cc_model_filenames.is_empty() }
}

/// Puts the configuration beside the files, and the whole into the store.
fn finish(
    store: &Store,
    model: &ManifestModel,
    partial: &Partial,
    files: &mut Files,
    text: &str,
) -> Result<Pinned, Fault> {
    let own = [(CONFIG, Some(text)), (RETRY, model.retry.as_deref())];
    for (name, text) in own.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        let path = partial.model().join(name);
        let hash = verify::write_file(&path, &mut text.as_bytes(), false, Reason::StoreFailed, |_| Ok(()))?;
        files.insert(name.to_owned(), hash);
    }
    if !files.keys().any(|path| layout::version_of(path).is_some()) {
        // a model without files of its own, such as an ensemble, has a version all the same
        fs::create_dir_all(partial.model().join("1")).map_err(|error| Fault::store("cannot make version 1", &error))?;
    }
    store.commit(partial, files)
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
        return Err(unreadable(format!("is {length} bytes long, the most is {LARGEST_CONFIG}")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_keeps_names(format: Option<&str>, config: &str, expect: bool) {
        let model: ManifestModel = serde_json::from_value(serde_json::json!({
            "name": "m", "resource": "m", "source": { "http": { "uri": "https://models/m" } }, "layout": "Auto",
            "format": format, "config": { "text": "", "precedence": "Fields" }, "readiness": "Required",
            "load": { "timeout": "60s", "retries": 0, "backoff": "1s" },
        }))
        .unwrap();
        assert_eq!(said(&model, &config::from_text(config).unwrap()).keeps_names, expect, "{format:?} {config}");
    }

    #[test]
    fn only_files_of_our_backends_are_renamed() {
        check_keeps_names(None, "", false);
        check_keeps_names(None, "backend: 'tensorrt'", false);
        check_keeps_names(None, "platform: 'tensorrt_plan'", false);
        check_keeps_names(None, "backend: 'tensorrtllm'", true);
        check_keeps_names(None, "backend: 'dali'", true);
        // the user says what the file is, or what it is to be called
        check_keeps_names(Some("onnx"), "backend: 'mine'", false);
        check_keeps_names(None, "backend: 'mine' default_model_filename: 'table.bin'", false);
        check_keeps_names(None, "backend: 'tensorrt' cc_model_filenames { key: '8.0' value: 'a100.plan' }", true);
    }
}
