//! Whole command lines: what they mean, and why they are not accepted.

use std::time::Duration;

use server_core::header_forwarding::HeaderPattern;

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

/// The same of a flag whose text is no value: in Triton's words, and in ours.
#[track_caller]
fn refuses_value(flag: &str, text: &str, said: &str, expected: &str) {
    let ours =
        if expected.is_empty() { String::new() } else { format!("\n--{flag}: got '{text}', expected {expected}") };
    refuses(&format!("--{flag}={text}"), &format!("Bad option: \"--{flag}\".\n{said}{ours}"));
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
    refuses_value("control-socket", "", "Error: empty argument for --control-socket", "");
    refuses_value("public-control", "maybe", "invalid value for bool option: maybe", "true, on, 1, false, off or 0");
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
    let expected = "a whole number from 0 to 18446744073709551615";
    refuses_value("response-cache-byte-size", "-5", "Provided option value is out of bound. Got -5", expected);
    assert_eq!(args("--response-cache-byte-size=4096").deprecations.len(), 1);
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
    refuses_value("rate-limit", "on", "invalid argument for --rate-limit", "one of off, execution_count");
    for text in ["R1", "R1:4:0:1", ":4"] {
        let form = "'<resource_name>:<count>:<device>' or '<resource_name>:<count>'";
        let said = format!("--rate-limit-resource option format is {form}. Got {text}");
        refuses_value("rate-limit-resource", text, &said, "");
    }
    refuses_value("rate-limit-resource", "R1:x", "Invalid option value. Got x", "<name>:<count>[:<device>]");
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
    refuses_value("http-port", "abc", "Invalid option value. Got abc", "a whole number from 0 to 65535");
    refuses_value("allow-http", "yes", "invalid value for bool option: yes", "true, on, 1, false, off or 0");
    refuses_value("log-format", "xml", "invalid argument for --log-format", "one of default, ISO8601, json");
    let levels = "one of OFF, TIMESTAMPS, TENSORS, MIN, MAX, on, true, false";
    refuses_value("trace-level", "all", "invalid value for trace level option: all", levels);
    for text in ["x", "x=", "=y", "x,y"] {
        let said = format!("--backend-config option format is '<backend name>,<setting>=<value>'. Got {text}");
        refuses_value("backend-config", text, &said, "");
    }
    let said = "No backend specified. --backend-config option format is <backend name>,<setting>=<value> or \
                <setting>=<value>. Got ,a=b";
    refuses_value("backend-config", ",a=b", said, "");
    let expected = "a whole number from 1 to 18446744073709551615";
    refuses_value("http-max-input-size", "0", "Provided option value is out of bound. Got 0", expected);
}

