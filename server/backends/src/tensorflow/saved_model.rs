//! What a SavedModel says of itself: its graphs by their tags, and their signatures. Reading the file and choosing among what it
//! holds are apart.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use server_core::{
    backend::{Device, ModelSource},
    config::ModelConfig,
    error::{Error, Result},
    tensor::Shape,
};

use super::{
    interface::Interface,
    messages::{MetaGraph, SavedModel, TensorInfo, TensorShape},
    options::Chosen,
    types,
};
use crate::native::{Kind, Offered, Signature, loading};

const DEFAULT_SIGNATURE: &str = "serving_default";
/// Signatures that are operations of the model's life, not ways to ask it.
const NOT_FOR_CALLERS: [&str; 2] = ["__saved_model_init_op", "__saved_model_train_op"];
const DEFAULT_FOLDER: &str = "model.savedmodel";
/// What the file with the graphs may be called: binary, text, in pieces.
const GRAPH_FILES: [&str; 3] = ["saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"];

/// The folder to open for an instance on that device: the one that the configuration names or `model.savedmodel` in the version's folder.
///
/// Errors: `Unavailable` if it is not there, or is no SavedModel.
pub(super) fn folder(source: &ModelSource, config: &ModelConfig, device: Device) -> Result<PathBuf> {
    let path = source.version_dir.join(loading::named_file(config, device).unwrap_or(DEFAULT_FOLDER));
    if GRAPH_FILES.iter().any(|file| path.join(file).is_file()) {
        return Ok(path);
    }
    let (shown, model) = (path.display(), &source.name);
    Err(Error::unavailable(if path.is_dir() {
        format!("'{shown}' for model '{model}' is not a SavedModel: it has no file {}", GRAPH_FILES.join(" or "))
    } else if path.exists() {
        format!("'{shown}' for model '{model}' is not a folder, as a SavedModel is")
    } else {
        format!("unable to find '{shown}' for model instance '{model}'")
    }))
}

