//! Fills in what follows from the folder alone: name, backend, platform, model file. What only the model file says is for
//! its backend to complete.

use std::collections::BTreeSet;

use server_proto::inference::model_config::SchedulingChoice;

use super::{
    ModelConfig,
    frameworks::{self, ENSEMBLE, Framework},
};
use crate::error::{Error, Result};

/// The `runtime` of models that their backend runs by code in Python: which of their files it takes, that code decides.
const CODE: &str = "model.py";

/// Fills in name, backend, platform and model file where the configuration leaves them open.
///
/// `version_files` are the names in one version folder. A model whose files say nothing may name its backend in its
/// own name, as in `model.BACKEND`.
/// Errors: no way to know the backend, an unknown platform, a platform of another backend.
/// Source: Triton model configuration, "Auto-Generated Model Configuration".
pub fn complete(config: &mut ModelConfig, model_name: &str, version_files: &[String]) -> Result<()> {
    if config.name.is_empty() {
        config.name = model_name.to_owned();
    }
    if is_ensemble(config) {
        return Ok(());
    }
    if config.backend.is_empty() {
        match find_backend(config, version_files) {
            Some(backend) => config.backend = backend.to_owned(),
            None => backend_from_name(config, model_name)?,
        }
    }
    if let Some(framework) = find_framework(config, version_files) {
        if let (true, Some(usual)) = (config.platform.is_empty(), framework.platforms.first()) {
            config.platform = (*usual).to_owned();
        }
        if config.default_model_filename.is_empty() && config.runtime != CODE {
            config.default_model_filename = framework.file.to_owned();
        }
    }
    match frameworks::pair_problem(config) {
        None => Ok(()),
        Some(problem) => Err(Error::invalid_argument(problem.message)),
    }
}

/// Takes out outputs whose names came before: the first of a name counts, as to Triton, which loads such configurations. Gives back
/// those names.
pub fn remove_repeated_outputs(config: &mut ModelConfig) -> BTreeSet<String> {
    let (mut names, mut repeated) = (BTreeSet::new(), BTreeSet::new());
    config.output.retain(|output| {
        let is_first = output.name.is_empty() || names.insert(output.name.clone());
        if !is_first {
            repeated.insert(output.name.clone());
        }
        is_first
    });
    repeated
}

/// Whether it is an ensemble, which has no backend. One whose platform was forgotten is left for verification to name the
/// mistake.
pub fn is_ensemble(config: &ModelConfig) -> bool {
    let is_graph = matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_)));
    config.platform == ENSEMBLE || (is_graph && config.platform.is_empty() && config.backend.is_empty())
}

fn find_backend(config: &ModelConfig, version_files: &[String]) -> Option<&'static str> {
    let is_open = config.platform.is_empty() && config.default_model_filename.is_empty();
    frameworks::of_platform(&config.platform)
        .or_else(|| frameworks::of_file(&config.default_model_filename))
        .or_else(|| {
            let is_there = |framework: &&Framework| version_files.iter().any(|file| file == framework.file);
            frameworks::FRAMEWORKS.iter().find(is_there).filter(|_| is_open)
        })
        .map(|framework| framework.backend)
}

fn backend_from_name(config: &mut ModelConfig, model_name: &str) -> Result<()> {
    if !config.platform.is_empty() || !config.default_model_filename.is_empty() {
        return Ok(()); // the check of platform and backend says what is missing
    }
    match model_name.split_once('.') {
        Some((_, backend)) if !backend.is_empty() => {
            config.backend = backend.to_owned();
            config.default_model_filename = format!("model.{backend}");
            Ok(())
        }
        _ => Err(Error::invalid_argument(format!(
            "Invalid model name: Could not determine backend for model '{model_name}' with no backend in model \
             configuration. Expected model name of the form 'model.<backend_name>'."
        ))),
    }
}

/// The framework among those of the backend: by platform, by file, or the usual one.
fn find_framework(config: &ModelConfig, version_files: &[String]) -> Option<&'static Framework> {
    let ModelConfig { backend, platform, default_model_filename: file, .. } = config;
    let find = |is_it: &dyn Fn(&Framework) -> bool| frameworks::of_backend(backend).find(|framework| is_it(framework));
    if !platform.is_empty()
        && let Some(framework) = find(&|framework| framework.platforms.contains(&platform.as_str()))
    {
        return Some(framework);
    }
    find(&|framework| framework.file == file)
        .or_else(|| find(&|framework| file.is_empty() && version_files.iter().any(|name| name == framework.file)))
        .or_else(|| find(&|framework| framework.is_default))
}