#[test]
fn what_is_wrong_with_a_trace_setting_is_said_of_the_setting() {
    for (setting, text, said, expected) in [
        ("level", "x", "invalid value for trace level option: x", "a level: OFF, TIMESTAMPS or TENSORS"),
        ("rate", "x", "Invalid option value. Got x", "a whole number from 0 to 2147483647"),
        ("rate", "-1", "Provided option value is out of bound. Got -1", "a whole number from 0 to 2147483647"),
        ("rate", "7x", "Invalid option value. Got 7x", "a whole number from 0 to 2147483647"),
        ("count", "-2", "Provided option value is out of bound. Got -2", "a whole number from -1 to 2147483647"),
        ("triton,log-frequency", "x", "Invalid option value. Got x", "a whole number from 0 to 2147483647"),
        (
            "opentelemetry,bsp_max_queue_size",
            "0",
            "Provided option value is out of bound. Got 0",
            "a whole number from 1 to 4294967295",
        ),
        ("opentelemetry,resource", "a", "Invalid option value. Got a", "opentelemetry,resource=<key>=<value>"),
    ] {
        let expect = format!(
            "Bad option: \"--trace-config {setting}\".\n{said}\n--trace-config: got '{setting}={text}', expected {expected}"
        );
        refuses(&format!("--trace-config={setting}={text}"), &expect);
    }
    let modes = "Available options are \"triton\" and \"opentelemetry\"";
    let no_mode = |of| format!("Bad option: \"--trace-config{of}\".\ninvalid value for trace mode option: x. {modes}");
    refuses("--trace-config=mode=x", &no_mode(" mode"));
    refuses("--trace-config=x,url=y", &no_mode(""));
    for text in ["foo", "foo=", "=bar", "triton,foo"] {
        let said = format!("--trace-config option format is '<trace mode>,<setting>=<value>'. Got {text}");
        refuses_value("trace-config", text, &said, "");
    }
    for (text, key) in [("triton,url=x", "url"), ("file=x", "file")] {
        let refused = parsed(&format!("--model-repository=/m --trace-config={text}")).unwrap_err();
        let said = format!(
            "Bad option: \"--trace-config\".\nunknown setting '{key}'\n--trace-config: got '{text}', expected one of "
        );
        assert!(refused.starts_with(&said), "{refused}");
    }
    refuses_value("trace-rate", "x", "Invalid option value. Got x", "a whole number from -2147483648 to 2147483647");
    refuses_value(
        "trace-rate",
        "-1",
        "Provided option value is out of bound. Got -1",
        "a whole number from 0 to 2147483647",
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
        let text = format!(
            "Bad option: \"--{flag}\".\ninvalid argument for --{flag}\n--{flag}: got '(', expected a regular expression in the \
             syntax of RE2: "
        );
        let refused = parsed(&format!("--model-repository=/m --{flag}=(")).unwrap_err();
        assert!(refused.starts_with(&text) && refused.len() > text.len(), "{refused}");
    }
}

