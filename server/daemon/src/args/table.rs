//! Every flag of Triton's command line, in the order and under the headings of its usage text. Data only.
//!
//! Source: Triton server options, read at 2.73; `--log-format=json`, `--startup-hold-secs`, `--drain-delay-secs`,
//! `--max-inflight-request-bytes`, `--gpu-fallback`, `--control-socket`, `--public-control`, `--version` and the flags for TLS of HTTP and of the metrics page are
//! additions.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use server_core::log_settings::LogFormat;

use super::{
    flag::{Effect, Flag, Group, set, unused},
    parsed::{Args, Compression, ControlMode, GpuFallback, RateLimit},
    setting::{
        CacheSetting, DeviceBytes, DeviceFraction, HostPolicySetting, LimitedResource, MetricsSetting, PortRange,
        Restriction, Setting,
    },
    value::{GrpcThreads, Milliseconds, Named, Pattern, Port, ResponsePoolSize, Switch, Value, Verbosity, Word},
};

/// All rows, in order.
pub(crate) fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// Answers to `--trace-level`.
#[derive(Clone, Copy)]
struct TraceLevel(&'static str);

impl std::fmt::Display for TraceLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl Word for TraceLevel {
    const FORM: &'static str = "<level>";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("OFF", Self("OFF")),
        ("TIMESTAMPS", Self("TIMESTAMPS")),
        ("TENSORS", Self("TENSORS")),
        ("MIN", Self("TIMESTAMPS")),
        ("MAX", Self("TIMESTAMPS")),
        ("on", Self("TIMESTAMPS")),
        ("true", Self("TIMESTAMPS")),
        ("false", Self("OFF")),
    ];

    fn refused(text: &str) -> Option<String> {
        Some(format!("invalid value for trace level option: {text}"))
    }
}

/// `older_trace!("name": Type = "default", "setting", "value", "help")`: a flag that says what a setting of `--trace-config` says.
macro_rules! older_trace {
    ($name:literal : $type:ty = $default:literal, $setting:literal, $shown:literal, $help:literal) => {
        Flag {
            name: $name,
            form: <$type as Value>::FORM,
            default: $default,
            help: $help,
            effect: Effect::Set(|args, text| {
                let value = <$type as Value>::read(text)?;
                args.deprecations.push(format!(
                    "Warning: '--{}' has been deprecated and will be removed in future releases. Please use '--trace-config \
                     {}={}' instead.",
                    $name, $setting, $shown
                ));
                args.tracing.take_older($name, Setting::of_trace(&format!("{}={value}", $setting))?)
            }),
        }
    };
}

pub(crate) static GROUPS: &[Group] = &[
    Group { title: "", flags: GENERAL },
    Group { title: "Server", flags: SERVER },
    Group { title: "Logging", flags: LOGGING },
    Group { title: "Model Repository", flags: MODEL_REPOSITORY },
    Group { title: "HTTP", flags: HTTP },
    Group { title: "GRPC", flags: GRPC },
    Group { title: "Sagemaker", flags: SAGEMAKER },
    Group { title: "Vertex", flags: VERTEX },
    Group { title: "Metrics", flags: METRICS },
    Group { title: "Tracing", flags: TRACING },
    Group { title: "Backend", flags: BACKEND },
    Group { title: "Repository Agent", flags: REPOSITORY_AGENT },
    Group { title: "Response Cache", flags: RESPONSE_CACHE },
    Group { title: "Rate Limiter", flags: RATE_LIMITER },
    Group { title: "Memory/Device Management", flags: DEVICES },
    Group { title: "DEPRECATED", flags: DEPRECATED },
];

const GENERAL: &[Flag] = &[
    Flag { name: "help", form: "", default: "", help: "Show this text and end.", effect: Effect::Help },
    Flag { name: "version", form: "", default: "", help: "Show the version and end.", effect: Effect::Version },
];