/// The graphs of a SavedModel, `None` if its file has not the usual form: then only TensorFlow can read it.
///
/// Errors: the file cannot be read, or is damaged.
pub(super) fn read(folder: &Path) -> Result<Option<SavedModel>> {
    let path = folder.join(GRAPH_FILES[0]);
    let text = match fs::read(&path) {
        Ok(bytes) => match SavedModel::decode(&*bytes) {
            Ok(model) if !model.meta_graphs.is_empty() => return Ok(Some(model)),
            Ok(_) => "it holds no graph".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => error.to_string(),
    };
    Err(Error::internal(format!("unable to read '{}': {text}", path.display())))
}

/// A SavedModel of one graph, as TensorFlow describes it when it has loaded it.
///
/// Errors: the description is damaged.
pub(super) fn described(meta_graph: &[u8]) -> Result<SavedModel> {
    let graph = MetaGraph::decode(meta_graph);
    let graph = graph.map_err(|error| Error::internal(format!("unable to read the loaded graph: {error}")))?;
    Ok(SavedModel { meta_graphs: vec![graph] })
}

/// The graph and signature that a configuration asks for.
///
/// Errors: `InvalidArgument` in Triton's words, and with what there is, if it is not there.
pub(super) fn choose(model: SavedModel, chosen: &Chosen, name: &str) -> Result<Interface> {
    let tag = chosen.tag();
    let tags = |graph: &MetaGraph| graph.info.as_ref().map(|info| info.tags.clone()).unwrap_or_default();
    let Some(graph) = model.meta_graphs.iter().find(|graph| tags(graph) == [tag]) else {
        let sets: Vec<String> =
            model.meta_graphs.iter().map(|graph| format!("{{{}}}", tags(graph).join(", "))).collect();
        let text =
            format!("unable to load model '{name}', expected '{tag}' tag, the SavedModel has: {}", sets.join(", "));
        return Err(Error::invalid_argument(text));
    };
    let offered = || graph.signatures.keys().map(String::as_str).filter(|key| !NOT_FOR_CALLERS.contains(key));
    let wanted = chosen.signature.as_deref().unwrap_or(DEFAULT_SIGNATURE);
    let found = graph.signatures.get(wanted).or_else(|| {
        let other = offered().next().filter(|_| chosen.signature.is_none())?;
        tracing::warn!(model = name, "unable to find serving signature '{wanted}', using signature '{other}'");
        graph.signatures.get(other)
    });
    let Some(definition) = found else {
        let offered = offered().collect::<Vec<_>>().join(", ");
        let text =
            format!("unable to load model '{name}', expected '{wanted}' signature, the SavedModel has: {offered}");
        return Err(Error::invalid_argument(text));
    };
    let list = |tensors: &BTreeMap<String, TensorInfo>, side| {
        tensors.iter().map(|(key, info)| offer(key, info, side, name)).collect()
    };
    let names = |tensors: &BTreeMap<String, TensorInfo>| {
        tensors.iter().map(|(key, info)| (key.clone(), info.name.clone())).collect()
    };
    let (inputs, outputs) = (list(&definition.inputs, "input"), list(&definition.outputs, "output"));
    Ok(Interface {
        signature: Signature { inputs, outputs, initializers: Vec::new() },
        inputs: names(&definition.inputs),
        outputs: names(&definition.outputs),
    })
}

fn offer(key: &str, info: &TensorInfo, side: &str, model: &str) -> Offered {
    let shape = info.shape.as_ref().filter(|shape| !shape.has_unknown_rank);
    let extents = |shape: &TensorShape| shape.extents.iter().map(|extent| extent.size.max(-1)).collect();
    let shape: Option<Shape> = shape.map(extents);
    let unable = |text: String| Kind::Other(format!("unable to process {side} '{key}' for '{model}', {text}"));
    let kind = match (types::data_type(info.data_type), shape) {
        _ if info.name.is_empty() => unable("it consists of several tensors".into()),
        (None, _) => unable(format!("unsupported datatype '{}'", types::name(info.data_type))),
        (Some(data_type), Some(shape)) => Kind::Tensor(data_type, shape),
        (Some(data_type), None) => Kind::AnyRank(data_type),
    };
    Offered { name: key.to_owned(), kind }
}

#[cfg(test)]
mod tests {
    use server_core::tensor::DataType;

    use super::{
        super::messages::{Extent, MetaInfo, SignatureDef},
        *,
    };

    fn tensor(name: &str, data_type: i32, shape: Option<&[i64]>) -> TensorInfo {
        let extents = |shape: &[i64]| shape.iter().map(|&size| Extent { size }).collect();
        let shape = shape.map(|shape| TensorShape { extents: extents(shape), has_unknown_rank: false });
        TensorInfo { name: name.into(), data_type, shape }
    }

    fn graph(tags: &[&str], signatures: &[&str]) -> MetaGraph {
        let definition = SignatureDef {
            inputs: [
                ("sparse", tensor("", 1, Some(&[2]))),
                ("complex", tensor("c:0", 8, None)),
                ("x", tensor("feed:1", 1, Some(&[-1, 2]))),
                ("any", tensor("any:0", 3, None)),
                ("scalar", tensor("s:0", 7, Some(&[]))),
            ]
            .map(|(name, info)| (name.to_owned(), info))
            .into(),
            outputs: [("y".to_owned(), tensor("call:0", 1, Some(&[-1])))].into(),
        };
        MetaGraph {
            info: Some(MetaInfo { tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }),
            signatures: signatures.iter().map(|name| ((*name).to_owned(), definition.clone())).collect(),
        }
    }

    fn model() -> SavedModel {
        let meta_graphs =
            vec![graph(&["serve"], &["__saved_model_init_op", "rank", "score"]), graph(&["serve", "gpu"], &[])];
        SavedModel { meta_graphs }
    }

    fn chosen(tag: Option<&str>, signature: Option<&str>) -> Chosen {
        Chosen { tag: tag.map(str::to_owned), signature: signature.map(str::to_owned) }
    }

    #[test]
    fn tensors_are_what_the_signature_says() {
        let interface = choose(model(), &chosen(None, Some("score")), "m").unwrap();
        let text = |text: &str| Kind::Other(text.to_owned());
        let expect = [
            ("any", Kind::AnyRank(DataType::Int32)),
            ("complex", text("unable to process input 'complex' for 'm', unsupported datatype 'DT_COMPLEX64'")),
            ("scalar", Kind::Tensor(DataType::Bytes, Shape::new())),
            ("sparse", text("unable to process input 'sparse' for 'm', it consists of several tensors")),
            ("x", Kind::Tensor(DataType::Fp32, Shape::from_slice(&[-1, 2]))),
        ];
        let expect = expect.map(|(name, kind)| Offered { name: name.into(), kind });
        assert_eq!(interface.signature.inputs, expect);
        assert_eq!((&*interface.inputs["x"], &*interface.outputs["y"]), ("feed:1", "call:0"));
    }

    #[test]
    fn a_signature_of_another_name_will_do_if_none_is_asked_for() {
        let mut model = model();
        model.meta_graphs[0].signatures.get_mut("rank").unwrap().outputs.clear();
        assert!(choose(model, &chosen(None, None), "m").unwrap().signature.outputs.is_empty());
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_there_is() {
        let refusal = |chosen: Chosen| choose(model(), &chosen, "m").unwrap_err().message.into_owned();
        assert_eq!(
            refusal(chosen(Some("gpu"), None)),
            "unable to load model 'm', expected 'gpu' tag, the SavedModel has: {serve}, {serve, gpu}"
        );
        assert_eq!(
            refusal(chosen(None, Some("serving_default"))),
            "unable to load model 'm', expected 'serving_default' signature, the SavedModel has: rank, score"
        );
    }
}
