//! The configuration of a model, from what the resource says to the text the server reads. Raw text counts more than the
//! structured form, both more than a `config.pbtxt` in the source; the name is always the resource's. Parsing, writing and
//! judging are the server's own (`server-core`), so that nothing passes here and fails there.

mod paths;
mod structured;

use crds::{TritonModel, parts::source::ModelFormat};
use server_core::{
    config::{self, Machine, ModelConfig, ParseError},
    version_routing::{self, PARAMETERS},
};

use crate::{
    Problem, Reason,
    manifest::{ManifestConfig, Precedence},
    model_file::{backend_of, kind_of},
    names,
    path::FieldPath,
    versions,
};

/// Name of the file in the source that may hold a configuration.
pub const CONFIG_FILE: &str = "config.pbtxt";

/// The configuration of `model` for the manifest, verified as far as it is known before the files are fetched.
///
/// `gpus` is how many GPUs a replica has. A configuration inline in the resource is known in full; one in another source is
/// not, and what it might still say is not held against the model.
/// Errors: every problem, with the path of the field in the resource.
pub fn render(model: &TritonModel, gpus: u32) -> Result<ManifestConfig, Vec<Problem>> {
    let draft = Draft::of(model)?;
    let machine = Machine { gpus };
    let inline = model.spec.source.inline.as_ref().and_then(|inline| inline.files.get(CONFIG_FILE));
    let problems = match inline.filter(|_| draft.precedence == Precedence::Fields) {
        Some(file) => draft.problems_with_file(model, file, machine),
        None => draft.problems_alone(model, machine),
    };
    if problems.is_empty() { Ok(draft.finished()) } else { Err(problems) }
}

/// The configuration the server gets, as text: what the manifest says joined with the `config.pbtxt` of the source.
///
/// Errors: the file in the source is no configuration. That the whole makes sense is for the server to judge.
pub fn effective(config: &ManifestConfig, in_source: Option<&str>) -> Result<String, EffectiveError> {
    let ours = config::from_text(&config.text).map_err(EffectiveError::Manifest)?;
    let mut whole = match (config.precedence, in_source) {
        (Precedence::Fields, Some(file)) => {
            merge(ours, config::from_text(file).map_err(EffectiveError::Source)?, &config.fields)
        }
        _ => ours,
    };
    fall_back(&mut whole, config.backend.as_deref(), config.platform.as_deref());
    Ok(config::to_text(&whole))
}

/// Why there is no configuration for the server.
#[derive(Debug, thiserror::Error)]
pub enum EffectiveError {
    /// The file in the source is no configuration.
    #[error("config.pbtxt in the source cannot be read: {0}")]
    Source(ParseError),
    /// The manifest was written by something else than [`render`].
    #[error("the configuration in the manifest cannot be read: {0}")]
    Manifest(ParseError),
}

/// What the resource says, as a configuration.
struct Draft {
    config: ModelConfig,
    precedence: Precedence,
    fields: Vec<String>,
    backend: Option<String>,
    platform: Option<String>,
}