const SERVER: &[Flag] = &[
    set!("id": String = "triton", "Name of this server in its metadata.", |args, id| args.id = id),
    set!("startup-hold-secs": i32 = "0",
        "Seconds for which callers are kept waiting, not refused, until the models loaded at start have had their chance. For \
         a server that takes over its sockets (LISTEN_FDS) from one that died.",
        |args, seconds| args.startup_hold = Duration::from_secs(seconds.max(0).unsigned_abs().into())),
    set!("exit-timeout-secs": i32 = "30",
        "Seconds that requests in flight and unloading models have to finish after a signal. Then the server exits with 1.",
        |args, seconds| args.exit_timeout = Duration::from_secs(seconds.max(0).unsigned_abs().into())),
    set!("drain-delay-secs": i32 = "0",
        "Seconds to go on serving after a signal, before the exit begins: not ready any more, and each connection ends with \
         its next answer, so that callers move to other servers without losing a request.",
        |args, seconds| args.drain_delay = Duration::from_secs(seconds.max(0).unsigned_abs().into())),
    set!("drain-timeout-secs": i32 = "0",
        "Most seconds to go on serving after a signal for callers that have nowhere else to go: the server stays ready, and \
         the exit begins once no inference request has come for --drain-delay-secs. If some still come when only that delay is \
         left, the server is not ready for the rest. 0 waits for the delay alone.",
        |args, seconds| args.drain_timeout = Duration::from_secs(seconds.max(0).unsigned_abs().into())),
    set!("max-inflight-request-bytes": u64 = "",
        "Most bytes that the requests of all callers, HTTP and gRPC, may hold in memory at once; requests beyond are refused as \
         unavailable. 0 is no limit. Default is a quarter of the memory that the server may use: the limit of its cgroup, or \
         the machine's memory.",
        |args, bytes| args.max_inflight_request_bytes = Some(bytes)),
    set!("control-socket": PathBuf = "",
        "Unix socket that takes every call of the HTTP endpoint, from this server's user only and without restrictions. The ports          refuse then to load and unload models, to change trace and log settings and to register and unregister shared memory.",
        |args, path| args.control.socket = Some(path)),
    set!("public-control": bool = "false",
        "Whether the ports take these calls even so. Without --control-socket they always do.",
        |args, on| args.control.is_public = on),
];

const LOGGING: &[Flag] = &[
    set!("log-verbose": Verbosity = "0",
        "Verbose messages: 0 for none, 1 for events of single requests, 2 for more, 3 for those of the libraries too.",
        |args, level| args.log.verbose = level.0),
    set!("log-info": bool = "true", "Whether to log what happens.", |args, on| args.log.info = on),
    set!("log-warning": bool = "true", "Whether to log warnings.", |args, on| args.log.warning = on),
    set!("log-error": bool = "true", "Whether to log errors.", |args, on| args.log.error = on),
    set!("log-format": LogFormat = "default",
        "Look of a log line: default is 'LMMDD hh:mm:ss.ssssss', ISO8601 is 'YYYY-MM-DDThh:mm:ssZ L', \
         json is one object per line.",
        |args, format| args.log.format = format),
    set!("log-file": String = "", "File that takes the log instead of the console; the console if it is empty.",
        |args, path| args.log.file = Some(path.into()).filter(|path: &PathBuf| !path.as_os_str().is_empty())),
    set!("access-log": PathBuf = "",
        "File to which each request, over HTTP and gRPC, adds one line of JSON: when, who, what, status and duration. Without it \
         none is kept.",
        |args, path| args.access_log = Some(path)),
];

const MODEL_REPOSITORY: &[Flag] = &[
    set!("model-store": PathBuf = "", "Same as --model-repository.",
        |args, path| { args.models.repositories.insert(path); }),
    set!("model-repository": PathBuf = "",
        "Folder with models, or a path of an object store: s3://BUCKET/PATH, s3://[https://]HOST:PORT/BUCKET/PATH, \
         gs://BUCKET/PATH, as://ACCOUNT/CONTAINER/PATH. May be given several times; a model that lies in two of them is not \
         served. Default is AIP_STORAGE_URI if that is set.",
        |args, path| { args.models.repositories.insert(path); }),
    set!("exit-on-error": bool = "true", "Whether the server ends if a model fails to load at start.",
        |args, on| args.exit_on_error = on),
    set!("disable-auto-complete-config": Switch = "",
        "Do not complete model configurations from the model files: config.pbtxt must say everything.",
        |args, on| args.models.disable_auto_complete = on.0),
    set!("strict-readiness": bool = "true",
        "Whether the server is ready only if all its models are; otherwise it is ready if it answers.",
        |args, on| args.models.strict_readiness = on),
    set!("model-control-mode": ControlMode = "none",
        "Who decides which models are loaded: none loads every model once, at start; explicit loads those of \
         --load-model and takes load and unload calls; poll loads every model and then whatever changes in the repositories.",
        |args, mode| args.models.control_mode = mode),
    set!("repository-poll-secs": i32 = "15",
        "Seconds between two looks at the repositories, in poll mode; 0 looks at the start only.",
        |args, seconds| args.models.poll_interval = interval(seconds)),
    set!("load-model": String = "",
        "Model to load at start, in explicit mode. May be given several times; '*' alone means all.",
        |args, name| { args.models.startup_models.insert(name); }),
    set!("model-config-name": Named = "",
        "Use configs/<name>.pbtxt of a model instead of its config.pbtxt, where it exists.",
        |args, name| args.models.config_name = Some(name.0)),
    set!("model-load-thread-count": u32 = "4", "How many models load at the same time.",
        |args, count| args.models.load_threads = count.max(1)),
    set!("model-load-retry-count": u32 = "0", "How often a failed load is tried again.",
        |args, count| args.models.load_retries = count),
    set!("model-namespacing": bool = "false",
        "Whether models of different repositories may have one name. A request for such a name is refused; ensembles use the model \
         of their own repository.",
        |args, on| args.models.namespaces = on),
];

