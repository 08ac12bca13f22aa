//! Inputs and outputs of a package of AOTInductor: PyTorch writes how it is called as two trees, whose leaves are the tensors. A
//! configuration names them by their way through the tree, or by their number. Pure.
//!
//! | | by way | by number |
//! |---|---|---|
//! | positional arguments | `ARGS[0]`, `ARGS[2][key]` | `INPUT__0` |
//! | keyword arguments | `KWARGS[key]` | `INPUT__3`, after the positional ones |
//! | outputs | `RESULT`, `RESULT[0]`, `RESULT[key]` | `OUTPUT__0` |
//!
//! Source: PyTorch backend of Triton, "AOT Inductor Support".

use std::collections::BTreeMap;

use serde_json::Value;
use server_core::{
    config::ModelConfig,
    error::{Error, Result},
};

use super::places::{self, Places};

/// The tensors of a configuration of a package, whose call is specified by these two texts.
///
/// Errors: configuration and package contradict each other; `Internal` if a text is not what PyTorch writes.
pub(super) fn places(config: &ModelConfig, inputs: &str, outputs: &str, version: (u32, u32)) -> Result<Places> {
    if config.scheduling_choice.as_ref().is_some_and(|choice| {
        matches!(choice, server_proto::inference::model_config::SchedulingChoice::SequenceBatching(_))
    }) {
        let text = format!("model '{}': platform torch_aoti does not support sequence batching", config.name);
        return Err(Error::unsupported(text));
    }
    let inputs = input_names(inputs).ok_or_else(|| unreadable(config, "input", inputs))?;
    let outputs = output_names(outputs).ok_or_else(|| unreadable(config, "output", outputs))?;
    let expected = places::count(config);
    if expected != inputs.len() {
        return Err(places::expects(config, expected, inputs.len()));
    }
    places::check_tensors(config, version)?;
    places::check_input_strings(config)?;
    places::check_output_strings(config)?;
    let computed = config.batch_input.iter().flat_map(|input| &input.target_name);
    let input_names = config.input.iter().map(|input| &input.name).chain(computed);
    let output_names = config.output.iter().map(|output| &output.name);
    Ok(Places {
        inputs: found(config, "input", input_names, &inputs, "INPUT__")?,
        outputs: found(config, "output", output_names, &outputs, "OUTPUT__")?,
        has_dictionary: false,
    })
}

/// Finds each configured name among those of the package.
fn found<'a>(
    config: &ModelConfig,
    side: &str,
    names: impl Iterator<Item = &'a String>,
    known: &[String],
    prefix: &str,
) -> Result<BTreeMap<String, usize>> {
    let mut places = BTreeMap::<String, usize>::new();
    for name in names {
        let number =
            name.starts_with(prefix).then(|| places::index(name)).flatten().filter(|place| *place < known.len());
        let place = known.iter().position(|known| known == name).or(number).ok_or_else(|| {
            let allowed = known.join(", ");
            unable(
                config,
                &format!("unexpected inference {side} '{name}', allowed {side}s are: {allowed}, or {prefix}<index>"),
            )
        })?;
        if let Some((other, _)) = places.iter().find(|(_, taken)| **taken == place).filter(|_| side == "input") {
            return Err(unable(config, &format!("inputs '{other}' and '{name}' are the same input of the model")));
        }
        places.insert(name.clone(), place);
    }
    Ok(places)
}

fn input_names(text: &str) -> Option<Vec<String>> {
    let tree = tree(text)?;
    let [positional, keywords] = tree.get("children_spec")?.as_array()?.as_slice() else { return None };
    let mut names = Vec::new();
    leaves(positional, "ARGS", &mut names)?;
    leaves(keywords, "KWARGS", &mut names)?;
    Some(names)
}

fn output_names(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    leaves(&tree(text)?, "RESULT", &mut names)?;
    Some(names)
}

/// The tree in `[version, tree]`.
fn tree(text: &str) -> Option<Value> {
    match serde_json::from_str(text).ok()? {
        Value::Array(parts) => parts.into_iter().nth(1),
        _ => None,
    }
}

/// Appends the way to each leaf below a node, in the order in which PyTorch counts them.
fn leaves(node: &Value, way: &str, names: &mut Vec<String>) -> Option<()> {
    let children = node.get("children_spec")?.as_array()?;
    match node.get("type")? {
        Value::Null => names.push(way.to_owned()),
        Value::String(kind) if kind == "builtins.dict" => {
            let keys: Vec<Value> = serde_json::from_str(node.get("context")?.as_str()?).ok()?;
            for (key, child) in keys.iter().zip(children) {
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                leaves(child, &format!("{way}[{key}]"), names)?;
            }
        }
        Value::String(kind) if matches!(kind.as_str(), "builtins.tuple" | "builtins.list") => {
            for (index, child) in children.iter().enumerate() {
                leaves(child, &format!("{way}[{index}]"), names)?;
            }
        }
        _ => return None,
    }
    Some(())
}

