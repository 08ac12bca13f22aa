//! The `tensorrt` backend with a stand-in for TensorRT 8.6, whose objects have other tables than those of 10.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "helpers of tests count as tests, and ask stand-ins"
)]

#[path = "fixtures/tensorrt/mod.rs"]
#[allow(dead_code, reason = "shared")]
mod models;
#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use models::{Folder, stand_ins};
use server_core::tensor::DataType;
use testing::{floats, output, request, run_batch, run_one, tensor, values};

const VERSION: [u8; 4] = [8, 6, 1, 6];

#[test]
fn plans_run_with_their_profiles_and_shape_tensors() {
    let Some(stand_ins) = stand_ins(8) else { return };
    let text = "io x in 0 0 0 -1,3\nio s in 3 1 1 2\nio y out 0 0 0 -1,3\nrange 0 x min 1,3\nrange 0 x opt 4,3\nrange 0 x max 8,3\n\
                range 0 s min 2\nrange 0 s opt 2\nrange 0 s max 2\nvalues 0 s min 1,1\nvalues 0 s opt 4,4\nvalues 0 s max 8,16\n";
    let mut instance = Folder::plan(VERSION, text).instance(&*stand_ins.backend(), "").unwrap();
    let mut run = |value: i32| {
        let inputs = [
            floats("x", &[1, 3], &[1.0, 2.0, 3.0]),
            tensor("s", DataType::Int32, &[1, 1], value.to_le_bytes().to_vec()),
        ];
        run_batch(&mut *instance, vec![(1, request(inputs))]).0.remove(0)
    };
    assert_eq!(values(output(&run(16).unwrap(), "y")), [2.0, 4.0, 6.0]);
    assert!(run(17).unwrap_err().message.contains("expected to be in range from 1 to 16, Got: 17"));
}

#[test]
fn outputs_whose_size_depends_on_data_get_their_memory_while_they_run() {
    let Some(stand_ins) = stand_ins(8) else { return };
    let text = "io x in 0 0 0 -1\nio nonzero out 0 0 0 -1\nrange 0 x min 1\nrange 0 x opt 4\nrange 0 x max 4096\n";
    let mut instance =
        Folder::plan(VERSION, text).instance(&*stand_ins.backend(), "input { name: 'x' dims: -1 }").unwrap();
    let outputs = run_one(&mut *instance, request([floats("x", &[3], &[0.0, 3.0, 5.0])])).unwrap();
    assert_eq!(values(output(&outputs, "nonzero")), [3.0, 5.0]);
}