const HTTP: &[Flag] = &[
    set!("allow-http": bool = "true", "Whether to serve HTTP. Default is false if AIP_MODE is PREDICTION.",
        |args, on| args.http.endpoint.is_allowed = on),
    set!("http-address": String = "0.0.0.0", "Address of the HTTP endpoint.",
        |args, address| args.http.endpoint.address = address),
    set!("http-port": Port = "8000", "Port of the HTTP endpoint; 0 takes a free one.",
        |args, port| args.http.endpoint.set_port(port)),
    set!("reuse-http-port": bool = "false", "Let several servers listen on the same HTTP port.",
        |args, on| args.http.endpoint.reuse_port = on),
    set!("http-header-forward-pattern": Pattern = "",
        "Regular expression in the syntax of RE2. Headers whose name it matches, in any part and any case, become parameters \
         of the inference request.",
        |args, pattern| args.http.forwarded_headers = pattern.0),
    unused!("http-thread-count": u32 = "8", "Threads for HTTP. This server shares one small pool."),
    set!("http-max-input-size": NonZeroU64 = "67108864", "Largest request body in bytes, before and after decompression.",
        |args, size| args.http.max_input_size = size.get()),
    set!("http-restricted-api": Restriction = "",
        "Calls of these categories must bring this header with this value. May be given several times.",
        |args, restriction| args.http.restrictions.push(restriction)),
    set!("http-use-ssl": bool = "false", "Whether to encrypt HTTP with TLS.",
        |args, on| args.http.tls.use_ssl = on),
    set!("http-use-ssl-mutual": bool = "false",
        "The same, and clients must bring a certificate that leads to --http-root-cert.",
        |args, on| args.http.tls.use_ssl_mutual = on),
    set!("http-server-cert": String = "",
        "File with the server's certificate, and those that lead to its root, PEM. Read again when it changes, like the others.",
        |args, path| args.http.tls.server_cert = path),
    set!("http-server-key": String = "", "File with the key of that certificate, PEM.",
        |args, path| args.http.tls.server_key = path),
    set!("http-root-cert": String = "", "File with the roots of the certificates of clients, PEM.",
        |args, path| args.http.tls.root_cert = path),
];

