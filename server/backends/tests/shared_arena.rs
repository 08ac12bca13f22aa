//! `--backend-config=onnxruntime,enable-shared-arena=1`: one arena of host memory for all sessions. It is made with the library,
//! so this is a process of its own.

#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{collections::BTreeMap, fs, sync::Arc};

use server_core::{
    backend::{Backends, Health},
    config::ModelConfig,
    tensor::DataType,
};
use testing::{no_host, on_cpu, onnxruntime_settings, output, request, run_batch, source, tensor};

/// Bytes of this process that are in memory.
fn resident() -> i64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("every process has it");
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<i64>().ok()).expect("a number") * 4096
}

#[test]
fn what_one_session_has_done_with_is_there_for_the_next() {
    let Some(mut settings) = onnxruntime_settings() else { return };
    settings.insert("enable-shared-arena".into(), "1".into());
    let backends = server_backends::all(&BTreeMap::from([("onnxruntime".to_owned(), settings)]));
    let backend = backends.find("onnxruntime", "", &source("m")).unwrap();
    let mut config = ModelConfig { default_model_filename: "transpose.onnx".into(), ..ModelConfig::default() };
    let mut model = backend.open(&source("m"), &mut config, true, &no_host()).unwrap();
    model.configure(&Arc::new(config)).unwrap();
    let mut instances: Vec<_> = (0..2).map(|_| model.instance(&on_cpu(), &Health::default()).unwrap()).collect();
    let side = 4096; // 64 MiB in, and as much out
    let grown: Vec<i64> = instances
        .iter_mut()
        .map(|instance| {
            let before = resident();
            let asked = tensor("X", DataType::Int32, &[1, side, side], vec![1; (side * side * 4) as usize]);
            let (replies, _) = run_batch(&mut **instance, vec![(1, request([asked]))]);
            assert_eq!(output(replies[0].as_ref().unwrap(), "TURNED").shape.as_slice(), [1, side, side]);
            drop(replies);
            resident() - before
        })
        .collect();
    assert!(grown[0] >= 60 << 20, "the first takes what its output needs: {grown:?}");
    assert!(grown[1] < grown[0] / 2, "the second takes it from the first: {grown:?}");
    assert_eq!(model.memory(), [], "what many have together is no single one's");
}
