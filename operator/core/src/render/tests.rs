//! What the resource says, the file in the source, and what the server gets of both.

use crds::{
    TritonModel, TritonModelSpec,
    parts::{
        config::{DynamicBatching, ModelConfig},
        source::{InlineSource, ModelFormat, ModelSource},
    },
};
use serde_json::json;

use super::{effective, render};

fn model(change: impl FnOnce(&mut TritonModelSpec)) -> TritonModel {
    let mut model = TritonModel::new("m", TritonModelSpec::default());
    change(&mut model.spec);
    model
}

/// What the server gets, on one line.
#[track_caller]
fn check(model: &TritonModel, in_source: Option<&str>, expected: &str) {
    let config = render(model, 0).unwrap_or_else(|problems| panic!("{problems:?}"));
    let text = effective(&config, in_source).unwrap();
    let line: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(line.join(" "), expected);
}

#[track_caller]
fn check_problems(model: &TritonModel, gpus: u32, expected: &[&str]) {
    let problems = render(model, gpus).err().unwrap_or_default();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, expected);
}

#[test]
fn a_model_that_says_nothing_gets_its_name() {
    check(&model(|_| ()), None, r#"name: "m""#);
    check(&model(|spec| spec.model_name = Some("other".into())), None, r#"name: "other""#);
}

#[test]
fn the_file_in_the_source_goes_on_saying_what_the_resource_leaves_open() {
    let model = model(|spec| {
        spec.config = Some(ModelConfig { max_batch_size: Some(0), ..Default::default() });
    });
    check(
        &model,
        Some("name: 'x' backend: 'onnxruntime' max_batch_size: 8 parameters { key: 'k' value { string_value: 'v' } }"),
        r#"name: "m" backend: "onnxruntime" parameters { key: "k" value { string_value: "v" } }"#,
    );
}

#[test]
fn raw_text_is_the_whole() {
    let model = model(|spec| spec.config_pbtxt = Some("backend: 'python' max_batch_size: 4".into()));
    check(
        &model,
        Some("max_batch_size: 8 default_model_filename: 'x.py'"),
        r#"name: "m" backend: "python" max_batch_size: 4"#,
    );
}

#[test]
fn the_format_names_the_backend_where_nothing_else_does() {
    let onnx = |spec: &mut TritonModelSpec| spec.format = Some(ModelFormat::Onnx);
    check(&model(onnx), None, r#"name: "m" backend: "onnxruntime""#);
    check(&model(onnx), Some("platform: 'tensorrt_plan'"), r#"name: "m" platform: "tensorrt_plan""#);
    let raw = model(|spec| {
        onnx(spec);
        spec.config_pbtxt = Some("max_batch_size: 2".into());
    });
    check(&raw, None, r#"name: "m" backend: "onnxruntime" max_batch_size: 2"#);
}

#[test]
fn the_named_file_says_the_backend_where_its_ending_does() {
    let names = |file: &'static str| {
        model(move |spec| {
            spec.config = Some(ModelConfig { default_model_filename: Some(file.into()), ..Default::default() });
        })
    };
    check(&names("two.pt"), None, r#"name: "m" backend: "pytorch" default_model_filename: "two.pt""#);
    check(&names("a.xml"), Some("backend: 'mine'"), r#"name: "m" backend: "mine" default_model_filename: "a.xml""#);
    check(&names("table.bin"), None, r#"name: "m" default_model_filename: "table.bin""#);
}

#[test]
fn the_platform_of_a_backend_is_for_the_files_to_say() {
    // a SavedModel or a graph: TensorFlow has a platform for each
    let of_format = model(|spec| spec.format = Some(ModelFormat::Tensorflow));
    check(&of_format, None, r#"name: "m" backend: "tensorflow""#);
    check(&of_format, Some("max_batch_size: 8"), r#"name: "m" backend: "tensorflow" max_batch_size: 8"#);
    let text = "backend: 'tensorflow' max_batch_size: 4";
    check(
        &model(|spec| spec.config_pbtxt = Some(text.into())),
        None,
        r#"name: "m" backend: "tensorflow" max_batch_size: 4"#,
    );
    let inline = InlineSource { files: [("config.pbtxt".into(), text.into())].into() };
    let inline = model(|spec| spec.source = ModelSource { inline: Some(inline), ..Default::default() });
    check_problems(&inline, 0, &[]);
    let wrong = model(|spec| spec.config_pbtxt = Some("backend: 'tensorflow' platform: 'onnx'".into()));
    check_problems(
        &wrong,
        0,
        &["spec.configPbtxt: platform: unexpected 'platform' and 'backend' pair, got:onnx, tensorflow"],
    );
}

#[test]
fn a_model_may_name_what_runs_its_backend() {
    let of_python = model(|spec| {
        spec.format = Some(ModelFormat::Pytorch);
        spec.config = Some(ModelConfig { runtime: Some("model.py".into()), ..Default::default() });
    });
    check(&of_python, None, r#"name: "m" backend: "pytorch" runtime: "model.py""#);
    let in_source = "max_batch_size: 2 runtime: 'other.py'";
    check(&of_python, Some(in_source), r#"name: "m" backend: "pytorch" runtime: "model.py" max_batch_size: 2"#);
}

#[test]
fn a_backend_said_here_does_not_meet_a_platform_said_there() {
    let model = model(|spec| {
        spec.config = Some(ModelConfig { backend: Some("python".into()), ..Default::default() });
    });
    check(&model, Some("platform: 'onnxruntime_onnx'"), r#"name: "m" backend: "python""#);
}

#[test]
fn a_name_that_is_not_the_models_is_told() {
    let model = model(|spec| spec.config_pbtxt = Some("name: 'n' backend: 'python'".into()));
    check_problems(
        &model,
        0,
        &["spec.configPbtxt: name is 'n', but clients know the model as 'm': remove the name or set spec.modelName"],
    );
}

#[test]
fn a_model_for_gpus_on_a_server_without_any_is_told_what_helps() {
    let cure = "no GPUs are available: its TritonServer has none; use KIND_CPU or KIND_AUTO, or set spec.gpu.count of the \
                TritonServer";
    let text = "backend: 'onnxruntime' max_batch_size: 1 input { name: 'x' data_type: TYPE_FP32 dims: 1 } \
                output { name: 'y' data_type: TYPE_FP32 dims: 1 } instance_group { kind: KIND_GPU }";
    let on_gpus = model(|spec| spec.config_pbtxt = Some(text.into()));
    let problem =
        format!("spec.configPbtxt: instance_group[0].gpus: instance group m_0 of model m has kind KIND_GPU but {cure}");
    check_problems(&on_gpus, 0, &[&problem]);
    check_problems(&on_gpus, 1, &[]);
}

#[test]
fn a_mistake_in_raw_text_has_its_line() {
    let model = model(|spec| spec.config_pbtxt = Some("backend: 'python'\nmax_batch_sise: 4\n".into()));
    let problems = render(&model, 0).unwrap_err();
    assert!(problems[0].message.starts_with("line 2, column 1: "), "{problems:?}");
}

#[test]
fn what_another_source_may_still_say_is_not_held_against_the_model() {
    let preferred = |spec: &mut TritonModelSpec| {
        let batching = DynamicBatching { preferred_batch_size: vec![8], ..Default::default() };
        spec.config = Some(ModelConfig { dynamic_batching: Some(batching), ..Default::default() });
    };
    check_problems(&model(preferred), 0, &[]);
    let inline = model(|spec| {
        preferred(spec);
        let files = [("config.pbtxt".to_owned(), "backend: 'python' max_batch_size: 4".to_owned())];
        spec.source = ModelSource { inline: Some(InlineSource { files: files.into() }), ..Default::default() };
    });
    check_problems(
        &inline,
        0,
        &[
            "spec.config.dynamicBatching.preferredBatchSize[0]: dynamic batching preferred size must be <= max batch size \
           for m: lower it or raise the maximum batch size",
        ],
    );
}

fn routed(versions: serde_json::Value) -> impl FnOnce(&mut TritonModelSpec) {
    |spec| spec.versions = Some(serde_json::from_value(versions).unwrap())
}

#[test]
fn weights_are_parameters_of_their_versions() {
    let weighted = model(routed(json!({ "weights": { "2": 10, "1": 90 } })));
    let routing = r#"parameters { key: "version_weights" value { string_value: "1:90,2:10" } }"#;
    let policy = "version_policy { specific { versions: [ 1, 2 ] } }";
    check(&weighted, None, &format!(r#"name: "m" {policy} {routing}"#));
    // other parameters of the source stay, its routing goes
    check(
        &weighted,
        Some(
            "parameters { key: 'k' value { string_value: 'v' } } parameters { key: 'canary_version' value { string_value: '7' } } \
             parameters { key: 'version_weights' value { string_value: '7:1' } }",
        ),
        &format!(r#"name: "m" {policy} parameters {{ key: "k" value {{ string_value: "v" }} }} {routing}"#),
    );
    let with_parameters = model(|spec| {
        routed(json!({ "weights": { "2": 10, "1": 90 } }))(spec);
        let parameters = [("own".to_owned(), "1".to_owned())].into();
        spec.config = Some(ModelConfig { parameters, ..Default::default() });
    });
    check(
        &with_parameters,
        Some("parameters { key: 'k' value { string_value: 'v' } }"),
        &format!(r#"name: "m" {policy} parameters {{ key: "own" value {{ string_value: "1" }} }} {routing}"#),
    );
}

#[test]
fn weights_beside_raw_text_keep_its_policy_and_not_its_routing() {
    let raw = |text: &'static str| {
        model(move |spec| {
            routed(json!({ "weights": { "1": 1 } }))(spec);
            spec.config_pbtxt = Some(text.into());
        })
    };
    let routing = r#"parameters { key: "version_weights" value { string_value: "1:1" } }"#;
    check(
        &raw("backend: 'python' version_policy { all { } }"),
        None,
        &format!(r#"name: "m" backend: "python" version_policy {{ all {{ }} }} {routing}"#),
    );
    check_problems(
        &raw("backend: 'python' parameters { key: 'canary_version' value { string_value: '2' } }"),
        0,
        &[
            "spec.configPbtxt: parameter 'canary_version' stands here, and spec.versions says what it says: remove it here",
        ],
    );
}

#[test]
fn a_mistake_in_the_routing_is_told_at_its_field() {
    let shadowed = json!({ "weights": { "1": 0, "2": 0 }, "canary": { "version": 2, "key": "priority" } });
    check_problems(
        &model(routed(shadowed)),
        0,
        &[
            "spec.versions.weights: parameter 'version_weights' of model 'm' gives every version weight 0: give at least one more",
            "spec.versions.canary.key: parameter 'canary_key' of model 'm' is 'priority', which has a meaning of its own in \
             requests: choose another",
        ],
    );
}