fn unable(config: &ModelConfig, text: &str) -> Error {
    Error::invalid_argument(format!("unable to load model '{}', {text}", config.name))
}

fn unreadable(config: &ModelConfig, side: &str, text: &str) -> Error {
    Error::internal(format!("Failed to parse {side} call specification for model \"{}\": {text}", config.name))
}

#[cfg(test)]
mod tests {
    use server_core::config::from_text;
    use server_proto::inference::DataType;

    use super::*;

    /// As libtorch 2.12 writes them.
    const INPUTS: &str = r#"[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": "builtins.dict", "context": "[\"keyA\", \"key2\"]", "children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, "children_spec": []}]}]}, {"type": "builtins.dict", "context": "[\"mask\"]", "children_spec": [{"type": null, "context": null, "children_spec": []}]}]}]"#;
    const OUTPUTS: &str = r#"[1, {"type": "builtins.dict", "context": "[\"AAA\", \"BBB\"]", "children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, "children_spec": []}]}]}]"#;
    const ONE: &str = r#"[1, {"type": null, "context": null, "children_spec": []}]"#;

    fn config(inputs: &[&str], outputs: &[&str]) -> ModelConfig {
        let tensors = |side: &str, names: &[&str]| -> String {
            names
                .iter()
                .map(|name| format!("{side} {{ name: '{name}' data_type: TYPE_FP32 dims: [ -1 ] }}\n"))
                .collect()
        };
        from_text(&format!("name: 'm'\n{}{}", tensors("input", inputs), tensors("output", outputs))).unwrap()
    }

    #[test]
    fn leaves_are_named_by_their_way() {
        assert_eq!(input_names(INPUTS).unwrap(), ["ARGS[0]", "ARGS[1][keyA]", "ARGS[1][key2]", "KWARGS[mask]"]);
        assert_eq!(output_names(OUTPUTS).unwrap(), ["RESULT[AAA]", "RESULT[BBB][0]", "RESULT[BBB][1]"]);
        assert_eq!(output_names(ONE).unwrap(), ["RESULT"]);
        assert_eq!(input_names("[1]"), None);
        assert_eq!(output_names("not JSON"), None);
    }

    #[test]
    fn a_configuration_names_ways_or_numbers() {
        let config = config(&["KWARGS[mask]", "ARGS[0]", "INPUT__2", "INPUT__1"], &["RESULT[BBB][1]", "OUTPUT__0"]);
        let places = places(&config, INPUTS, OUTPUTS, (2, 12)).unwrap();
        assert_eq!(
            places.inputs.into_iter().collect::<Vec<_>>(),
            [
                ("ARGS[0]".to_owned(), 0),
                ("INPUT__1".to_owned(), 1),
                ("INPUT__2".to_owned(), 2),
                ("KWARGS[mask]".to_owned(), 3)
            ]
        );
        let outputs: Vec<_> = places.outputs.into_iter().collect();
        assert_eq!(outputs, [("OUTPUT__0".to_owned(), 0), ("RESULT[BBB][1]".to_owned(), 2)]);
    }

    #[test]
    fn what_the_package_has_not_is_refused_with_what_it_has() {
        let refused = |inputs: &[&str], outputs: &[&str]| {
            places(&config(inputs, outputs), INPUTS, OUTPUTS, (2, 12)).unwrap_err().message.to_string()
        };
        let all = ["ARGS[0]", "INPUT__1", "INPUT__2", "KWARGS[mask]"];
        let text = "unable to load model 'm', unexpected inference output 'RESULT', allowed outputs are: RESULT[AAA], RESULT[BBB][0], RESULT[BBB][1], or OUTPUT__<index>";
        assert_eq!(refused(&all, &["RESULT"]), text);
        let text = "unable to load model 'm', inputs 'ARGS[0]' and 'INPUT__0' are the same input of the model";
        assert_eq!(refused(&["ARGS[0]", "INPUT__0", "INPUT__1", "INPUT__2"], &["RESULT[AAA]"]), text);
        let mut strings = config(&all, &["RESULT[AAA]"]);
        let of_strings =
            |config: &ModelConfig| places(config, INPUTS, OUTPUTS, (2, 12)).unwrap_err().message.to_string();
        strings.output[0].data_type = DataType::TypeString as i32;
        let text = "unable to load model 'm', configuration expects TYPE_STRING for output 'RESULT[AAA]', and the model gives tensors";
        assert_eq!(of_strings(&strings), text);
        strings.input[3].data_type = DataType::TypeString as i32;
        let text = "unable to load model 'm', configuration expects TYPE_STRING for input 'KWARGS[mask]', and the model takes tensors";
        assert_eq!(of_strings(&strings), text);
        let text = "unable to load model 'm', configuration expects 1 inputs, model provides 4";
        assert_eq!(refused(&["ARGS[0]"], &["RESULT[AAA]"]), text);
    }
}
