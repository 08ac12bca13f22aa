use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// A page of our server: model, queue time, exits, oldest age, busy, instances, pending.
fn page(models: &[(&str, u64, u64, u64, u64, u64, u64)]) -> Page {
    let mut text = String::new();
    for (model, waited, exits, oldest, busy, instances, pending) in models {
        for (name, value) in [
            ("tritonserver_queue_time_us", waited),
            ("tritonserver_queue_exits", exits),
            ("tritonserver_queue_oldest_age_us", oldest),
            ("tritonserver_busy_us", busy),
            ("tritonserver_instances", instances),
            ("nv_inference_pending_request_count", pending),
        ] {
            writeln!(text, "{name}{{model=\"{model}\",version=\"1\"}} {value}").unwrap();
        }
    }
    text.push_str("# TYPE nv_gpu_utilization gauge\n");
    Page::read(text.as_bytes()).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Load after looks at these seconds, at the last of them.
fn load(looks: &[(u64, Page)]) -> Option<PodLoad> {
    let mut window = Window::default();
    for (at, page) in looks {
        window.push(seconds(*at), page.clone());
    }
    window.load(seconds(looks.last().unwrap().0))
}

fn values(load: &PodLoad) -> [Option<f64>; 4] {
    Metric::ALL.map(|metric| load.value(metric, &Models::All))
}

#[test]
fn two_looks_make_a_load() {
    let now = load(&[(0, page(&[("a", 0, 0, 0, 0, 2, 0)])), (10, page(&[("a", 5_000_000, 100, 7, 8_000_000, 2, 3)]))]);
    // 5 s of waiting by 100 requests in 10 s; 8 s of work of 20
    assert_eq!(values(&now.unwrap()), [Some(50_000.0), Some(0.5), Some(3.0), Some(40.0)]);
}

#[test]
fn one_look_or_an_old_one_says_nothing_and_an_idle_pod_says_zero() {
    let idle = || page(&[("a", 9, 9, 0, 9, 1, 0)]);
    assert_eq!(load(&[(0, idle())]), None);
    assert_eq!(load(&[(0, idle()), (0, idle())]), None, "no time has passed");
    assert_eq!(values(&load(&[(0, idle()), (5, idle())]).unwrap()), [Some(0.0); 4]);
    let mut window = Window::default();
    window.push(seconds(0), idle());
    window.push(seconds(5), idle());
    assert!(window.load(seconds(5) + STALE).is_some() && window.load(seconds(6) + STALE).is_none());
    window.clear();
    assert_eq!(window.load(seconds(5)), None);
    assert_eq!(values(&load(&[(0, page(&[])), (5, page(&[]))]).unwrap()), [Some(0.0); 4], "no models");
}

#[test]
fn a_stall_shows_as_the_age_of_what_waits() {
    let now = load(&[(0, page(&[("a", 0, 5, 0, 0, 1, 0)])), (10, page(&[("a", 40_000_000, 5, 9_000_000, 0, 1, 8)]))]);
    assert_eq!(values(&now.unwrap()), [Some(9_000_000.0), Some(4.0), Some(8.0), Some(0.0)]);
    // beside a model that works, it has the weight of those that wait
    let before = page(&[("a", 0, 5, 0, 0, 1, 0), ("b", 0, 0, 0, 0, 1, 0)]);
    let after = page(&[("a", 0, 5, 9_000_000, 0, 1, 1), ("b", 0, 8, 0, 0, 1, 0)]);
    assert_eq!(values(&load(&[(0, before), (10, after)]).unwrap())[0], Some(1_000_000.0));
}

#[test]
fn the_window_forgets_what_is_older() {
    let at = |exits, waited| page(&[("a", waited, exits, 0, 0, 1, 0)]);
    let looks = [(0, at(0, 0)), (5, at(10, 9_000_000)), (10, at(20, 9_000_000)), (15, at(30, 9_000_000))];
    assert_eq!(load(&looks).unwrap().window, WINDOW);
    assert_eq!(values(&load(&looks).unwrap())[0], Some(300_000.0));
    let more = [&looks[..], &[(20, at(40, 9_000_000))]].concat();
    assert_eq!(values(&load(&more).unwrap())[0], Some(0.0));
}

#[test]
fn a_server_that_was_started_anew_counts_on() {
    let looks = [
        (0, page(&[("a", 90_000, 90, 0, 0, 1, 0)])),
        (5, page(&[("a", 100_000, 100, 0, 0, 1, 0)])),
        (10, page(&[("a", 4_000, 2, 0, 0, 1, 0)])),
    ];
    let now = load(&looks).unwrap();
    assert_eq!((now.models["a"].exits, now.models["a"].waited_us), (12.0, 14_000.0));
    assert_eq!(now.requests, 102);
}

#[test]
fn models_come_and_go() {
    let a = ("a", 0, 0, 0, 0, 1, 0);
    let b = ("b", 1_000, 10, 0, 0, 1, 0);
    let now = load(&[(0, page(&[a])), (5, page(&[a, b]))]).unwrap();
    assert_eq!(now.value(Metric::QueueLatency, &Models::All), Some(0.0), "whether it is new cannot be told");
    assert_eq!(now.requests, 10);
    let gone = load(&[(0, page(&[a, b])), (5, page(&[a]))]).unwrap();
    assert_eq!(gone.models.keys().collect::<Vec<_>>(), ["a"]);
    let named = |names: &[&str]| Models::Named(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(gone.value(Metric::PendingRequests, &named(&["b"])), None, "it has none of them");
    assert_eq!(gone.value(Metric::PendingRequests, &named(&["b", "a"])), Some(0.0));
}

#[test]
fn only_selected_models_count_and_the_busiest_one_is_the_saturation() {
    let before = page(&[("a", 0, 0, 0, 0, 1, 0), ("b", 0, 0, 0, 0, 1, 0)]);
    let after = page(&[("a", 1_000, 1, 0, 1_000_000, 1, 1), ("b", 9_000, 1, 0, 9_000_000, 1, 2)]);
    let now = load(&[(0, before), (10, after)]).unwrap();
    assert_eq!(values(&now), [Some(5_000.0), Some(0.001), Some(3.0), Some(90.0)]);
    let only_a = Models::Selected([(MODEL_LABEL, "a")].into_iter().collect());
    assert_eq!(
        Metric::ALL.map(|metric| now.value(metric, &only_a)),
        [Some(1_000.0), Some(0.0001), Some(1.0), Some(10.0)]
    );
}

#[test]
fn work_is_noticed_and_idleness_too() {
    let at = |exits, busy, pending| page(&[("a", 0, exits, 0, busy, 1, pending)]);
    let mut window = Window::default();
    assert!(!Window::default().push(seconds(0), at(0, 0, 0)), "nobody has asked it yet");
    assert!(window.push(seconds(0), at(7, 7, 0)), "somebody has, at a time that is not known");
    assert!(!window.push(seconds(5), at(7, 7, 0)));
    assert!(window.push(seconds(10), at(7, 7, 1)), "one waits");
    assert!(window.push(seconds(15), at(8, 7, 0)), "one left the queue");
    assert!(window.push(seconds(20), at(8, 9, 0)), "one executes");
    assert!(!window.push(seconds(25), at(8, 9, 0)));
    let new = page(&[("a", 0, 8, 0, 9, 1, 0), ("b", 0, 1, 0, 0, 1, 0)]);
    assert!(window.push(seconds(30), new), "a model came and was asked since");
    assert!(window.push(seconds(35), page(&[("a", 0, 1, 0, 0, 1, 0)])), "a process that is new was asked since");
}

/// A page of NVIDIA's server.
fn nvidias(queue: u64, success: u64, executions: u64, compute: u64, pending: u64) -> Page {
    let text = format!(
        "# HELP nv_inference_request_success Number\n# TYPE nv_inference_request_success counter\n\
         nv_inference_request_success{{model=\"a\",version=\"1\",gpu_uuid=\"x\"}} {success}\n\
         nv_inference_request_success{{model=\"a\",version=\"1\",gpu_uuid=\"y\"}} {success}\n\
         nv_inference_queue_duration_us{{model=\"a\",version=\"1\",gpu_uuid=\"x\"}} {queue}\n\
         nv_inference_exec_count{{model=\"a\",version=\"1\"}} {executions}\n\
         nv_inference_compute_infer_duration_us{{model=\"a\",version=\"1\"}} {compute}\n\
         nv_inference_pending_request_count{{model=\"a\",version=\"1\"}} {pending}\n\
         nv_inference_request_success{{model=\"ensemble\",version=\"1\"}} {success}\n\
         nv_inference_queue_duration_us{{model=\"ensemble\",version=\"1\"}} {queue}\n"
    );
    Page::read(text.as_bytes()).unwrap()
}

#[test]
fn pages_of_nvidias_server_are_read() {
    // 16 requests in 4 executions of 1 s each
    let now = load(&[(0, nvidias(0, 0, 0, 0, 0)), (10, nvidias(80_000, 8, 4, 16_000_000, 2))]).unwrap();
    assert_eq!(now.models.keys().collect::<Vec<_>>(), ["a"], "an ensemble repeats its members");
    assert_eq!(values(&now), [Some(5_000.0), Some(0.008), Some(2.0), Some(40.0)]);
    let stalled = [(0, nvidias(0, 8, 4, 9, 1)), (5, nvidias(0, 8, 4, 9, 2)), (10, nvidias(0, 8, 4, 9, 3))];
    assert_eq!(values(&load(&stalled).unwrap())[0], Some(10_000_000.0), "at least as long as nothing left");
}

#[test]
fn other_pages_are_refused() {
    let read = |text: &[u8]| Page::read(text).unwrap_err();
    assert_eq!(read(b"\xff\xfe"), PageError::NotText);
    for junk in ["", "<html>nv_</html>", "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1\n"] {
        assert_eq!(read(junk.as_bytes()), PageError::NoMetrics, "{junk}");
    }
    for junk in [
        "{model=\"a\",version=\"1\"}",
        "{model=\"a\",version=\"1\" 5",
        "{model=\"a} 5",
        "{model=a} 5",
        "{model=\"a\"} x",
        "{model=\"a\"} 5 6 7",
        "{model=\"a\"} 5 now",
        "{model=\"a\";version=\"1\"} 5",
        "{model=\"a\\",
        "{",
        " 5",
    ] {
        let page = format!("# TYPE nv_x gauge\ntritonserver_queue_exits{junk}\n");
        assert_eq!(read(page.as_bytes()), PageError::Malformed(2), "{junk}");
    }
}

#[test]
fn names_are_read_as_they_were_written() {
    let page = Page::read(
        b"tritonserver_queue_exits { version = \"2\" , model = \"a \\\"b\\\\c\\nd\\\" {}=,\", } 5 1700000000000\r\n\
          tritonserver_queue_time_us{model=\"a \\\"b\\\\c\\nd\\\" {}=,\",version=\"2\"} 1.5e3\n\
          tritonserver_queue_exits_of_others{junk\n",
    );
    let expected = Series {
        model: "a \"b\\c\nd\" {}=,".into(),
        version: "2".into(),
        exits: 5.0,
        waited_us: 1500.0,
        oldest_us: Some(0.0),
        ..Series::default()
    };
    assert_eq!(page.unwrap().series, [expected]);
}

#[test]
fn values_that_are_no_numbers_are_passed_over() {
    for value in ["NaN", "+Inf", "-Inf", "-1"] {
        let text = format!(
            "tritonserver_queue_exits{{model=\"a\",version=\"1\"}} {value}\n\
             tritonserver_queue_time_us{{model=\"a\",version=\"1\"}} 1\n"
        );
        assert_eq!(Page::read(text.as_bytes()).unwrap().series, [], "{value}");
        let text = text.replace(value, "5")
            + &format!("nv_inference_pending_request_count{{model=\"a\",version=\"1\"}} {value}\n");
        assert_eq!(Page::read(text.as_bytes()).unwrap().series[0].pending, 0.0, "{value}");
    }
}

#[test]
fn the_load_of_those_that_scale_by_it_is_wanted() {
    let is_wanted = |autoscaling: serde_json::Value| {
        is_wanted(&serde_json::from_value(serde_json::json!({ "autoscaling": autoscaling })).unwrap())
    };
    let prometheus = serde_json::json!({ "serverAddress": "http://p:9090" });
    assert!(!is_wanted(serde_json::Value::Null));
    assert!(is_wanted(serde_json::json!({ "maxReplicas": 2 })));
    assert!(is_wanted(serde_json::json!({ "maxReplicas": 2, "engine": "KEDA" })));
    assert!(!is_wanted(serde_json::json!({ "maxReplicas": 2, "engine": "KEDA", "prometheus": prometheus })));
    assert!(!is_wanted(serde_json::json!({ "maxReplicas": 2, "engine": "PrometheusAdapter" })));
    assert!(is_wanted(serde_json::json!({ "maxReplicas": 2, "engine": "PrometheusAdapter", "minReplicas": 0 })));
}

#[test]
fn metrics_are_found_by_their_names() {
    for metric in Metric::ALL {
        assert_eq!(Metric::named(metric.name()), Some(metric));
    }
    assert_eq!(Metric::named("cpu"), None);
}

proptest! {
    #[test]
    fn no_page_upsets_the_reader(text in "(?s).{0,200}", prefix in 0..4_usize) {
        let prefix = ["", "nv_inference_exec_count", "tritonserver_queue_exits{model=\"", "tritonserver_busy_us{"][prefix];
        let page = Page::read(format!("{prefix}{text}").as_bytes());
        if let Ok(page) = page {
            prop_assert!(page.series.iter().all(|series| series.exits.is_finite() && series.exits >= 0.0));
        }
    }

    #[test]
    fn every_load_is_finite_and_none_is_negative(
        looks in prop::collection::vec((0..10_u64, prop::collection::vec((0..3_usize, 0..1_u64 << 50, 0..1000_u64, 0..1_u64 << 50, 0..1_u64 << 50, 0..3_u64, 0..9_u64), 0..4)), 1..8),
    ) {
        let (mut window, mut now, mut requests) = (Window::default(), 0, 0);
        for (pause, models) in looks {
            now += pause;
            let mut models: Vec<_> = models.into_iter().map(|(m, a, b, c, d, e, f)| (["a", "b", "c"][m], a, b, c, d, e, f)).collect();
            models.dedup_by_key(|model| model.0);
            window.push(seconds(now), page(&models));
            prop_assert!(window.looks.len() <= 17, "no more is kept than the window needs");
            let Some(load) = window.load(seconds(now)) else { continue };
            for metric in Metric::ALL {
                let value = load.value(metric, &Models::All);
                prop_assert!(value.is_none_or(|value| value.is_finite() && value >= 0.0), "{metric:?} {value:?}");
            }
            prop_assert!(load.value(Metric::Saturation, &Models::All).is_none_or(|it| it <= 100.0));
            prop_assert!(load.window <= WINDOW + seconds(10));
            let waiting: f64 = load.models.values().map(|it| it.pending).sum();
            prop_assert!(load.requests >= requests, "{} after {requests}", load.requests);
            requests = load.requests - whole(waiting);
        }
    }

    /// However a stretch of time is cut into looks, the sums are the same.
    #[test]
    fn sums_do_not_depend_on_how_often_one_looks(cuts in prop::collection::btree_set(1..14_u64, 0..6)) {
        let at = |second: u64| (second, page(&[("a", second * 7_000, second * 3, 0, second * 500_000, 1, 0)]));
        let often: Vec<_> = std::iter::once(0).chain(cuts).chain([14]).map(at).collect();
        let (one, other) = (load(&often).unwrap(), load(&[at(0), at(14)]).unwrap());
        for (one, other) in values(&one).into_iter().zip(values(&other)) {
            prop_assert!((one.unwrap() - other.unwrap()).abs() < 1e-6);
        }
    }
}

#[test]
fn what_is_loaded_has_counters() {
    let page = "# HELP x y\n# TYPE nv_inference_request_success counter\n\
                nv_inference_request_success{model=\"a\",version=\"1\"} 0\n\
                nv_inference_request_success{model=\"a\",namespace=\"n\",version=\"12\"} 7\n\
                nv_inference_request_success_total{model=\"b\",version=\"1\"} 7\n\
                nv_inference_request_success{model=\"c\",version=\"latest\"} 7\n\
                nv_inference_count{model=\"d\",version=\"1\"} 7\n";
    assert_eq!(loaded_versions(page.as_bytes()), Ok([("a".to_owned(), [1, 12].into())].into()));
    assert_eq!(loaded_versions(b"# TYPE nv_inference_request_success counter\n"), Ok([].into()), "none is loaded");
    assert_eq!(loaded_versions(b"<html>"), Err(PageError::NoMetrics));
    assert_eq!(loaded_versions(b"nv_x 1\nnv_inference_request_success{model=\"a"), Err(PageError::Malformed(2)));
}