const GRPC: &[Flag] = &[
    set!("allow-grpc": bool = "true", "Whether to serve gRPC. Default is false if AIP_MODE is PREDICTION.",
        |args, on| args.grpc.endpoint.is_allowed = on),
    set!("grpc-address": String = "0.0.0.0", "Address of the gRPC endpoint.",
        |args, address| args.grpc.endpoint.address = address),
    set!("grpc-port": Port = "8001", "Port of the gRPC endpoint; 0 takes a free one.",
        |args, port| args.grpc.endpoint.set_port(port)),
    set!("reuse-grpc-port": bool = "false", "Let several servers listen on the same gRPC port.",
        |args, on| args.grpc.endpoint.reuse_port = on),
    set!("grpc-header-forward-pattern": Pattern = "",
        "Regular expression in the syntax of RE2. Metadata whose name it matches, in any part and any case, becomes \
         parameters of the inference request.",
        |args, pattern| args.grpc.forwarded_headers = pattern.0),
    unused!("grpc-infer-thread-count": GrpcThreads = "2", "Threads for gRPC inference. This server shares one small pool."),
    unused!("grpc-infer-allocation-pool-size": i32 = "8", "Request objects kept for reuse."),
    set!("grpc-max-response-pool-size": ResponsePoolSize = "2147483647",
        "Responses of one decoupled request kept for a slow reader, besides the limit of 256 KiB.",
        |args, most| args.grpc.max_unread_responses = most.0),
    set!("grpc-use-ssl": bool = "false", "Whether to encrypt gRPC with TLS.",
        |args, on| args.grpc.tls.use_ssl = on),
    set!("grpc-use-ssl-mutual": bool = "false",
        "The same, and clients must bring a certificate that leads to --grpc-root-cert.",
        |args, on| args.grpc.tls.use_ssl_mutual = on),
    set!("grpc-server-cert": String = "",
        "File with the server's certificate, and those that lead to its root, PEM. Read again when it changes, like the others.",
        |args, path| args.grpc.tls.server_cert = path),
    set!("grpc-server-key": String = "", "File with the key of that certificate, PEM.",
        |args, path| args.grpc.tls.server_key = path),
    set!("grpc-root-cert": String = "", "File with the roots of the certificates of clients, PEM.",
        |args, path| args.grpc.tls.root_cert = path),
    set!("grpc-infer-response-compression-level": Compression = "none",
        "Whether to compress inference responses: none, or low, medium and high, which are the same here.",
        |args, level| args.grpc.compression = level),
    set!("grpc-keepalive-time": i32 = "7200000",
        "Milliseconds for which a client may be silent during a call before it is sent a keep-alive ping.",
        |args, time| args.grpc.keepalive_time = milliseconds(time.max(1).unsigned_abs())),
    set!("grpc-keepalive-timeout": i32 = "20000",
        "Milliseconds to wait for the answer to a keep-alive ping. Without one the connection is closed.",
        |args, time| args.grpc.keepalive_timeout = milliseconds(time.max(0).unsigned_abs())),
    set!("grpc-keepalive-permit-without-calls": bool = "false",
        "Whether to send keep-alive pings without a call in flight too, and to let clients do so: they may ping once in two \
         hours then otherwise.",
        |args, on| args.grpc.pings_without_calls = on),
    unused!("grpc-http2-max-pings-without-data": i32 = "2", "Pings that may be sent while there is no data to send."),
    set!("grpc-http2-min-recv-ping-interval-without-data": i32 = "300000",
        "Least milliseconds between two pings of a client while nothing is sent to it. One that comes sooner is a strike.",
        |args, interval| args.grpc.min_ping_interval = milliseconds(interval.max(0).unsigned_abs())),
    set!("grpc-http2-max-ping-strikes": i32 = "2",
        "Strikes that a connection may have; one more closes it. 0 allows any number.",
        |args, strikes| args.grpc.max_ping_strikes = strikes.max(0).unsigned_abs()),
    set!("grpc-max-connection-age": u32 = "", "Milliseconds a connection may live; for ever if not given.",
        |args, age| args.grpc.max_connection_age = Some(milliseconds(age)).filter(|age| !age.is_zero())),
    set!("grpc-max-connection-age-grace": u32 = "",
        "Milliseconds its calls have left after that; for ever if not given.",
        |args, grace| args.grpc.max_connection_age_grace = Some(milliseconds(grace)).filter(|grace| !grace.is_zero())),
    set!("grpc-restricted-protocol": Restriction = "",
        "Calls of these categories must bring the header triton-grpc-protocol-<header> with this value. May be given \
         several times.",
        |args, restriction| args.grpc.restrictions.push(restriction)),
];

const SAGEMAKER: &[Flag] = &[
    set!("allow-sagemaker": bool = "false",
        "Whether to serve SageMaker's protocol: inference with the model SAGEMAKER_TRITON_DEFAULT_MODEL_NAME, and with \
         --model-control-mode=explicit the calls of multi-model endpoints.",
        |args, on| args.sagemaker.endpoint.is_allowed = on),
    set!("sagemaker-port": Port = "8080", "Port of the SageMaker endpoint; 0 takes a free one.",
        |args, port| args.sagemaker.endpoint.set_port(port)),
    set!("sagemaker-safe-port-range": PortRange = "", "Ports that the other endpoints may use beside SageMaker.",
        |args, range| args.sagemaker.safe_ports = Some((range.0, range.1))),
    unused!("sagemaker-thread-count": u32 = "8", "Threads for SageMaker. This server shares one small pool."),
];

