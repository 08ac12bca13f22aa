//! Whole command lines: what they mean, and why they are not accepted.

use super::*;

fn parsed(line: &str) -> Result<Command, String> {
    parse(line.split_whitespace().map(str::to_owned)).map_err(|error| error.to_string())
}

#[track_caller]
fn args(line: &str) -> Args {
    match parsed(&format!("--model-repository=/m {line}")) {
        Ok(Command::Run(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
fn refuses(line: &str, expect: &str) {
    assert_eq!(parsed(&format!("--model-repository=/m {line}")), Err(expect.into()));
}

#[test]
fn the_defaults_are_those_of_the_usage_text() {
    let untouched = args("");
    for flag in table::flags().filter(|flag| !flag.default.is_empty()) {
        let mut applied = untouched.clone();
        assert_eq!(apply(flag, flag.default, &mut applied), Ok(None), "{}", flag.name);
        applied.tracing.settle();
        applied.deprecations.clear();
        assert_eq!(applied, untouched, "{}", flag.name);
    }
}

#[test]
fn control_is_public_unless_there_is_a_socket_for_it() {
    let control = |line: &str| args(line).control;
    assert_eq!(control(""), ControlArgs { socket: None, is_public: false });
    let socket = Some("/run/c.sock".into());
    assert_eq!(control("--control-socket=/run/c.sock"), ControlArgs { socket: socket.clone(), is_public: false });
    assert_eq!(control("--control-socket /run/c.sock --public-control on"), ControlArgs { socket, is_public: true });
    refuses("--control-socket=", "Bad option: \"--control-socket\": got '', expected a path");
    refuses(
        "--public-control=maybe",
        "Bad option: \"--public-control\": got 'maybe', expected true, on, 1, false, off or 0",
    );
}

#[test]
fn every_flag_has_a_name_of_its_own() {
    let mut names: Vec<_> = table::flags().map(|flag| flag.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn flags_act_on_what_they_name() {
    let args = args(
        "--id=s1 --startup-hold-secs=4 --exit-timeout-secs=5 --drain-delay-secs=3 --drain-timeout-secs=9 --max-inflight-request-bytes=70 --allow-client-shm=true --exit-on-error=false --strict-readiness off --model-control-mode=EXPLICIT \
         --load-model=b --load-model=a --load-model=b --model-config-name=fast --model-load-thread-count=9 \
         --model-load-retry-count=2 --gpu-fallback=cpu --http-address=::1 --http-port=0 --reuse-http-port=1 --http-max-input-size=1000 \
         --allow-grpc=false --grpc-port=9001 --grpc-keepalive-time=5000 \
         --grpc-max-connection-age=60000 --grpc-max-connection-age-grace=0 --grpc-infer-response-compression-level=Low --grpc-max-response-pool-size=5 --metrics-port=9002 --log-verbose=2 --log-warn=false --log-format=iso8601 \
         --log-file=/tmp/log",
    );
    let expect = Args {
        id: "s1".into(),
        startup_hold: Duration::from_secs(4),
        exit_timeout: Duration::from_secs(5),
        drain_delay: Duration::from_secs(3),
        drain_timeout: Duration::from_secs(9),
        max_inflight_request_bytes: Some(70),
        allow_client_shm: true,
        exit_on_error: false,
        models: ModelArgs {
            repositories: [PathBuf::from("/m")].into(),
            control_mode: ControlMode::Explicit,
            startup_models: ["a".to_owned(), "b".to_owned()].into(),
            strict_readiness: false,
            config_name: Some("fast".into()),
            load_threads: 9,
            load_retries: 2,
            gpu_fallback: GpuFallback::Cpu,
            ..Args::default().models
        },
        http: HttpArgs {
            endpoint: Endpoint {
                is_allowed: true,
                address: "::1".into(),
                port: 0,
                impossible_port: None,
                reuse_port: true,
            },
            max_input_size: 1000,
            ..Args::default().http
        },
        grpc: GrpcArgs {
            endpoint: Endpoint {
                is_allowed: false,
                address: "0.0.0.0".into(),
                port: 9001,
                impossible_port: None,
                reuse_port: false,
            },
            keepalive_time: Duration::from_millis(5000),
            max_connection_age: Some(Duration::from_secs(60)),
            compression: Compression::Some,
            max_unread_responses: Some(5),
            ..Args::default().grpc
        },
        metrics: Endpoint {
            is_allowed: true,
            address: "::1".into(),
            port: 9002,
            impossible_port: None,
            reuse_port: false,
        },
        log: LogArgs {
            error: true,
            warning: false,
            info: true,
            verbose: 2,
            format: LogFormat::Iso8601,
            file: Some("/tmp/log".into()),
        },
        ..Args::default()
    };
    assert_eq!(args, expect);
}

#[test]
fn the_last_of_a_repeated_flag_wins_and_repositories_add_up() {
    let args = args("--http-port=1 --http-port=2 --model-store=/b --model-repository /a --model-repository /b");
    assert_eq!(args.http.endpoint.port, 2);
    let repositories: Vec<_> = args.models.repositories.iter().map(|path| path.to_string_lossy()).collect();
    assert_eq!(repositories, ["/a", "/b", "/m"]);
}

#[test]
fn backend_settings_keep_their_order() {
    let settings =
        args("--backend-config=default-max-batch-size=4 --backend-config onnxruntime,library=/x").backend_settings;
    let names: Vec<_> = settings.iter().map(|setting| (setting.name.as_deref(), setting.key.as_str())).collect();
    assert_eq!(names, [(None, "default-max-batch-size"), (Some("onnxruntime"), "library")]);
}

#[test]
fn settings_of_a_response_cache_are_collected_by_its_name() {
    let configs = |line: &str| args(line).cache.configs().unwrap();
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(configs("").len(), 0);
    assert_eq!(configs("--cache-config=local,size=1048576")["local"], pairs(&[("size", "1048576")]));
    assert_eq!(
        configs("--cache-config redis,host=a --cache-config redis,password=b=c,d")["redis"],
        pairs(&[("host", "a"), ("password", "b=c,d")])
    );
    assert_eq!(configs("--cache-config=local,size=1 --cache-config=redis,host=a").len(), 2);
    assert_eq!(configs("--response-cache-byte-size=4096")["local"], pairs(&[("size", "4096")]));
    assert_eq!(configs("--response-cache-byte-size=0").len(), 0);
    let form =
        "Bad option: \"--cache-config\".\n--cache-config option format is '<cache name>,<setting>=<value>'. Got ";
    for text in ["local,", "local,size", "local,size=", "local,=4"] {
        refuses(&format!("--cache-config={text}"), &format!("{form}{text}"));
    }
    let unnamed = "Bad option: \"--cache-config\".\nNo cache specified. --cache-config option format is <cache \
                   name>,<setting>=<value>. Got ";
    for text in ["local", "size=5", ",size=1"] {
        refuses(&format!("--cache-config={text}"), &format!("{unnamed}{text}"));
    }
    refuses(
        "--cache-config=local,size=4096 --response-cache-byte-size=10000",
        "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one or the \
         other.",
    );
    refuses(
        "--response-cache-byte-size=-5",
        r#"Bad option: "--response-cache-byte-size": got '-5', expected a whole number from 0 to 18446744073709551615"#,
    );
}

#[test]
fn resources_are_limited_by_name_and_device() {
    let models = args(
        "--rate-limit=execution_count --rate-limit-resource=R1:10 --rate-limit-resource R1:4:0 --rate-limit-resource=R2:1",
    )
    .models;
    let resources: Vec<_> = models.resources.iter().map(|one| (one.name.as_str(), one.count, one.device)).collect();
    assert_eq!(models.rate_limit, RateLimit::ExecutionCount);
    assert_eq!(resources, [("R1", 10, None), ("R1", 4, Some(0)), ("R2", 1, None)]);
    refuses("--rate-limit=on", r#"Bad option: "--rate-limit": got 'on', expected one of off, execution_count"#);
    refuses(
        "--rate-limit-resource=R1",
        r#"Bad option: "--rate-limit-resource": got 'R1', expected <name>:<count>[:<device>]"#,
    );
}

#[test]
fn completing_configurations_is_off_by_either_flag() {
    let off = |line| args(line).models;
    assert!(!off("").disable_auto_complete && !off("").strict_config);
    assert!(off("--disable-auto-complete-config").disable_auto_complete);
    assert!(off("--strict-model-config=true").strict_config);
    assert_eq!(args("--strict-model-config=true").deprecations.len(), 1);
}

#[test]
fn unsupported_flags_are_listed_once_and_only_if_they_differ_from_the_default() {
    let args = args(
        "--buffer-manager-thread-count=5 --buffer-manager-thread-count=6 --sagemaker-thread-count=4 \
         --vertex-ai-thread-count=8 --http-thread-count=8 \
         --pinned-memory-pool-byte-size=1 --rate-limit=OFF --enable-peer-access=1",
    );
    assert_eq!(args.unsupported_flags, ["buffer-manager-thread-count", "sagemaker-thread-count"]);
    assert_eq!(args.pinned_memory_pool_size, 1);
}

#[test]
fn help_and_version_win_over_what_is_missing() {
    assert_eq!(parsed("--help"), Ok(Command::Help));
    assert_eq!(parsed("--vers"), Ok(Command::Version));
}

#[test]
fn a_bad_value_is_named_with_its_flag_and_what_is_accepted() {
    refuses("--http-port=abc", r#"Bad option: "--http-port": got 'abc', expected a whole number from 0 to 65535"#);
    refuses("--allow-http=yes", r#"Bad option: "--allow-http": got 'yes', expected true, on, 1, false, off or 0"#);
    refuses("--log-format=xml", r#"Bad option: "--log-format": got 'xml', expected one of default, ISO8601, json"#);
    refuses(
        "--trace-level=all",
        concat!(
            r#"Bad option: "--trace-level": got 'all', "#,
            "expected one of OFF, TIMESTAMPS, TENSORS, MIN, MAX, on, true, false"
        ),
    );
    refuses(
        "--backend-config=x",
        concat!(r#"Bad option: "--backend-config": got 'x', "#, "expected <name>,<key>=<value> or <key>=<value>"),
    );
    refuses(
        "--http-max-input-size=0",
        concat!(
            r#"Bad option: "--http-max-input-size": got '0', "#,
            "expected a whole number from 1 to 18446744073709551615"
        ),
    );
}

#[test]
fn headers_to_forward_are_given_as_regular_expressions() {
    let pattern = |text: &str| Some(HeaderPattern::new(text).unwrap());
    let forwarded = |line: &str| {
        let args = args(line);
        (args.http.forwarded_headers, args.grpc.forwarded_headers)
    };
    assert_eq!(forwarded(""), (None, None));
    let line = "--http-header-forward-pattern=x-.* --grpc-header-forward-pattern ^(a|b)$";
    assert_eq!(forwarded(line), (pattern("x-.*"), pattern("^(a|b)$")));
    assert_eq!(forwarded("--http-header-forward-pattern=a --http-header-forward-pattern="), (None, None));
    for flag in ["http-header-forward-pattern", "grpc-header-forward-pattern"] {
        let text = format!(r#"Bad option: "--{flag}": got '(', expected a regular expression in the syntax of RE2: "#);
        let refused = parsed(&format!("--model-repository=/m --{flag}=(")).unwrap_err();
        assert!(refused.starts_with(&text) && refused.len() > text.len(), "{refused}");
    }
}

#[test]
fn readings_of_the_machine_count_for_parts_of_milliseconds() {
    assert_eq!(args("").metrics_interval, Duration::from_secs(2));
    assert_eq!(args("--metrics-interval-ms=0.5").metrics_interval, Duration::from_micros(500));
    assert_eq!(args("--metrics-interval-ms=0").metrics_interval, Duration::ZERO);
    for text in ["-5", "x", "1e300"] {
        refuses(
            &format!("--metrics-interval-ms={text}"),
            &format!(
                r#"Bad option: "--metrics-interval-ms": got '{text}', expected a number of milliseconds of 0 or more"#
            ),
        );
    }
}

#[test]
fn settings_of_metrics_are_pairs() {
    let args_of = |flags: &str| args(flags).latency;
    assert!(!args_of("").has_distributions());
    let given = args_of("--metrics-config summary_latencies=true --metrics-config=summary_quantiles=0.5:0.05,0.9:0.01");
    assert_eq!(given.quantiles.map(|quantiles| quantiles.len()), Some(2));
    for bad in ["x", "x=", "=y", "a,b=c", "summary_quantiles="] {
        let error = format!(
            "Bad option: \"--metrics-config\".\n--metrics-config option format is <setting>=<value>. Got {bad}\n"
        );
        refuses(&format!("--metrics-config={bad}"), &error);
    }
    refuses(
        "--metrics-config=histogram_latencies=maybe",
        "--metrics-config histogram_latencies: expected true or false, got 'maybe'",
    );
}

#[test]
fn numbers_of_threads_have_the_range_of_triton() {
    for text in ["1", "129", "-2", "x"] {
        refuses(
            &format!("--grpc-infer-thread-count={text}"),
            &format!(r#"Bad option: "--grpc-infer-thread-count": got '{text}', expected a whole number from 2 to 128"#),
        );
    }
    assert_eq!(args("--grpc-infer-thread-count=128").unsupported_flags, ["grpc-infer-thread-count"]);
}

#[test]
fn a_port_no_socket_can_have_is_refused_if_its_service_is_on() {
    let text = r#"Bad option: "--http-port": got '70000', expected a whole number from 0 to 65535"#;
    refuses("--http-port=70000", text);
    refuses("--metrics-port=-1", &text.replace("http", "metrics").replace("70000", "-1"));
    args("--allow-http=false --http-port=70000");
    args("--allow-metrics=false --metrics-port=-1");
    args("--http-port=70000 --http-port=8000");
}

#[test]
fn values_that_name_nothing_are_refused() {
    refuses("--model-config-name=", r#"Bad option: "--model-config-name": got '', expected a name"#);
    let limit = |text| format!(r#"Bad option: "--model-load-gpu-limit": got '{text}', expected <device>:<fraction>"#);
    refuses("--model-load-gpu-limit=-1:0.6", &limit("-1:0.6"));
    refuses("--model-load-gpu-limit=0:60", &limit("0:60"));
}

#[test]
fn rules_for_pings_are_read_and_negative_numbers_are_none() {
    let grpc = args(
        "--grpc-keepalive-time=1000 --grpc-keepalive-timeout=50 --grpc-keepalive-permit-without-calls=1 \
         --grpc-http2-min-recv-ping-interval-without-data=10 --grpc-http2-max-ping-strikes=5 \
         --grpc-http2-max-pings-without-data=0",
    )
    .grpc;
    assert_eq!((grpc.keepalive_time, grpc.keepalive_timeout), (Duration::from_secs(1), Duration::from_millis(50)));
    assert!(grpc.pings_without_calls);
    assert_eq!((grpc.min_ping_interval, grpc.max_ping_strikes), (Duration::from_millis(10), 5));
    let grpc = args(
        "--grpc-keepalive-time=-1 --grpc-keepalive-timeout=-1 --grpc-http2-min-recv-ping-interval-without-data=-5 \
         --grpc-http2-max-ping-strikes=-1",
    )
    .grpc;
    assert_eq!((grpc.keepalive_time, grpc.keepalive_timeout), (Duration::from_millis(1), Duration::ZERO));
    assert_eq!((grpc.min_ping_interval, grpc.max_ping_strikes), (Duration::ZERO, 0));
}

#[test]
fn the_bound_of_a_readers_backlog_has_the_range_and_the_words_of_triton() {
    assert_eq!(args("--grpc-max-response-pool-size=2147483647").grpc.max_unread_responses, None);
    assert_eq!(args("--grpc-max-response-pool-size=1").grpc.max_unread_responses, Some(1));
    for text in ["0", "-3"] {
        let words = "expected more. Error: --grpc-max-response-pool-size must be greater than 0.";
        refuses(
            &format!("--grpc-max-response-pool-size={text}"),
            &format!(r#"Bad option: "--grpc-max-response-pool-size": got '{text}', {words}"#),
        );
    }
    args("--grpc-infer-allocation-pool-size=-1");
}

#[test]
fn each_front_end_has_certificates_of_its_own() {
    let all = |service: &str| {
        format!(
            "--{service}-use-ssl=true --{service}-use-ssl-mutual=on --{service}-server-cert={service}.crt \
             --{service}-server-key={service}.key --{service}-root-cert={service}.ca "
        )
    };
    let expect = |service: &str| TlsArgs {
        use_ssl: true,
        use_ssl_mutual: true,
        server_cert: format!("{service}.crt"),
        server_key: format!("{service}.key"),
        root_cert: format!("{service}.ca"),
    };
    let args = args(&(all("http") + &all("grpc") + &all("metrics")));
    assert_eq!(args.http.tls, expect("http"));
    assert_eq!(args.grpc.tls, expect("grpc"));
    assert_eq!(args.metrics_tls, expect("metrics"));
    assert!(args.unsupported_flags.is_empty());
}

#[test]
fn encryption_needs_certificates_and_only_encryption_does() {
    for service in ["http", "grpc", "metrics"] {
        let key = format!("--{service}-server-key=k");
        let pair = format!("--{service}-server-cert=c {key}");
        for given in ["", &key] {
            for flag in ["use-ssl", "use-ssl-mutual"] {
                let expect = format!(
                    "--{service}-use-ssl and --{service}-use-ssl-mutual need the server's certificate and key: give \
                     --{service}-server-cert and --{service}-server-key"
                );
                refuses(&format!("--{service}-{flag}=true {given}"), &expect);
            }
        }
        let expect = format!(
            "--{service}-use-ssl-mutual needs the roots of the certificates that clients bring: give --{service}-root-cert"
        );
        refuses(&format!("--{service}-use-ssl-mutual=true {pair}"), &expect);
        args(&format!("--{service}-use-ssl=true {pair}"));
        args(&pair);
        args(&format!("--{service}-use-ssl=false --{service}-root-cert=r"));
    }
    args("--allow-metrics=false --metrics-use-ssl=true");
}

#[test]
fn contradicting_flags_are_refused() {
    assert_eq!(parsed(""), Err("--model-repository must be specified".into()));
    refuses("--load-model=a", "--load-model needs --model-control-mode=explicit: the other modes load every model");
    refuses(
        "--model-control-mode=explicit --load-model=* --load-model=a",
        "Wildcard model name '*' must be the ONLY startup model if specified at all.",
    );
    refuses(
        "--allow-http=0 --allow-grpc=0 --allow-metrics=0",
        "no endpoint is allowed: at least one of --allow-http, --allow-grpc, --allow-metrics, --allow-sagemaker and \
         --allow-vertex-ai must be true",
    );
    args("--allow-http=0 --allow-grpc=0"); // the metrics page is one
}

#[test]
fn a_repository_is_a_folder_or_a_url() {
    let args = args("--model-repository=s3://bucket/models --model-store=/m --model-repository=gs://b");
    let urls: Vec<_> = args.models.remote_repositories.iter().map(ToString::to_string).collect();
    assert_eq!(urls, ["gs://b", "s3://bucket/models"]);
    assert_eq!(args.models.repositories, [PathBuf::from("/m")].into());
    refuses(
        "--model-repository=s3://",
        "--model-repository 's3://' names no bucket: Invalid bucket name: '': expected s3://BUCKET/PATH or \
         s3://HOST:PORT/BUCKET/PATH",
    );
    refuses(
        "--model-repository=ftp://host/models",
        "--model-repository 'ftp://host/models' is no repository that this server reads: expected a folder, s3://, gs:// \
         or as://",
    );
}

#[test]
fn a_host_policy_has_a_name_and_settings() {
    let args = args("--host-policy=near,cpu-cores=0-1,4-5 --host-policy near,numa-node=1");
    let setting =
        |key: &str, value: &str| HostPolicySetting { policy: "near".into(), key: key.into(), value: value.into() };
    assert_eq!(args.models.host_policies, [setting("cpu-cores", "0-1,4-5"), setting("numa-node", "1")]);
    for text in ["near", "near,cpu-cores", "near,cpu-cores=", ",cpu-cores=0-1", "cpu-cores=0-1", "near,=0-1"] {
        let expected = "expected <policy name>,<setting>=<value>";
        refuses(&format!("--host-policy={text}"), &format!("Bad option: \"--host-policy\": got '{text}', {expected}"));
    }
}

#[test]
fn a_host_policy_says_nothing_else() {
    let expected = "setting host policy: Unsupported - Unsupported host policy setting 'nosuch' is specified, supported \
                    settings are 'numa-node', 'cpu-cores'";
    refuses("--host-policy=near,nosuch=1", expected);
}

#[test]
fn repositories_are_polled_every_so_many_seconds_or_not_at_all() {
    let interval = |line: &str| args(&format!("--model-control-mode=POLL {line}")).models.poll_interval;
    assert_eq!(interval(""), Some(Duration::from_secs(15)));
    assert_eq!(interval("--repository-poll-secs=1"), Some(Duration::from_secs(1)));
    assert_eq!(interval("--repository-poll-secs 0"), None);
    assert_eq!(interval("--repository-poll-secs=-1"), None);
    let text =
        "Bad option: \"--repository-poll-secs\": got '1.5', expected a whole number from -2147483648 to 2147483647";
    refuses("--repository-poll-secs=1.5", text);
}

#[test]
fn restricted_calls_are_known_and_in_one_group() {
    let args = args("--http-restricted-api=health,metadata:key=a --http-restricted-api=inference:key=b");
    assert_eq!(args.http.restrictions.len(), 2);
    refuses(
        "--http-restricted-api=health:key=a --http-restricted-api=inference,health:key=b",
        "restricted api 'health' can not be specified in multiple config groups",
    );
    let unknown = parsed("--model-repository=/m --http-restricted-api=all:key=a").unwrap_err();
    assert!(unknown.starts_with("unknown restricted api 'all', expected one of health, "), "{unknown}");
}

#[test]
fn endpoints_at_the_same_place_clash() {
    let clash = |one, other, place| {
        format!("The server cannot listen to {one} requests and {other} requests at the same address and port {place}")
    };
    refuses("--grpc-port=8000", &clash("HTTP", "GRPC", "0.0.0.0:8000"));
    refuses("--metrics-port=8001", &clash("GRPC", "metrics", "0.0.0.0:8001"));
    refuses("--http-address=127.0.0.1 --grpc-port=8000", &clash("HTTP", "GRPC", "127.0.0.1:8000"));
    args("--http-port=0 --grpc-port=0 --metrics-port=0");
    args("--grpc-port=8000 --allow-http=false");
    args("--http-address=127.0.0.1 --grpc-address=127.0.0.2 --grpc-port=8000");
}
