//! What SageMaker has unpacked: the folder of a model, a folder with one, or a folder with an ensemble and its parts. Each model is
//! linked into a repository of the server, an ensemble under the name that SageMaker gives it and its parts under their own.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use server_core::{
    config::{self, ModelConfig, SchedulingChoice},
    error::{Code, Error, Result},
};
use server_engine::LoadParameters;

/// What makes a folder that of a model.
const CONFIG: &str = "config.pbtxt";

/// A model whose folder is linked.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) parameters: LoadParameters,
    /// The folder around it.
    pub(super) shown_url: String,
    /// Everything that was linked for it.
    pub(super) links: Links,
}

/// Links of one model in the repository. They are removed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<PathBuf>);

impl Links {
    /// The names of the models.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.iter().map(|link| name_of(link)).collect()
    }

    /// Errors: `AlreadyExists` if another model has that name.
    fn add(&mut self, repository: &Path, name: &str, folder: &Path, source: &Path) -> Result<()> {
        let link = repository.join(name);
        let cannot = |error: io::Error| {
            let (source, link) = (source.display(), link.display());
            match error.kind() {
                io::ErrorKind::AlreadyExists => Error::new(
                    Code::AlreadyExists,
                    format!("failed to register '{source}', there is a conflicting mapping for '{name}'"),
                ),
                _ => Error::internal(format!("failed to register '{source}', '{link}' cannot be made: {error}")),
            }
        };
        std::os::unix::fs::symlink(folder, &link).map_err(cannot)?;
        self.0.push(link);
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.0 {
            if let Err(error) = fs::remove_file(link)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("the link '{}' cannot be removed: {error}", link.display());
            }
        }
    }
}

/// Links what was unpacked into `source`, and gives the model's configuration the name that it is asked for by.
///
/// Errors: it is no model, or leads where none are; `AlreadyExists` for a name that is taken.
pub(super) fn prepare(name: &str, source: &Path, repository: &Path) -> Result<Prepared> {
    check_place(source, &canonical(source))?;
    let is_model = source.join(CONFIG).is_file();
    let found = if is_model { Found::one(source) } else { find(source)? };
    for folder in found.parts.iter().map(|(_, folder)| folder).chain([&found.model]) {
        check_place(source, folder)?;
    }
    let around = source.parent().filter(|_| is_model).unwrap_or(source);
    let shown_url = around.to_string_lossy().into_owned();
    let mut links = Links::default();
    links.add(repository, name, &found.model, source)?;
    for (name, folder) in &found.parts {
        links.add(repository, name, folder, source)?;
    }
    let config = renamed(name, &found.model);
    Ok(Prepared { parameters: LoadParameters { config, ..LoadParameters::default() }, shown_url, links })
}

/// Whether a path is one of the system's, where no models are, whatever `..` is in it.
pub(super) fn is_of_system(path: &Path) -> bool {
    let mut names = Vec::new();
    for component in std::path::absolute(path).unwrap_or_default().components() {
        match component {
            Component::ParentDir => _ = names.pop(),
            Component::Normal(name) => names.push(name.to_owned()),
            _ => {}
        }
    }
    names.first().is_some_and(|first| ["dev", "proc", "sys"].iter().any(|folder| first == folder))
}

/// `place` is where a link in `source` leads, or `source` itself.
fn check_place(source: &Path, place: &Path) -> Result<()> {
    if is_of_system(place) {
        let (source, place) = (source.display(), place.display());
        let text = format!("Invalid URL: {source}: it leads to {place}, and cannot lead to /dev/, /proc/, or /sys/");
        return Err(Error::invalid_argument(text));
    }
    Ok(())
}

/// Folders of models.
#[derive(Debug)]
struct Found {
    model: PathBuf,
    /// The others, with their names, if it is an ensemble.
    parts: Vec<(String, PathBuf)>,
}

impl Found {
    fn one(folder: &Path) -> Self {
        Self { model: canonical(folder), parts: Vec::new() }
    }
}

/// Looks for the model in what was unpacked: the one folder, or of several the ensemble that is no part of another one.
fn find(source: &Path) -> Result<Found> {
    let shown = source.display();
    let entries = fs::read_dir(source)
        .map_err(|_| Error::invalid_argument(format!("failed to register '{shown}', repository not found")))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    if let [folder] = folders.as_slice() {
        return Ok(Found::one(folder));
    }
    let ensembles: Vec<(&PathBuf, ModelConfig)> = folders
        .iter()
        .filter_map(|folder| Some((folder, read(folder)?)))
        .filter(|(_, config)| config::is_ensemble(config))
        .collect();
    let parts: BTreeSet<String> = ensembles.iter().flat_map(|(_, config)| steps(config)).collect();
    let mut outermost = ensembles.iter().filter(|(folder, _)| !parts.contains(&name_of(folder)));
    let (Some((model, _)), None) = (outermost.next(), outermost.next()) else {
        return Err(Error::invalid_argument(format!(
            "failed to register '{shown}', it has {} folders of models: expected one, or those of one ensemble and its parts",
            folders.len()
        )));
    };
    let parts = folders.iter().filter(|folder| folder != model).map(|folder| (name_of(folder), canonical(folder)));
    Ok(Found { model: canonical(model), parts: parts.collect() })
}