const VERTEX: &[Flag] = &[
    set!("allow-vertex-ai": bool = "false",
        "Whether to serve Vertex AI's protocol, at the paths AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE. Default is true if AIP_MODE is \
         PREDICTION.",
        |args, on| args.vertex_ai.endpoint.is_allowed = on),
    set!("vertex-ai-port": Port = "8080",
        "Port of the Vertex AI endpoint; 0 takes a free one. Default is AIP_HTTP_PORT if that is set.",
        |args, port| args.vertex_ai.endpoint.set_port(port)),
    unused!("vertex-ai-thread-count": u32 = "8", "Threads for Vertex AI. This server shares one small pool."),
    set!("vertex-ai-default-model": String = "",
        "Model that answers where the request names none. Not needed where there is only one.",
        |args, name| args.vertex_ai.default_model = name),
];

const METRICS: &[Flag] = &[
    set!("allow-metrics": bool = "true", "Whether to serve the metrics page.", |args, on| args.metrics.is_allowed = on),
    set!("allow-gpu-metrics": bool = "true", "Whether the metrics page shows the GPUs, which NVIDIA's driver tells about.",
        |args, on| args.gpu_metrics = on),
    set!("allow-cpu-metrics": bool = "true", "Whether the metrics page shows processors and memory.",
        |args, on| args.cpu_metrics = on),
    set!("metrics-address": String = "", "Address of the metrics endpoint. Default is that of --http-address.",
        |args, address| args.metrics.address = address),
    set!("metrics-port": Port = "8002", "Port of the metrics endpoint; 0 takes a free one.",
        |args, port| args.metrics.set_port(port)),
    set!("metrics-use-ssl": bool = "false", "Whether to encrypt the metrics page with TLS.",
        |args, on| args.metrics_tls.use_ssl = on),
    set!("metrics-use-ssl-mutual": bool = "false",
        "The same, and clients must bring a certificate that leads to --metrics-root-cert.",
        |args, on| args.metrics_tls.use_ssl_mutual = on),
    set!("metrics-server-cert": String = "",
        "File with the server's certificate, and those that lead to its root, PEM. Read again when it changes, like the others.",
        |args, path| args.metrics_tls.server_cert = path),
    set!("metrics-server-key": String = "", "File with the key of that certificate, PEM.",
        |args, path| args.metrics_tls.server_key = path),
    set!("metrics-root-cert": String = "", "File with the roots of the certificates of clients, PEM.",
        |args, path| args.metrics_tls.root_cert = path),
    set!("metrics-interval-ms": Milliseconds = "2000",
        "Milliseconds for which a reading of processors, memory and GPUs counts: pages in between show the same.",
        |args, interval| args.metrics_interval = interval.0),
    set!("metrics-config": MetricsSetting = "",
        "A setting of the metrics: summary_latencies, histogram_latencies and counter_latencies are true or false; \
         summary_quantiles is a list of <quantile>:<error>, 0.5:0.05,0.9:0.01,0.95:0.001,0.99:0.001,0.999:0.001 if not given; \
         latency_histograms, this server's own, adds histograms of the times of requests that can be aggregated. May be given \
         several times.",
        |args, setting| args.metrics_settings.push(setting)),
];

const TRACING: &[Flag] = &[Flag {
    name: "trace-config",
    form: <Setting as Value>::FORM,
    default: "",
    help: "A setting of tracing, of one mode or of all: level=OFF, TIMESTAMPS or TENSORS; rate=N traces one of N requests; \
               count=N ends after N traces, -1 never; mode=triton writes files (triton,file=PATH, triton,log-frequency=N), \
               mode=opentelemetry sends spans to a collector (opentelemetry,url=URL, resource=KEY=VALUE, bsp_max_queue_size, \
               bsp_schedule_delay, bsp_max_export_batch_size). May be given several times.",
    effect: Effect::Set(|args, text| args.tracing.take(&Setting::of_trace(text)?)),
}];

const BACKEND: &[Flag] = &[
    set!("backend-directory": String = "/opt/tritonserver/backends",
        "Folder with backends: NAME/model.py is one that is written in Python.",
        |args, path| args.backend_directory = path),
    set!("backend-config": Setting = "",
        "A setting of one backend, or of all where no name stands before it. May be given several times.",
        |args, setting| args.backend_settings.push(setting)),
];

const REPOSITORY_AGENT: &[Flag] = &[set!("repoagent-directory": String = "/opt/tritonserver/repoagents",
        "Folder with libraries of repository agents: NAME/libtritonrepoagent_NAME.so. checksum is built in.",
        |args, path| args.models.agent_directory = path)];

