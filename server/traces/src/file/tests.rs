use std::{collections::BTreeMap, path::Path};

use server_core::trace::{Activity, Ids, Mode, TraceSink, Tracer, settings::Values};

use super::*;

struct Sink(Arc<Files>);

impl TraceSink for Sink {
    fn finished(&self, trace: Finished) {
        self.0.take(trace);
    }

    fn retired(&self, stream: u64) {
        self.0.retire(stream);
    }
}

/// Keeps traces until they are asked for.
#[derive(Default)]
struct Kept(Mutex<Vec<Finished>>);

impl TraceSink for Kept {
    fn finished(&self, trace: Finished) {
        self.0.lock().push(trace);
    }

    fn retired(&self, _stream: u64) {}
}

/// Every request, for as long as there are any.
const EVERY: Values = Values { has_times: true, has_tensors: false, rate: 1, count: -1, log_frequency: 0 };

/// Traces so many requests and ends.
fn trace(path: &Path, values: Values, requests: usize) -> Arc<Files> {
    let files = Arc::new(Files::start(path.to_owned(), crate::monotonic()).unwrap());
    let sink = Arc::new(Sink(files.clone()));
    let tracer = Tracer::new(Mode::Triton, values, Vec::new(), Arc::new(Ids::new([1; 32])), sink);
    for _ in 0..requests {
        let Some(trace) = tracer.sample("m", || None) else { continue };
        trace.begin(&"m".into(), 1, "a \"b\"", Instant::now());
        let step = trace.child();
        step.begin(&"s".into(), 2, "", Instant::now());
        trace.reached(Activity::RequestEnd, Instant::now());
    }
    files.close(Duration::from_secs(60));
    files
}

/// What the files in a folder contain: numbers of traces, in order.
fn read(folder: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let document: Vec<serde_json::Value> =
            serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).expect("a whole document");
        let first = |object: &serde_json::Value| {
            (object["model_name"] == "m").then(|| object["id"].as_u64().expect("a number"))
        };
        found.insert(entry.file_name().into_string().unwrap(), document.iter().filter_map(first).collect());
    }
    found
}

#[track_caller]
fn check(values: Values, requests: usize, expect: &[(&str, &[u64])]) {
    let folder = tempfile::tempdir().unwrap();
    let files = trace(&folder.path().join("t"), values, requests);
    let expect: BTreeMap<String, Vec<u64>> =
        expect.iter().map(|(name, ids)| ((*name).to_owned(), ids.to_vec())).collect();
    assert_eq!(read(folder.path()), expect);
    assert_eq!(files.dropped(), 0);
}

#[test]
fn all_traces_are_in_one_document() {
    check(EVERY, 3, &[("t", &[1, 3, 5])]);
}

#[test]
fn a_log_frequency_makes_files_with_so_many_and_one_with_the_rest() {
    let values = Values { log_frequency: 2, ..EVERY };
    check(values, 5, &[("t.0", &[1, 3]), ("t.1", &[5, 7]), ("t.2", &[9])]);
}

#[test]
fn a_count_that_is_used_up_makes_a_file_of_its_own() {
    check(Values { count: 1, ..EVERY }, 4, &[("t.0", &[1])]);
    check(Values { count: 3, ..EVERY }, 5, &[("t.0", &[1, 3, 5])]);
    check(Values { count: 3, log_frequency: 2, ..EVERY }, 5, &[("t.0", &[1, 3]), ("t.1", &[5])]);
}

#[test]
fn what_a_setting_has_that_ends_before_its_count_is_in_the_one_document() {
    check(Values { count: 3, ..EVERY }, 2, &[("t", &[1, 3])]);
}

#[test]
fn a_count_with_a_rate_is_not_awaited() {
    check(Values { count: 1, rate: 2, ..EVERY }, 4, &[("t", &[1])]);
}

#[test]
fn the_document_is_not_begun_while_a_count_is_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(folder.path().join("t"), crate::monotonic(), Arc::default());
    let sink = Arc::new(Kept::default());
    let values = Values { count: 2, ..EVERY };
    let tracer = Tracer::new(Mode::Triton, values, Vec::new(), Arc::new(Ids::new([1; 32])), sink.clone());
    for expect in [&[][..], &["t.0"]] {
        tracer.sample("m", || None).unwrap().begin(&"m".into(), 1, "", Instant::now());
        writer.handle(Item::Trace(Box::new(sink.0.lock().pop().unwrap())));
        writer.flush_all(false);
        assert_eq!(read(folder.path()).into_keys().collect::<Vec<_>>(), expect);
    }
}

#[test]
fn parts_of_a_request_name_their_parent() {
    let folder = tempfile::tempdir().unwrap();
    trace(&folder.path().join("t"), EVERY, 1);
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join("t")).unwrap()).unwrap();
    assert_eq!(document[0], serde_json::json!({"id": 2, "model_name": "s", "model_version": 2, "parent_id": 1}));
    assert_eq!(document[1]["timestamps"][0]["name"], "REQUEST_START");
    let first = serde_json::json!({"id": 1, "model_name": "m", "model_version": 1, "request_id": "a \"b\""});
    assert_eq!(document[2], first);
}

#[test]
fn traces_that_no_file_can_take_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for values in [EVERY, Values { log_frequency: 1, ..EVERY }] {
        let files = trace(&folder.path().join("missing").join("t"), values, 2);
        assert_eq!((files.written(), files.dropped()), (0, 2));
    }
    #[cfg(target_os = "linux")]
    {
        let files = trace(Path::new("/dev/full"), EVERY, 2);
        assert_eq!((files.written(), files.dropped()), (0, 2));
    }
}

#[test]
fn a_trace_that_tells_nothing_leaves_a_whole_document() {
    let tensors = Values { has_times: false, has_tensors: true, ..EVERY };
    check(tensors, 3, &[]);
    check(Values { log_frequency: 2, ..tensors }, 2, &[("t.0", &[])]);
}
