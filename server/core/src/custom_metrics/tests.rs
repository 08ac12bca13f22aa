use super::*;
use crate::{error::Code, stats::ModelSnapshot};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn page(metrics: &CustomMetrics) -> String {
    let mut page = Page::default();
    metrics.add_to(&mut page);
    page.text()
}

#[test]
fn every_kind_is_written_as_prometheus_reads_it() {
    let metrics = CustomMetrics::default();
    let counter = metrics.family(MetricKind::Counter, "vllm:tokens_total", "Tokens\nand a \\").unwrap();
    let all = counter.metric(labels(&[]), None).unwrap();
    let some = counter.metric(labels(&[("version", "1"), ("model", "a \"b\"\n\\")]), None).unwrap();
    all.increment(3.0).unwrap();
    some.increment(0.5).unwrap();
    let gauge = metrics.family(MetricKind::Gauge, "load", "Load").unwrap();
    let values = [
        ("a", -2.5),
        ("b", f64::INFINITY),
        ("c", f64::NAN),
        ("d", 1e300),
        ("e", 4e-7),
        ("f", -123456.5),
        ("g", 0.00025),
    ];
    let gauges = values.map(|(label, value)| {
        let metric = gauge.metric(labels(&[("of", label)]), None).unwrap();
        metric.set(value).unwrap();
        metric
    });
    let latency = metrics.family(MetricKind::Histogram, "latency_seconds", "Latency").unwrap();
    let latency = latency.metric(labels(&[("model", "m")]), Some(&[0.1, 1.0, 2.5, f64::INFINITY])).unwrap();
    for value in [0.05, 0.1, 0.3, 7.0] {
        latency.observe(value).unwrap();
    }
    let _unused = metrics.family(MetricKind::Counter, "without_series", "Nothing").unwrap();
    insta::assert_snapshot!(page(&metrics));
    drop((all, some, gauges, latency));
    drop((counter, gauge));
    assert_eq!(page(&metrics), "");
}

#[test]
fn those_who_define_the_same_share_it_and_the_last_takes_it_along() {
    let metrics = CustomMetrics::default();
    let family = || metrics.family(MetricKind::Counter, "requests", "Requests").unwrap();
    let first = family().metric(labels(&[("model", "m")]), None).unwrap();
    let second = family().metric(labels(&[("model", "m")]), None).unwrap();
    let other = family().metric(labels(&[("model", "n")]), None).unwrap();
    first.increment(1.0).unwrap();
    second.increment(2.0).unwrap();
    assert_eq!((first.value(), second.value(), other.value()), (Ok(3.0), Ok(3.0), Ok(0.0)));
    drop(first);
    assert!(page(&metrics).contains("requests{model=\"m\"} 3\n"));
    drop(second);
    assert!(!page(&metrics).contains("model=\"m\"") && page(&metrics).contains("model=\"n\""));
    drop(other);
    assert!(metrics.0.lock().is_empty(), "the family has gone with its last series");
    assert!(metrics.family(MetricKind::Gauge, "requests", "Another").is_ok(), "its name is free");
}