const RESPONSE_CACHE: &[Flag] = &[
    set!("cache-config": CacheSetting = "",
        "A setting of the response cache, which answers requests to models with response_cache.enable: local,size=N is one of \
         N bytes in this server's memory; redis,host=NAME with redis,port=N is a Redis server. May be given several times, for \
         one cache.",
        |args, setting| args.cache.settings.push(setting)),
    set!("cache-directory": String = "/opt/tritonserver/caches",
        "Folder with cache libraries: NAME/libtritoncache_NAME.so is used where --cache-config=NAME,library=libtritoncache_NAME.so \
         says so, or where NAME is no cache that is built in.",
        |args, path| args.cache.directory = path),
];

const RATE_LIMITER: &[Flag] = &[
    set!("rate-limit": RateLimit = "off",
        "How instances take turns that share resources, as their rate_limiter says: off lets each run when it can, \
         execution_count lets those run whose resources are free, fewest executions times priority first.",
        |args, mode| args.models.rate_limit = mode),
    set!("rate-limit-resource": LimitedResource = "",
        "How much of a resource there is, on one device or on each. If none is given, of each what the most demanding \
         instance needs; else nothing of what is not. May be given several times.",
        |args, resource| args.models.resources.push(resource)),
];

const DEVICES: &[Flag] = &[
    set!("gpu-fallback": GpuFallback = "none",
        "Where instance groups of KIND_GPU run on a machine without a GPU: none refuses them, cpu runs them on the CPU and \
         logs a warning, to try a model made for GPUs.",
        |args, device| args.models.gpu_fallback = device),
    set!("allow-client-shm": bool = "false",
        "Whether clients may register shared memory of this machine, system or CUDA, for the tensors of their requests.",
        |args, on| args.allow_client_shm = on),
    set!("pinned-memory-pool-byte-size": i64 = "268435456",
        "Bytes of pinned host memory for copies to devices, as the metrics page shows them. This server pins what a copy needs.",
        |args, size| args.pinned_memory_pool_size = size.max(0).unsigned_abs()),
    unused!("cuda-memory-pool-byte-size": DeviceBytes = "", "Bytes of memory kept on one GPU for tensors."),
    unused!("cuda-virtual-address-size": DeviceBytes = "", "Address space of one GPU for a state that grows."),
    unused!("min-supported-compute-capability": f64 = "6.0", "Least compute capability of a GPU to be used."),
    unused!("buffer-manager-thread-count": i32 = "0", "Threads that help to copy tensors."),
    set!("host-policy": HostPolicySetting = "",
        "On which processors the instances of a host policy run: <name>,cpu-cores=<first>-<last>[,<first>-<last>...], or those \
         of <name>,numa-node=<number>. A group that names no policy has cpu, gpu_<number> or model. May be given several times.",
        |args, setting| args.models.host_policies.push(setting)),
    unused!("model-load-gpu-limit": DeviceFraction = "", "Part of a GPU's memory above which loads are refused."),
    unused!("enable-peer-access": bool = "true", "Whether GPUs reach each other's memory."),
];

const DEPRECATED: &[Flag] = &[
    set!("strict-model-config": bool = "false", "Opposite of completing configurations: use --disable-auto-complete-config.",
        set_strict_config),
    set!("response-cache-byte-size": u64 = "", "Use --cache-config local,size=<integer>. 0 is no cache.",
        set_response_cache),
    older_trace!("trace-file": String = "", "triton,file", "<filepath>", "Use --trace-config triton,file=<path>."),
    older_trace!("trace-level": TraceLevel = "OFF", "level", "<OFF|TIMESTAMPS|TENSORS>", "Use --trace-config level=<level>."),
    older_trace!("trace-rate": i32 = "1000", "rate", "<rate value>", "Use --trace-config rate=<integer>."),
    older_trace!("trace-count": i32 = "-1", "count", "<count value>", "Use --trace-config count=<integer>."),
    older_trace!("trace-log-frequency": i32 = "0", "triton,log-frequency", "<log frequency value>",
        "Use --trace-config triton,log-frequency=<integer>."),
];

fn set_strict_config(args: &mut Args, on: bool) {
    args.models.strict_config = on;
    args.deprecations.push(
        "Warning: '--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead."
            .to_owned(),
    );
}

fn set_response_cache(args: &mut Args, bytes: u64) {
    args.cache.byte_size = Some(bytes);
    args.deprecations.push(format!(
        "Warning: '--response-cache-byte-size' has been deprecated! This will default to the 'local' cache implementation with \
         the provided byte size for its config. Please use '--cache-config' instead. The equivalent --cache-config CLI args \
         would be: '--cache-config=local,size={bytes}'"
    ));
}

/// None for 0 and less.
fn interval(seconds: i32) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(number.into())
}
