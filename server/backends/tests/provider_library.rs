//! `--backend-config=onnxruntime,ep-library.NAME=PATH`: execution providers in libraries of their own. The settings are read with
//! the library of ONNX Runtime, so this is a process of its own.

#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{collections::BTreeMap, sync::Arc};

use server_core::{
    backend::{Backends, Device, Health, Instance, Placement},
    config::from_text,
    error::{Code, Error},
};
use testing::{example, floats, no_host, on_cpu, onnxruntime_settings, output, request, run_one, source, values};

#[test]
fn a_model_runs_on_the_provider_of_a_library_that_the_settings_name() {
    let (Some(mut settings), Some(library)) = (onnxruntime_settings(), example("execution_provider")) else { return };
    settings.insert("ep-library.double".into(), library);
    settings.insert("ep-library.gone".into(), "/nowhere/libprovider.so".into());
    let backends = server_backends::all(&BTreeMap::from([("onnxruntime".to_owned(), settings)]));
    let backend = backends.find("onnxruntime", "", &source("m")).unwrap();
    let instance = |accelerators: &str, device: Device| -> Result<Box<dyn Instance>, Error> {
        let mut config = from_text(&format!(
            "name: 'm' default_model_filename: 'scalar.onnx'
             input {{ name: 'X' data_type: TYPE_FP32 dims: 1 }} output {{ name: 'NEGATIVE' data_type: TYPE_FP32 dims: 1 }}
             optimization {{ execution_accelerators {{ {accelerators} }} }}"
        ))?;
        let mut model = backend.open(&source("m"), &mut config, true, &no_host())?;
        model.configure(&Arc::new(config))?;
        model.instance(&Placement { device, ..on_cpu() }, &Health::default())
    };
    let negative = |accelerators: &str| {
        let mut instance = instance(accelerators, Device::Cpu).unwrap();
        values(output(&run_one(&mut *instance, request([floats("X", &[1], &[2.5])])).unwrap(), "NEGATIVE"))
    };
    assert_eq!(negative(""), [-2.5], "ONNX Runtime's own");
    assert_eq!(negative("cpu_execution_accelerator { name: 'double' }"), [-5.0]);
    let tenfold = "cpu_execution_accelerator { name: 'double' parameters { key: 'factor' value: '10' } }";
    assert_eq!(negative(tenfold), [-25.0]);
    assert_eq!(negative("gpu_execution_accelerator { name: 'double' }"), [-2.5], "not of this instance");

    let refusal = |accelerators: &str, device: Device| instance(accelerators, device).err().unwrap();
    let wrong = "cpu_execution_accelerator { name: 'double' parameters { key: 'factor' value: 'many' } }";
    let error = refusal(wrong, Device::Cpu);
    assert!(error.message.ends_with("factor is a number"), "{error}");
    let error = refusal("gpu_execution_accelerator { name: 'double' }", Device::Gpu(0));
    let text = "execution provider library 'double' offers nothing for GPU 0 on this machine (it offers: DoubleNegative on CPU)";
    assert_eq!((error.code, &*error.message), (Code::InvalidArgument, text));
    let error = refusal("cpu_execution_accelerator { name: 'gone' }", Device::Cpu);
    let start = "execution provider library 'gone' (/nowhere/libprovider.so) cannot be used: onnx runtime error ";
    assert!(error.message.starts_with(start), "{error}");
    assert!(error.message.ends_with("; --backend-config=onnxruntime,ep-library.gone=PATH names its file"), "{error}");
    let error = refusal("cpu_execution_accelerator { name: 'other' }", Device::Cpu);
    assert_eq!(error.message, "unknown Execution Accelerator 'other' is requested");
}