#[test]
fn readings_of_the_machine_count_for_parts_of_milliseconds() {
    assert_eq!(args("").metrics_interval, Duration::from_secs(2));
    assert_eq!(args("--metrics-interval-ms=0.5").metrics_interval, Duration::from_micros(500));
    assert_eq!(args("--metrics-interval-ms=0").metrics_interval, Duration::ZERO);
    for (text, what) in [
        ("-5", "Provided option value is out of bound."),
        ("x", "Invalid option value."),
        ("1e300", "Provided option value is out of bound."),
    ] {
        let said = format!("{what} Got {text}");
        refuses_value("metrics-interval-ms", text, &said, "a number of milliseconds of 0 or more");
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
            "Bad option: \"--metrics-config\".\n--metrics-config option format is <setting>=<value>. Got {bad}"
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
    let expected = "a whole number from 2 to 128";
    for text in ["1", "129", "-2"] {
        refuses_value("grpc-infer-thread-count", text, "invalid argument for --grpc_infer_thread_count", expected);
    }
    refuses_value("grpc-infer-thread-count", "x", "Invalid option value. Got x", expected);
    assert_eq!(args("--grpc-infer-thread-count=128").unsupported_flags, ["grpc-infer-thread-count"]);
}

#[test]
fn a_port_no_socket_can_have_is_refused_if_its_service_is_on() {
    for (flag, text) in [("http-port", "70000"), ("metrics-port", "-1")] {
        let said = format!("Provided option value is out of bound. Got {text}");
        refuses_value(flag, text, &said, "a whole number from 0 to 65535");
    }
    args("--allow-http=false --http-port=70000");
    args("--allow-metrics=false --metrics-port=-1");
    args("--http-port=70000 --http-port=8000");
}

#[test]
fn values_that_name_nothing_are_refused() {
    refuses_value("model-config-name", "", "Error: empty argument for --model-config-name", "");
    let refused = |text, said: &str| refuses_value("model-load-gpu-limit", text, said, "<device>:<fraction>");
    let pair = "Cannot parse pair option due to incorrect number of inputs.--<pair option> argument requires format \
                <first>:<second>. Found: x";
    refused("x", pair);
    refused("-1:0.6", "Provided option value is out of bound. Got -1");
    refused("0:60", "expects limit fraction to be in range [0.0, 1.0], got 60.000000");
    let ports = "<first>-<last>, two ports, the first not above the last";
    refuses_value("sagemaker-safe-port-range", "a-b", "Invalid option value. Got a", ports);
    refuses_value("sagemaker-safe-port-range", "9", &pair.replace(':', "-").replace("Found- x", "Found: 9"), ports);
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
        let said = "Error: --grpc-max-response-pool-size must be greater than 0.";
        refuses_value("grpc-max-response-pool-size", text, said, "");
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
    let server = "error: creating server: Invalid argument - ";
    assert_eq!(parsed(""), Err(format!("{server}--model-repository must be specified")));
    refuses("--load-model=a", "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.");
    refuses(
        "--model-control-mode=explicit --load-model=* --load-model=a",
        &format!("{server}Wildcard model name '*' must be the ONLY startup model if specified at all."),
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
        let said = format!("--host-policy option format is '<policy name>,<setting>=<value>'. Got {text}");
        refuses_value("host-policy", text, &said, "");
    }
}

#[test]
fn a_host_policy_says_nothing_else() {
    let expected = "Failed to build Triton option:\nerror: setting host policy: Unsupported - Unsupported host policy setting \
                    'nosuch' is specified, supported settings are 'numa-node', 'cpu-cores'";
    refuses("--host-policy=near,nosuch=1", expected);
}

#[test]
fn repositories_are_polled_every_so_many_seconds_or_not_at_all() {
    let interval = |line: &str| args(&format!("--model-control-mode=POLL {line}")).models.poll_interval;
    assert_eq!(interval(""), Some(Duration::from_secs(15)));
    assert_eq!(interval("--repository-poll-secs=1"), Some(Duration::from_secs(1)));
    assert_eq!(interval("--repository-poll-secs 0"), None);
    assert_eq!(interval("--repository-poll-secs=-1"), None);
    let expected = "a whole number from -2147483648 to 2147483647";
    refuses_value("repository-poll-secs", "1.5", "Invalid option value. Got 1.5", expected);
}

#[test]
fn restricted_calls_are_known_and_in_one_group() {
    let args = args("--http-restricted-api=health,metadata:key=a --http-restricted-api=inference:key=b");
    assert_eq!(args.http.restrictions.len(), 2);
    refuses(
        "--http-restricted-api=health:key=a --http-restricted-api=inference,health:key=b",
        "Bad option: \"--http-restricted-api\".\nrestricted api 'health' can not be specified in multiple config groups",
    );
    let unknown = parsed("--model-repository=/m --http-restricted-api=all:key=a").unwrap_err();
    let expect = "Bad option: \"--http-restricted-api\".\nunknown restricted api 'all'\n--http-restricted-api: got 'all', expected one \
                  of health, ";
    assert!(unknown.starts_with(expect), "{unknown}");
    let form = "--grpc-restricted-protocol option format is '<config name>:<setting>=<value>'. Got health=x";
    let ours = "<category>[,<category>...]:<header>=<value>";
    refuses_value("grpc-restricted-protocol", "health=x", form, ours);
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

#[test]
fn the_reason_is_said_behind_the_usage_text_where_the_words_are_wrong() {
    let report = |line: &str| parse(line.split_whitespace().map(str::to_owned)).unwrap_err().report("tritonserver");
    let usage = usage();
    assert_eq!(
        report("--http-port=x"),
        format!(
            "{usage}\nBad option: \"--http-port\".\nInvalid option value. Got x\n\
             --http-port: got 'x', expected a whole number from 0 to 65535\n"
        )
    );
    assert_eq!(report("stray"), format!("{usage}\nUnexpected argument: stray\n"));
    let unknown = "unrecognized option '--http_port=1'";
    let expect = format!("tritonserver: {unknown}\n{usage}\n{unknown}, did you mean '--http-port'?\n");
    assert_eq!(report("--http_port=1"), expect);
    assert_eq!(report("-v"), format!("tritonserver: invalid option -- 'v'\n{usage}\ninvalid option -- 'v'\n"));
    assert_eq!(report(""), "error: creating server: Invalid argument - --model-repository must be specified\n");
}
