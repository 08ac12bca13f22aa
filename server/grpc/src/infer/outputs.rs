//! The requested outputs of a message: where they are wanted, and which of them are classified.

use server_core::{
    classification::classify,
    error::{Error, Result},
    interface::Interface,
    request::{OutputWindow, RequestedOutput},
    response::InferResponse,
    tensor::Name,
};
use server_engine::SharedMemory;
use server_proto::inference::{infer_parameter::ParameterChoice, model_infer_request::InferRequestedOutputTensor};
use smallvec::SmallVec;

use super::region::region;

/// Classified outputs, and the number of classes of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Classes(Vec<(Name, u32)>);

/// More bytes than this are classified on the blocking pool: about a millisecond of work.
const MAX_INLINE: usize = 256 << 10;

impl Classes {
    /// Whether [`Classes::apply`] takes so long that it belongs on the blocking pool.
    pub(crate) fn is_long(&self, response: &InferResponse) -> bool {
        let is_classified = |name: &Name| self.0.iter().any(|(classified, _)| classified == name);
        let classified = response.outputs.iter().filter(|output| is_classified(&output.name));
        !self.0.is_empty() && classified.map(|output| output.data.len()).sum::<usize>() > MAX_INLINE
    }

    /// Replaces the values of those outputs by their top classes.
    ///
    /// Errors: the type has no order, or there are too many values.
    pub(crate) fn apply(&self, interface: &Interface, response: &mut InferResponse) -> Result<()> {
        for (name, count) in &self.0 {
            let labels = interface.output(name).map(|output| output.labels.as_slice()).unwrap_or_default();
            for output in response.outputs.iter_mut().filter(|output| output.name == *name) {
                *output = classify(output, interface.max_batch_size > 0, *count, labels)?;
            }
        }
        Ok(())
    }
}

/// Reads the requested outputs.
///
/// Errors: `InvalidArgument` for parameters of the wrong type or that exclude each other; those of
/// [`SharedMemory::output`].
pub(super) fn read(
    interface: &Interface,
    shared_memory: &SharedMemory,
    outputs: Vec<InferRequestedOutputTensor>,
) -> Result<(SmallVec<[RequestedOutput; 2]>, Classes)> {
    let mut requested = SmallVec::with_capacity(outputs.len());
    let mut classes = Classes::default();
    for (position, output) in outputs.into_iter().enumerate() {
        let name = match interface.output_near(position, &output.name) {
            Some(spec) => spec.name.clone(),
            None => Name::from(output.name.as_str()),
        };
        let (classification, window) = match output.parameters.is_empty() {
            true => (0, None),
            false => read_parameters(&output, shared_memory)?,
        };
        if classification > 0 {
            classes.0.push((name.clone(), classification));
        }
        requested.push(RequestedOutput { name, classification, window });
    }
    Ok((requested, classes))
}

/// The number of classes requested of one output, 0 for its values; and where it is wanted instead of in the message.
fn read_parameters(
    output: &InferRequestedOutputTensor,
    shared_memory: &SharedMemory,
) -> Result<(u32, Option<OutputWindow>)> {
    let region = region(&output.name, &output.parameters)?;
    let classification = match output.parameters.get("classification").map(|given| &given.parameter_choice) {
        None => 0,
        Some(&Some(ParameterChoice::Int64Param(count))) if count > 0 => u32::try_from(count).unwrap_or(u32::MAX),
        Some(Some(ParameterChoice::Int64Param(_))) => {
            return Err(Error::invalid_argument("invalid value for 'classification' parameter, expected >= 0"));
        }
        Some(_) => {
            return Err(Error::invalid_argument(
                "invalid value type for 'classification' parameter, expected int64_param",
            ));
        }
    };
    match region {
        None => Ok((classification, None)),
        Some(_) if classification > 0 => {
            Err(Error::invalid_argument("output can't set both 'shared_memory_region' and 'classification'"))
        }
        Some(part) => Ok((0, Some(shared_memory.output(&part)?))),
    }
}

#[cfg(test)]
mod tests {
    use server_core::{
        interface::OutputSpec,
        tensor::{DataType, Shape, Tensor, strings},
    };
    use server_proto::inference::InferParameter;

    use super::*;

    fn model() -> Interface {
        Interface {
            model_name: "m".into(),
            version: 1,
            max_batch_size: 8,
            inputs: vec![],
            outputs: vec![OutputSpec {
                name: "x".into(),
                data_type: DataType::Fp32,
                dims: Shape::from_slice(&[2]),
                reshape: None,
                labels: vec!["no".into(), "yes".into()],
            }],
            is_decoupled: false,
            has_sequences: false,
        }
    }

    fn asking(parameters: Vec<(&str, ParameterChoice)>) -> Vec<InferRequestedOutputTensor> {
        let named = |(key, choice): (&str, _)| (key.to_owned(), InferParameter { parameter_choice: Some(choice) });
        vec![InferRequestedOutputTensor { name: "x".into(), parameters: parameters.into_iter().map(named).collect() }]
    }

    #[test]
    fn classes_take_the_place_of_values() {
        let asked = asking(vec![("classification", ParameterChoice::Int64Param(1))]);
        let (requested, classes) = read(&model(), &SharedMemory::default(), asked).unwrap();
        assert_eq!(requested[..], [RequestedOutput { classification: 1, ..RequestedOutput::values("x") }]);
        let values: Vec<u8> = [0.25f32, 0.75, 2.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = |name: &str| Tensor {
            name: name.into(),
            data_type: DataType::Fp32,
            shape: Shape::from_slice(&[2, 2]),
            data: values.clone().into(),
        };
        let mut response = InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: String::new(),
            parameters: Default::default(),
            outputs: [tensor("x"), tensor("y")].into_iter().collect(),
        };
        classes.apply(&model(), &mut response).unwrap();
        let [x, y] = &response.outputs[..] else { panic!("two outputs") };
        assert_eq!((x.data_type, &x.shape[..]), (DataType::Bytes, &[2, 1][..]));
        let expected = strings::join([b"0.750000:1:yes".as_slice(), b"2.000000:0:no"]);
        assert_eq!(x.data.as_host(), Some(expected.as_slice()));
        assert_eq!((y.data_type, y.data.as_host()), (DataType::Fp32, Some(values.as_slice())));
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused() {
        let region = ("shared_memory_region", ParameterChoice::StringParam("r".into()));
        let size = ("shared_memory_byte_size", ParameterChoice::Int64Param(64));
        let classes = |count| ("classification", ParameterChoice::Int64Param(count));
        for (parameters, error) in [
            (
                vec![("classification", ParameterChoice::StringParam("1".into()))],
                Error::invalid_argument("invalid value type for 'classification' parameter, expected int64_param"),
            ),
            (vec![classes(-1)], Error::invalid_argument("invalid value for 'classification' parameter, expected >= 0")),
            (vec![classes(0)], Error::invalid_argument("invalid value for 'classification' parameter, expected >= 0")),
            (
                vec![region.clone(), size.clone(), classes(1)],
                Error::invalid_argument("output can't set both 'shared_memory_region' and 'classification'"),
            ),
            (vec![region, size], Error::not_found("Unable to find shared memory region: 'r'")),
        ] {
            assert_eq!(read(&model(), &SharedMemory::default(), asking(parameters)).unwrap_err(), error);
        }
    }
}