#[cfg(test)]
mod tests {
    use super::{complete, remove_repeated_outputs};
    use crate::config::{from_text, to_text};

    /// Completes `text` in a folder `m` whose version holds `files`, and compares on one line.
    #[track_caller]
    fn check(name: &str, files: &[&str], text: &str, expected: &str) {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        let mut config = from_text(text).unwrap();
        let result = match complete(&mut config, name, &files) {
            Ok(()) => to_text(&config).trim_end().replace('\n', " "),
            Err(error) => error.message.into_owned(),
        };
        assert_eq!(result, expected);
    }

    #[test]
    fn of_outputs_that_are_listed_twice_the_first_counts() {
        let text =
            "output { name: 'a' dims: 1 } output { name: 'b' } output { name: 'a' dims: 2 } output { } output { }";
        let mut config = from_text(text).unwrap();
        assert_eq!(remove_repeated_outputs(&mut config), ["a".to_owned()].into());
        let left = "output { name: 'a' dims: 1 } output { name: 'b' } output { } output { }";
        assert_eq!(config, from_text(left).unwrap());
    }

    const ONNX: &str =
        r#"name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime" default_model_filename: "model.onnx""#;

    #[test]
    fn one_word_brings_the_others() {
        check("m", &["model.onnx"], "", ONNX);
        check("m", &[], "platform: 'onnxruntime_onnx'", ONNX);
        check("m", &[], "backend: 'onnxruntime'", ONNX);
        check("m", &[], "default_model_filename: 'model.onnx'", ONNX);
        check("m", &["model.py"], "", r#"name: "m" backend: "python" default_model_filename: "model.py""#);
        check("m", &[], "name: 'n' backend: 'of_my_own'", r#"name: "n" backend: "of_my_own""#);
    }

    #[test]
    fn a_file_name_of_the_users_stays() {
        check(
            "m",
            &["net.onnx"],
            "backend: 'onnxruntime' default_model_filename: 'net.onnx'",
            r#"name: "m" platform: "onnxruntime_onnx" backend: "onnxruntime" default_model_filename: "net.onnx""#,
        );
    }

    #[test]
    fn files_decide_between_platforms_of_one_backend() {
        let aoti = r#"name: "m" platform: "torch_aoti" backend: "pytorch" default_model_filename: "model.pt2""#;
        let torch = r#"name: "m" platform: "pytorch_libtorch" backend: "pytorch" default_model_filename: "model.pt""#;
        check("m", &["model.pt2"], "", aoti);
        check("m", &["model.pt2"], "backend: 'pytorch'", aoti);
        check("m", &["model.pt2", "model.pt"], "backend: 'pytorch'", torch);
        check("m", &[], "backend: 'pytorch'", torch);
        check(
            "m",
            &["model.graphdef"],
            "backend: 'tensorflow'",
            r#"name: "m" platform: "tensorflow_graphdef" backend: "tensorflow" default_model_filename: "model.graphdef""#,
        );
    }

    #[test]
    fn code_in_python_chooses_its_file_itself() {
        let torch = r#"name: "m" platform: "pytorch_libtorch" backend: "pytorch" runtime: "model.py""#;
        check("m", &["model.py", "model.pt"], "backend: 'pytorch' runtime: 'model.py'", torch);
    }

    #[test]
    fn the_name_of_a_model_may_name_its_backend() {
        check(
            "simple.identity",
            &["weights.bin"],
            "",
            r#"name: "simple.identity" backend: "identity" default_model_filename: "model.identity""#,
        );
    }

    #[test]
    fn ensembles_have_no_backend() {
        check("m", &[], "platform: 'ensemble'", r#"name: "m" platform: "ensemble""#);
        check("m", &[], "ensemble_scheduling { }", "name: \"m\" ensemble_scheduling { }");
    }

    #[test]
    fn what_cannot_be_completed_is_refused_with_the_reason() {
        check(
            "m",
            &["weights.bin"],
            "",
            "Invalid model name: Could not determine backend for model 'm' with no backend in model configuration. \
             Expected model name of the form 'model.<backend_name>'.",
        );
        check("m", &[], "platform: 'onnx'", "unexpected platform type 'onnx' for m");
        check("m", &[], "default_model_filename: 'x.bin'", "must specify 'platform' or 'backend' for 'm'");
        check(
            "m",
            &[],
            "platform: 'tensorrt_plan' backend: 'onnxruntime'",
            "unexpected 'platform' and 'backend' pair, got:tensorrt_plan, onnxruntime",
        );
    }
}
