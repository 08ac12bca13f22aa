//! Through the contract: sums and differences.

use server_core::{backend::Instance, error::Error, tensor::DataType};

use crate::{
    testing::{bytes, floats, output, request, run_batch, run_one, tensor, values},
    testing_over_time::load,
};

const CONFIG: &str = "name: 'm' max_batch_size: 4
    input [ { name: 'INPUT0' data_type: TYPE_FP32 dims: 2 }, { name: 'INPUT1' data_type: TYPE_FP32 dims: 2 } ]
    output [ { name: 'OUTPUT0' data_type: TYPE_FP32 dims: 2 }, { name: 'OUTPUT1' data_type: TYPE_FP32 dims: 2 } ]";

fn instance(data_type: DataType) -> Result<Box<dyn Instance>, Error> {
    load(&super::backend(Default::default()), &CONFIG.replace("TYPE_FP32", data_type.to_config().as_str_name()))
}

#[test]
fn each_request_of_a_batch_gets_its_sums_and_differences() {
    let mut instance = instance(DataType::Fp32).unwrap();
    let pair = |left: [f32; 2], right: [f32; 2]| {
        request([floats("INPUT0", &[1, 2], &left), floats("INPUT1", &[1, 2], &right)])
    };
    let (replies, _) =
        run_batch(&mut *instance, vec![(1, pair([1.0, 2.0], [0.5, 4.0])), (1, pair([0.0; 2], [1.0; 2]))]);
    let of = |reply: usize, name| values(output(replies[reply].as_ref().unwrap(), name));
    assert_eq!((of(0, "OUTPUT0"), of(0, "OUTPUT1")), (vec![1.5, 6.0], vec![0.5, -2.0]));
    assert_eq!((of(1, "OUTPUT0"), of(1, "OUTPUT1")), (vec![1.0, 1.0], vec![-1.0, -1.0]));
}

#[test]
fn whole_numbers_wrap_around() {
    let mut instance = instance(DataType::Uint8).unwrap();
    let input = |name, content: [u8; 2]| tensor(name, DataType::Uint8, &[1, 2], content.to_vec());
    let outputs = run_one(&mut *instance, request([input("INPUT0", [250, 3]), input("INPUT1", [10, 4])])).unwrap();
    assert_eq!(bytes(output(&outputs, "OUTPUT0")), [4, 7]);
    assert_eq!(bytes(output(&outputs, "OUTPUT1")), [240, 255]);
}

#[test]
fn only_numbers_of_one_type_and_one_shape_are_taken() {
    for data_type in DataType::ALL {
        let is_taken = !matches!(data_type, DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes);
        assert_eq!(instance(data_type).is_ok(), is_taken, "{data_type}");
    }
    let mixed = CONFIG.replacen("TYPE_FP32", "TYPE_INT32", 1);
    let error = load(&super::backend(Default::default()), &mixed).err().unwrap();
    assert_eq!(error, Error::invalid_argument("expected INPUT1 datatype to be INT32, got TYPE_FP32"));
    let uneven = request([floats("INPUT0", &[1, 2], &[1.0, 2.0]), floats("INPUT1", &[1, 1], &[1.0])]);
    let error = run_one(&mut *instance(DataType::Fp32).unwrap(), uneven).unwrap_err();
    assert_eq!(error, Error::invalid_argument("expected INPUT0 and INPUT1 shape to match, got [1,2] and [1,1]"));
}
