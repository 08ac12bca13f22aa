//! `--backend-config=onnxruntime,enable-global-threadpool=1`: one pool of threads for all sessions. The pool is made with
//! the library, so this is a process of its own.

#[cfg(test)]
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the unit tests, which use all of it")]
mod testing;

use std::{collections::BTreeMap, fs, sync::Arc};

use server_core::{
    backend::{Backends, Health},
    config::ModelConfig,
};
use testing::{floats, no_host, on_cpu, onnxruntime_settings, output, request, run_one, source, values};

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("every process has threads").count()
}

#[test]
fn sessions_bring_no_threads_of_their_own() {
    let Some(mut settings) = onnxruntime_settings() else { return };
    settings.insert("enable-global-threadpool".into(), "1".into());
    settings.insert("intra_op_thread_count".into(), "3".into());
    settings.insert("inter_op_thread_count".into(), "1".into());
    let backends = server_backends::all(&BTreeMap::from([("onnxruntime".to_owned(), settings)]));
    let backend = backends.find("onnxruntime", "", &source("m")).unwrap();
    let mut config = ModelConfig { default_model_filename: "add_fixed.onnx".into(), ..ModelConfig::default() };
    let before = threads();
    let mut model = backend.open(&source("m"), &mut config, true, &no_host()).unwrap();
    let pool = threads() - before;
    assert!(pool >= 2, "three threads work on an operator: two of the pool, and the one that calls");

    model.configure(&Arc::new(config)).unwrap();
    let mut instances: Vec<_> = (0..3).map(|_| model.instance(&on_cpu(), &Health::default()).unwrap()).collect();
    assert_eq!(threads() - before, pool);
    for instance in &mut instances {
        let ask = request(["A", "B"].map(|name| floats(name, &[4], &[1.0; 4])));
        assert_eq!(values(output(&run_one(&mut **instance, ask).unwrap(), "SUM")), [2.0; 4]);
    }
}