/// The models that an ensemble asks.
fn steps(config: &ModelConfig) -> Vec<String> {
    let Some(SchedulingChoice::EnsembleScheduling(graph)) = &config.scheduling_choice else { return Vec::new() };
    graph.step.iter().map(|step| step.model_name.clone()).collect()
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read(folder: &Path) -> Option<ModelConfig> {
    config::from_text(&fs::read_to_string(folder.join(CONFIG)).ok()?).ok()
}

/// The configuration in a folder under another name than its own, as JSON. `None` if it has no other, or cannot be read: it is refused
/// where it is loaded then, with its reason.
fn renamed(name: &str, folder: &Path) -> Option<String> {
    let mut config = read(folder)?;
    if config.name.is_empty() || config.name == name {
        return None;
    }
    name.clone_into(&mut config.name);
    Some(config::to_json(&config).to_string())
}

fn canonical(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_model_is_linked_and_its_configuration_renamed() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("unpacked");
        fs::create_dir_all(source.join("resnet/1")).unwrap();
        fs::write(source.join("resnet/config.pbtxt"), "name: \"resnet\" max_batch_size: 4").unwrap();
        let Prepared { parameters, shown_url, links } = prepare("1234", &source, temp.path()).unwrap();
        assert_eq!(Path::new(&shown_url), source);
        assert!(temp.path().join("1234/1").is_dir());
        let config = config::from_json(&parameters.config.unwrap()).unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), ("1234", 4));
        let same = prepare("resnet", &source, temp.path()).unwrap();
        assert_eq!(same.parameters.config, None);
        let again = prepare("1234", &source, temp.path()).unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists, "{again}");
        drop(links);
        assert!(!temp.path().join("1234").exists() && source.join("resnet/1").is_dir());
    }

    #[test]
    fn what_is_unpacked_may_be_the_folder_of_the_model_itself() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("unpacked");
        for version in ["1", "2"] {
            fs::create_dir_all(source.join(version)).unwrap();
        }
        fs::write(source.join(CONFIG), "name: \"resnet\" max_batch_size: 4").unwrap();
        let Prepared { parameters, shown_url, links: _links } = prepare("1234", &source, temp.path()).unwrap();
        assert!(temp.path().join("1234/2").is_dir());
        assert_eq!(config::from_json(&parameters.config.unwrap()).unwrap().name, "1234");
        assert_eq!(Path::new(&shown_url), temp.path());
    }

    #[test]
    fn an_ensemble_is_linked_with_its_parts() {
        let temp = tempfile::tempdir().unwrap();
        let (source, repository) = (temp.path().join("unpacked"), temp.path().join("repository"));
        let step = |model: &str| format!("step {{ model_name: \"{model}\" }}");
        let ensemble = |model: &str| format!("platform: \"ensemble\" ensemble_scheduling {{ {} }}", step(model));
        let models = [("whole", ensemble("inner")), ("inner", ensemble("a")), ("a", String::new())];
        for (name, config) in models {
            fs::create_dir_all(source.join(name).join("1")).unwrap();
            fs::write(source.join(name).join(CONFIG), config).unwrap();
        }
        fs::create_dir(&repository).unwrap();
        let prepared = prepare("1234", &source, &repository).unwrap();
        assert_eq!(prepared.links.names(), ["1234", "a", "inner"].map(str::to_owned).into());
        let whole = config::from_text(&fs::read_to_string(repository.join("1234").join(CONFIG)).unwrap()).unwrap();
        assert_eq!(steps(&whole), ["inner"]);
        let error = prepare("5", &source, &repository).unwrap_err();
        assert!(error.message.ends_with("there is a conflicting mapping for 'a'"), "{error}");
        assert!(!repository.join("5").exists(), "nothing is left of what failed");
        drop(prepared);
        assert_eq!(fs::read_dir(&repository).unwrap().count(), 0);
    }

    #[test]
    fn links_to_folders_of_the_system_are_refused() {
        use std::os::unix::fs::symlink;

        let temp = tempfile::tempdir().unwrap();
        let (linked, around) = (temp.path().join("linked"), temp.path().join("around"));
        symlink("/proc", &linked).unwrap();
        fs::create_dir(&around).unwrap();
        symlink("/sys/kernel", around.join("model")).unwrap();
        for (source, place) in [(&linked, "/proc"), (&around, "/sys/kernel")] {
            let error = prepare("1234", source, temp.path()).unwrap_err();
            assert!(error.message.contains(&format!("it leads to {place}, and cannot lead to")), "{error}");
            assert!(!temp.path().join("1234").exists());
        }
    }

    #[test]
    fn what_is_no_folder_with_one_model_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let missing = temp.path().join("missing");
        let error = find(&missing).unwrap_err().message;
        assert_eq!(error, format!("failed to register '{}', repository not found", missing.display()));
        assert!(find(temp.path()).unwrap_err().message.contains("it has 0 folders"));
        for name in ["a", "b"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        assert!(find(temp.path()).unwrap_err().message.contains("it has 2 folders"));
    }
}
