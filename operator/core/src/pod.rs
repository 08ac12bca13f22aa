//! Where things are in a server's pod: ports and paths. The builder writes them into the pod template, the agent's program
//! takes them as its defaults and the operator asks at them, so that the three cannot disagree.

/// Port of the HTTP interface.
pub const HTTP_PORT: u16 = 8000;
/// Port of the gRPC interface.
pub const GRPC_PORT: u16 = 8001;
/// Port of the metrics page.
pub const METRICS_PORT: u16 = 8002;
/// Port at which the agent serves its state.
pub const AGENT_PORT: u16 = 8003;

/// Name of the container that runs the inference server.
pub const SERVER_CONTAINER: &str = "server";
/// Name of the container that runs the agent.
pub const AGENT_CONTAINER: &str = "agent";

/// Path of the agent that answers with its state as JSON.
pub const STATE_PATH: &str = "/state";
/// Path of the agent that answers 200 once every required model of the manifest is in the repository, 503 before.
pub const STAGED_PATH: &str = "/staged";
/// Path of the agent that answers 200 for as long as the process works.
pub const AGENT_LIVE_PATH: &str = "/healthz";
/// Path of the server that answers 200 once its start-up set is loaded.
pub const READY_PATH: &str = "/v2/health/ready";
/// Path of the server that answers 200 while the process serves.
pub const LIVE_PATH: &str = "/v2/health/live";

/// The agent's folder.
pub const MODELS: &str = "/models";
/// The model repository below it that the server reads.
pub const REPOSITORY: &str = "/models/repository";
/// Folder for models on a claim, where there is one; [`REPOSITORY`] leads into it.
pub const STORE: &str = "/store";
/// Folder of the manifest; the file in it is [`crate::names::MANIFEST_KEY`].
pub const MANIFEST: &str = "/manifest";
/// Folder with one folder per ConfigMap that models come from.
pub const CONFIG_MAPS: &str = "/sources/configmaps";
/// Folder with one folder per PersistentVolumeClaim that models come from.
pub const CLAIMS: &str = "/sources/volumes";
/// Folder with one folder per Secret that opens a source.
pub const SECRETS: &str = "/sources/secrets";
/// Folder of the server with its certificate, the key, and the roots of its clients' certificates.
pub const TLS: &str = "/tls";
/// Folder of what a pod learns of itself.
pub const POD_INFO: &str = "/podinfo";
/// File with the pod's annotation [`crate::labels::ADOPT`].
pub const ADOPT: &str = "/podinfo/adopt";

/// Environment variable of the agent: the pod's own addresses, with commas between them.
pub const POD_IPS: &str = "POD_IPS";
/// Environment variable of the agent: the addresses of its node, with commas between them.
pub const HOST_IPS: &str = "HOST_IPS";

/// Folder that server and agent share for sockets; in memory, and never seen from outside the pod.
pub const CONTROL: &str = "/run/triton";
/// Socket in it at which the server takes every call, those included that its ports refuse.
pub const CONTROL_SOCKET: &str = "/run/triton/control.sock";

/// Environment variable of the server: the file into which it writes by which signal it crashes, and what it was executing.
pub const CRASH_NOTE: &str = "TRITONSERVER_CRASH_NOTE";

/// Socket at which the launcher tells the agent of starts and ends of the server. In scratch space, which both share.
pub const LAUNCHER_SOCKET: &str = "/tmp/launcher.sock";

/// User and group of every process in the pod.
pub const USER: i64 = 1000;