#[test]
fn all_is_settled_when_every_sender_says_so() {
    use std::sync::atomic::AtomicBool;
    struct Late(AtomicBool);
    impl Sender for Late {
        fn is_settled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    let metrics = CustomMetrics::default();
    assert!(metrics.are_settled());
    let senders = [true, false].map(|settled| Arc::new(Late(settled.into())));
    for sender in &senders {
        let known: Arc<dyn Sender> = sender.clone();
        metrics.await_changes_of(Arc::downgrade(&known));
    }
    assert!(!metrics.are_settled());
    senders[1].0.store(true, Ordering::Relaxed);
    assert!(metrics.are_settled());
    senders[0].0.store(false, Ordering::Relaxed);
    drop(senders);
    assert!(metrics.are_settled(), "nobody waits for one who is gone");
    metrics.await_changes_of(Weak::<Late>::new());
    assert_eq!(metrics.2.lock().len(), 1, "those who are gone are forgotten");
}

#[test]
fn a_family_has_one_kind_and_a_name_of_its_own() {
    let metrics = CustomMetrics::default();
    let _held = metrics.family(MetricKind::Counter, "requests", "Requests").unwrap();
    let error = |kind, name| {
        let error = metrics.family(kind, name, "").unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        error.message.into_owned()
    };
    assert_eq!(error(MetricKind::Gauge, "requests"), "Family name already exists with different type");
    for name in ["", "1st", "a-b", "a b", "__a", "ä"] {
        assert!(
            error(MetricKind::Counter, name).starts_with(&format!("Invalid metric name '{name}': it must consist"))
        );
    }
    assert_eq!(
        error(MetricKind::Counter, "tritonserver_anything"),
        "Invalid metric name 'tritonserver_anything': names that begin with 'tritonserver_' are the server's own"
    );
    let another = "Family name already exists with different type";
    assert_eq!(error(MetricKind::Gauge, "nv_inference_count"), another);
    assert_eq!(error(MetricKind::Counter, "nv_cpu_utilization"), another);
    assert_eq!(error(MetricKind::Histogram, "nv_inference_pending_request_count"), another);
    // as the model of TensorRT-LLM has it
    assert!(metrics.family(MetricKind::Gauge, "nv_trt_llm_request_metrics", "").is_ok());
}

#[test]
fn series_of_a_family_that_the_server_has_too_stand_with_its_own() {
    let metrics = CustomMetrics::default();
    let family = |name| metrics.family(MetricKind::Counter, name, "Of a model").unwrap();
    let count = family("nv_inference_count");
    let [own, same] = [labels(&[("of", "me")]), labels(&[("model", "m"), ("version", "1")])];
    let _held = [own, same].map(|labels| count.metric(labels, None).unwrap());
    let _of_last = family("nv_model_loads").metric(labels(&[]), None).unwrap();
    let model = |name: &str, count| ModelSnapshot {
        name: name.into(),
        version: 1,
        inference_count: count,
        ..ModelSnapshot::default()
    };
    let mut page = Page::default();
    page.add_models(&[model("m", 7)], true);
    let server = page.text();
    metrics.add_to(&mut page);
    let own = "nv_inference_count{model=\"m\",version=\"1\"} 7\n";
    let expect = server.replace(own, &format!("{own}nv_inference_count{{of=\"me\"}} 0\n"))
        + "# HELP nv_model_loads Of a model\n# TYPE nv_model_loads counter\nnv_model_loads 0\n";
    assert_eq!(page.text(), expect);
}

#[test]
fn a_series_takes_what_its_kind_knows() {
    let metrics = CustomMetrics::default();
    let series = |kind, buckets: Option<&[f64]>| {
        metrics.family(kind, &format!("a_{}", kind.text()), "").and_then(|family| family.metric(labels(&[]), buckets))
    };
    let counter = series(MetricKind::Counter, None).unwrap();
    for value in [-1.0, f64::NAN] {
        assert_eq!(
            counter.increment(value).unwrap_err().message,
            "TRITONSERVER_METRIC_KIND_COUNTER can only be incremented monotonically by non-negative values."
        );
    }
    let gauge = series(MetricKind::Gauge, None).unwrap();
    gauge.set(5.0).unwrap();
    gauge.increment(-7.0).unwrap();
    assert_eq!(gauge.value(), Ok(-2.0));
    let histogram = series(MetricKind::Histogram, Some(&[])).unwrap();
    histogram.observe(1.0).unwrap();
    let unsupported = [
        (counter.set(1.0), "TRITONSERVER_METRIC_KIND_COUNTER does not support Set"),
        (counter.observe(1.0), "TRITONSERVER_METRIC_KIND_COUNTER does not support Observe"),
        (gauge.observe(1.0), "TRITONSERVER_METRIC_KIND_GAUGE does not support Observe"),
        (histogram.increment(1.0), "TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Increment"),
        (histogram.set(1.0), "TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Set"),
        (histogram.value().map(drop), "TRITONSERVER_METRIC_KIND_HISTOGRAM does not support Value"),
    ];
    for (result, text) in unsupported {
        assert_eq!(result, Err(Error::unsupported(text)));
    }
    let refused = |kind, buckets| series(kind, buckets).unwrap_err().message.into_owned();
    assert_eq!(refused(MetricKind::Histogram, None), "Bucket boundaries not found in Metric args.");
    assert_eq!(refused(MetricKind::Counter, Some(&[1.0])), "Unexpected args found in counter Metric constructor.");
    for buckets in [&[1.0, 1.0][..], &[2.0, 1.0], &[f64::NAN], &[f64::INFINITY, 1.0]] {
        assert_eq!(refused(MetricKind::Histogram, Some(buckets)), "Bucket Boundaries must be strictly sorted");
    }
}

#[test]
fn labels_have_names_that_prometheus_reads() {
    let metrics = CustomMetrics::default();
    let histogram = metrics.family(MetricKind::Histogram, "h", "").unwrap();
    for name in ["", "a:b", "1", "a-b", "__a", "le"] {
        let error = histogram.metric(labels(&[(name, "x")]), Some(&[1.0])).unwrap_err();
        assert!(error.message.starts_with(&format!("Invalid label name '{name}' of metric 'h': ")), "{error}");
    }
    let counter = metrics.family(MetricKind::Counter, "c", "").unwrap();
    assert!(counter.metric(labels(&[("le", "x")]), None).is_ok());
}

#[test]
fn a_model_cannot_fill_the_page_without_end() {
    let metrics = CustomMetrics::default();
    let family = metrics.family(MetricKind::Counter, "requests", "Requests").unwrap();
    let of = |number: usize| family.metric(labels(&[("caller", &number.to_string())]), None);
    let mut held: Vec<Metric> = (0..MAX_SERIES).map(|number| of(number).unwrap()).collect();
    let error = of(MAX_SERIES).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.starts_with("metric 'requests' cannot have one more series: "), "{error:?}");
    let again = of(7).expect("one that is there already");
    drop((held.pop(), again));
    held.push(of(MAX_SERIES).expect("there is room again"));
    assert!(of(MAX_SERIES + 1).is_err());
    let long = family.metric(labels(&[("caller", &"x".repeat(MAX_LABELS))]), None).unwrap_err();
    assert_eq!(long.message, "labels of metric 'requests' have 16390 bytes, and at most 16384 are possible");
    drop(held);
    assert_eq!(metrics.1.load(Ordering::Relaxed), 0);
    let names: Vec<_> =
        (1..MAX_FAMILIES).map(|it| metrics.family(MetricKind::Gauge, &format!("f{it}"), "").unwrap()).collect();
    assert!(metrics.family(MetricKind::Gauge, "more", "").is_err());
    assert!(metrics.family(MetricKind::Gauge, "f1", "").is_ok());
    drop(names);
    assert!(metrics.family(MetricKind::Gauge, "more", "").is_ok());
}