impl Draft {
    fn of(model: &TritonModel) -> Result<Self, Vec<Problem>> {
        let name = names::wire_name(model);
        let problem = |path: FieldPath, message: String| {
            vec![Problem { object: names::object(model), reason: Reason::InvalidConfig, path: path.into(), message }]
        };
        let (backend, platform) = match model.spec.format {
            Some(ModelFormat::Ensemble) => (None, Some("ensemble".to_owned())),
            Some(format) => (backend_of(format).map(str::to_owned), None),
            None => (None, None),
        };
        let (json, mut fields) = structured::to_json(model);
        let ours =
            config::from_json(&json.to_string()).map_err(|error| problem(paths::spec("config"), error.message))?;
        let Some(text) = &model.spec.config_pbtxt else {
            fields.sort();
            return Ok(Self { config: ours, precedence: Precedence::Fields, fields, backend, platform });
        };
        let at = paths::spec("configPbtxt");
        let mut whole = config::from_text(text).map_err(|error| problem(at.clone(), error.to_string()))?;
        let mut problems = vec![];
        if !whole.name.is_empty() && whole.name != name {
            problems.extend(problem(
                at.clone(),
                format!(
                    "name is '{}', but clients know the model as '{name}': remove the name or set spec.modelName",
                    whole.name
                ),
            ));
        }
        let versions = model.spec.versions.as_ref();
        let has_policy = versions.is_some_and(|versions| versions.policy.is_some());
        if whole.version_policy.is_some() && has_policy {
            let message = "version_policy stands here and in spec.versions: remove one of them".to_owned();
            problems.extend(problem(at.clone(), message));
        }
        if versions::are_routed(model) {
            for key in PARAMETERS.into_iter().filter(|key| whole.parameters.contains_key(*key)) {
                let message =
                    format!("parameter '{key}' stands here, and spec.versions says what it says: remove it here");
                problems.extend(problem(at.clone(), message));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        name.clone_into(&mut whole.name);
        // what follows from weights alone counts less than what somebody wrote
        whole.version_policy =
            if has_policy { ours.version_policy } else { whole.version_policy.or(ours.version_policy) };
        whole.parameters.extend(ours.parameters); // without `config`, those are of the routing only
        fall_back(&mut whole, backend.as_deref(), platform.as_deref());
        Ok(Self { config: whole, precedence: Precedence::Whole, fields: vec![], backend: None, platform: None })
    }

    /// Problems while nothing is known of the files.
    fn problems_alone(&self, model: &TritonModel, machine: Machine) -> Vec<Problem> {
        let mut config = self.config.clone();
        fall_back(&mut config, self.backend.as_deref(), self.platform.as_deref());
        let open = fields_of_files(&config);
        if config.max_batch_size == 0 && !self.says("max_batch_size") {
            config.max_batch_size = i32::MAX; // the file or the backend will say it
        }
        let found = judge(config, names::wire_name(model), machine);
        let held_against_it = |problem: &&config::Problem| {
            let field = paths::top_level(&problem.path);
            // only the files can tell what is missing here
            !open.contains(&field)
                && (self.precedence == Precedence::Whole || self.says(field) || self.says(&problem.path))
        };
        found.iter().filter(held_against_it).map(|problem| self.problem(model, problem)).collect()
    }

    /// Problems of the whole, once the file in the source is known.
    fn problems_with_file(&self, model: &TritonModel, file: &str, machine: Machine) -> Vec<Problem> {
        let at = paths::spec("source").field("inline").field("files").field(CONFIG_FILE);
        let in_file = |message: String| Problem {
            object: names::object(model),
            reason: Reason::InvalidConfig,
            path: at.clone().into(),
            message,
        };
        let base = match config::from_text(file) {
            Ok(base) => base,
            Err(error) => return vec![in_file(error.to_string())],
        };
        let mut whole = merge(self.config.clone(), base, &self.fields);
        fall_back(&mut whole, self.backend.as_deref(), self.platform.as_deref());
        let open = fields_of_files(&whole);
        if whole.max_batch_size == 0 && !self.says("max_batch_size") {
            whole.max_batch_size = i32::MAX; // the backend may say it
        }
        judge(whole, names::wire_name(model), machine)
            .iter()
            .filter(|problem| !open.contains(&paths::top_level(&problem.path)))
            .map(|problem| match self.says(paths::top_level(&problem.path)) || self.says(&problem.path) {
                true => self.problem(model, problem),
                false => in_file(format!("{}: {}", problem.path, paths::with_cure(problem))),
            })
            .collect()
    }

    /// Whether the resource sets this top-level field.
    fn says(&self, field: &str) -> bool {
        self.fields.iter().any(|said| said == field)
    }

    /// A problem of the configuration as one of the resource.
    fn problem(&self, model: &TritonModel, found: &config::Problem) -> Problem {
        if let Some(at) = routing_field(model, &found.path) {
            let (path, message) = (at.into(), found.message.clone());
            return Problem { object: names::object(model), reason: Reason::InvalidConfig, path, message };
        }
        let (path, message) = match self.precedence {
            Precedence::Whole => {
                (paths::spec("configPbtxt").into(), format!("{}: {}", found.path, paths::with_cure(found)))
            }
            Precedence::Fields => (paths::in_resource(&found.path), paths::with_cure(found)),
        };
        Problem { object: names::object(model), reason: Reason::InvalidConfig, path, message }
    }

    fn finished(self) -> ManifestConfig {
        ManifestConfig {
            text: config::to_text(&self.config),
            precedence: self.precedence,
            fields: self.fields,
            backend: self.backend,
            platform: self.platform,
        }
    }
}

/// The field of `spec.versions` that a problem is about.
fn routing_field(model: &TritonModel, path: &str) -> Option<&'static str> {
    let parameter = PARAMETERS.into_iter().find(|key| version_routing::path(key) == path)?;
    versions::field_of(parameter).filter(|_| versions::are_routed(model))
}

/// The server's own judgement of a configuration, defaults written in as it would.
fn judge(mut config: ModelConfig, name: &str, machine: Machine) -> Vec<config::Problem> {
    // What it cannot complete without the files, verification says in its own words.
    let _ = config::complete(&mut config, name, &[]);
    config::normalize(&mut config, &machine);
    config::verify(&config, name, &machine)
}

/// The fields of `ours` named in `fields` over those of `base`; the name is always ours.
fn merge(ours: ModelConfig, base: ModelConfig, fields: &[String]) -> ModelConfig {
    let mut whole = ModelConfig { name: ours.name, ..base };
    let says = |field: &str| fields.iter().any(|said| said == field);
    // One word for both: a backend from here with a platform from there would be a pair nobody wrote.
    if says("backend") || says("platform") {
        (whole.backend, whole.platform) = (ours.backend, ours.platform);
    }
    if says("runtime") {
        whole.runtime = ours.runtime;
    }
    if says("version_policy") {
        whole.version_policy = ours.version_policy;
    }
    if says("max_batch_size") {
        whole.max_batch_size = ours.max_batch_size;
    }
    if says("input") {
        whole.input = ours.input;
    }
    if says("output") {
        whole.output = ours.output;
    }
    if says("dynamic_batching") {
        whole.scheduling_choice = ours.scheduling_choice;
    }
    if says("instance_group") {
        whole.instance_group = ours.instance_group;
    }
    if says("default_model_filename") {
        whole.default_model_filename = ours.default_model_filename;
    }
    if says("parameters") {
        whole.parameters = ours.parameters;
    } else {
        let mut ours = ours.parameters;
        for key in PARAMETERS.into_iter().filter(|key| says(&version_routing::path(key))) {
            whole.parameters.remove(key);
            whole.parameters.extend(ours.remove_entry(key));
        }
    }
    whole
}

/// What the files say where the configuration does not: backend and platform, or which platform of its backend.
fn fields_of_files(config: &ModelConfig) -> &'static [&'static str] {
    match (config.backend.as_str(), config.platform.as_str()) {
        ("", "") => &["backend", "platform"],
        (_, "") => &["platform"],
        _ => &[],
    }
}

/// Names the backend where the configuration names neither backend nor platform: that of the format, else that of the named file.
fn fall_back(config: &mut ModelConfig, backend: Option<&str>, platform: Option<&str>) {
    if config.backend.is_empty() && config.platform.is_empty() {
        let of_file = || backend_of(kind_of(&config.default_model_filename, None)?.format);
        let backend = backend.or_else(|| of_file().filter(|_| platform.is_none()));
        config.backend = backend.unwrap_or_default().to_owned();
        config.platform = platform.unwrap_or_default().to_owned();
    }
}

#[cfg(test)]
mod tests;
