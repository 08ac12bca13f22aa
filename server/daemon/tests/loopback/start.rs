//! Start: alive before models are loaded, ready after; broken models beside good ones; models that come and go.

use std::time::Duration;

use crate::{
    client::{call, status, until},
    program::Program,
    repository::{add, add_with_config, empty, infer_body, parameter, with_echo},
};

#[track_caller]
fn index(server: &Program) -> String {
    let answer = call(server.http(), "POST", "/v2/repository/index", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[test]
fn it_is_alive_while_models_load_and_ready_after() {
    let repository = empty();
    add(repository.path(), "slow", &parameter("creation_delay_sec", "2"));
    let server = Program::serve(repository.path(), &[]);
    let http = server.http();
    assert_eq!(status(http, "/v2/health/live"), 200);
    assert_ne!(status(http, "/v2/health/ready"), 200);
    assert!(!server.stdout.text().contains("Started HTTPService"), "{}", server.stdout.text());
    until("ready", || status(http, "/v2/health/ready") == 200);
    server.stdout.expect(&format!("Started HTTPService at {http}"));
}

#[test]
fn an_empty_repository_is_ready_at_once() {
    let repository = empty();
    let server = Program::serve(repository.path(), &[]);
    server.stdout.expect("Started GRPCInferenceService at 127.0.0.1:");
    server.stdout.expect("Started Metrics Service at 127.0.0.1:");
    assert_eq!(status(server.http(), "/v2/health/ready"), 200);
    assert_eq!(status(server.address("Metrics Service"), "/metrics"), 200);
}

#[test]
fn a_request_is_answered() {
    let repository = with_echo();
    let server = Program::serve(repository.path(), &[]);
    server.stdout.expect("Started HTTPService");
    let answer = call(server.http(), "POST", "/v2/models/echo/infer", &infer_body([7, 8]));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains(r#""data":[7,8]"#), "{}", answer.body);
}

#[test]
fn an_endpoint_that_is_not_allowed_is_not_there() {
    let repository = empty();
    let server = Program::serve(repository.path(), &["--allow-grpc=false", "--allow-metrics", "off"]);
    server.stdout.expect("Started HTTPService");
    let said = server.stdout.text();
    assert!(!said.contains("GRPCInferenceService") && !said.contains("Metrics Service"), "{said}");
}

#[test]
fn a_broken_model_leaves_others_alone_and_has_its_reason_in_the_index() {
    let repository = with_echo();
    add_with_config(repository.path(), "broken", "backend: \"no_such_backend\" max_batch_size: 4\n");
    let server = Program::serve(repository.path(), &["--exit-on-error=false", "--strict-readiness=false"]);
    server.stdout.expect("Started HTTPService");
    let index = index(&server);
    assert!(index.contains(r#""name":"broken""#) && index.contains("UNAVAILABLE"), "{index}");
    assert!(index.contains("reason"), "{index}");
    assert!(index.contains(r#""name":"echo","version":"1","state":"READY""#), "{index}");
    let answer = call(server.http(), "POST", "/v2/models/echo/infer", &infer_body([1, 2]));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(server.stdout.text().contains("| broken "), "{}", server.stdout.text());
}

#[test]
fn a_broken_model_ends_a_strict_start_with_one() {
    let repository = with_echo();
    add_with_config(repository.path(), "broken", "max_batch_size: \"many\"\n");
    let mut server = Program::serve(repository.path(), &[]);
    server.stderr.expect("error: creating server: Internal - failed to load all models");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn a_repository_that_is_not_there_ends_a_strict_start_with_one() {
    let repository = empty();
    let mut server = Program::serve(&repository.path().join("nowhere"), &[]);
    server.stderr.expect("error: creating server: ");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn a_response_cache_that_cannot_be_made_ends_the_start_with_one() {
    let repository = with_echo();
    let check = |flags: &[&str], expect: &str| {
        let mut server = Program::serve(repository.path(), flags);
        server.stderr.expect(&format!("error: creating server: {expect}"));
        assert_eq!(server.exit_code(), Some(1));
    };
    check(
        &["--cache-config=local,foo=1"],
        "Invalid argument - Failed to initialize LocalCache: config didn't contain a valid 'size' field.",
    );
    check(&["--cache-config=local,size=0"], "Internal - Failed to initialize LocalCache: ");
    check(&["--cache-config=nope,a=b"], "Invalid argument - unable to find 'libtritoncache_nope.so' for cache");
    check(
        &["--cache-config=local,size=4096", "--cache-config=redis,host=a"],
        "Invalid argument - found multiple cache configurations, but only a single cache is currently supported",
    );
}

#[test]
fn models_come_and_go_in_explicit_mode() {
    let repository = with_echo();
    add(repository.path(), "other", "");
    let flags = ["--model-control-mode=explicit", "--load-model=other"];
    let server = Program::serve(repository.path(), &flags);
    server.stdout.expect("Started HTTPService");
    let http = server.http();
    let ready = |model: &str| status(http, &format!("/v2/models/{model}/ready")) == 200;
    assert!(ready("other") && !ready("echo"));

    let loaded = call(http, "POST", "/v2/repository/models/echo/load", "");
    assert_eq!((loaded.status, loaded.body.as_str()), (200, ""));
    assert!(ready("echo"));

    let unloaded = call(http, "POST", "/v2/repository/models/echo/unload", "");
    assert_eq!((unloaded.status, unloaded.body.as_str()), (200, ""));
    assert!(!ready("echo") && ready("other"));
    until("unloaded in the index", || index(&server).contains(r#""state":"UNAVAILABLE","reason":"unloaded""#));

    let missing = call(http, "POST", "/v2/repository/models/nobody/load", "");
    let reason = "failed to load 'nobody', failed to poll from model repository";
    assert_eq!((missing.status, missing.body.as_str()), (500, format!(r#"{{"error":"{reason}"}}"#).as_str()));
    server.stderr.expect("failed to poll model 'nobody': model not found in any model repository.");
}

#[test]
fn a_low_limit_of_open_files_is_raised() {
    let repository = empty();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", r#"ulimit -S -n 64 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_tritonserver")]);
    command.arg("--model-repository").arg(repository.path());
    command.args(["--http-address=127.0.0.1", "--http-port=0", "--allow-grpc=false", "--allow-metrics=false"]);
    let server = Program::spawn(command);
    server.stdout.expect("Started HTTPService");
    let limits = server.proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace();
    let (soft, hard) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!(soft, hard, "{line}");
}

#[test]
fn without_models_it_starts_quickly() {
    let repository = empty();
    let begun = std::time::Instant::now();
    let server = Program::serve(repository.path(), &[]);
    server.stdout.expect("Started HTTPService");
    // The claim is 50 ms for a release build on a quiet machine; this one only catches a start that waits for something.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_model_made_for_gpus_runs_on_the_cpu_where_that_is_asked_for() {
    if std::path::Path::new("/proc/driver/nvidia/gpus").is_dir() {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let repository = empty();
    add(repository.path(), "on_gpu", "instance_group [ { kind: KIND_GPU gpus: [ 0, 3 ] } ]");
    let server = Program::serve(repository.path(), &["--gpu-fallback=cpu"]);
    server.stdout.expect("Started HTTPService");
    let warning = "model 'on_gpu' is configured for GPUs and this machine has none: instance_group[0] runs on the CPU";
    server.stderr.expect(warning);
    let answer = call(server.http(), "POST", "/v2/models/on_gpu/infer", &infer_body([7, 8]));
    assert_eq!(answer.status, 200, "{}", answer.body);

    let server = Program::serve(repository.path(), &["--exit-on-error=false"]);
    server.stdout.expect("Started HTTPService");
    let index = index(&server);
    assert!(
        index.contains("has kind KIND_GPU but no GPUs are available") && index.contains("--gpu-fallback=cpu"),
        "{index}"
    );
}
