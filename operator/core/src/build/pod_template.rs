//! The pod: the agent as a sidecar that starts first, and the server, which starts once the agent has brought its start-up
//! set. Models are named nowhere in it; only the volumes they come from are. It satisfies Pod Security `restricted`.

use crds::parts::{control::Control, image::PullPolicy};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, LocalObjectReference, ObjectFieldSelector,
        PodResourceClaim, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, SecurityContext,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    parts::{filled, seconds, some},
    placement, probes, volumes,
};
use crate::{defaults, labels, names, overrides, pod, tls, validated::Validated};

/// What a container that failed said last is told with its end: the end of its log.
const LAST_WORDS: &str = "FallbackToLogsOnError";

/// The template of a server's pods, its owner's changes included.
///
/// Panics: never; validation has refused changes that cannot be made.
pub(super) fn build(server: &Validated<'_>) -> PodTemplateSpec {
    let own = of_operator(server);
    overrides::apply(own.clone(), server.server).unwrap_or(own)
}

/// The template before its owner's changes.
pub(crate) fn of_operator(server: &Validated<'_>) -> PodTemplateSpec {
    let spec = &server.server.spec;
    let claims: Vec<_> = spec
        .gpu
        .iter()
        .flat_map(|gpu| &gpu.resource_claims)
        .map(|claim| PodResourceClaim {
            name: claim.name.clone(),
            resource_claim_name: claim.resource_claim_name.clone(),
            resource_claim_template_name: claim.resource_claim_template_name.clone(),
        })
        .collect();
    let pull_secrets: Vec<_> = spec
        .image
        .iter()
        .flat_map(|image| &image.pull_secrets)
        .map(|secret| LocalObjectReference { name: secret.name.clone() })
        .collect();
    PodTemplateSpec {
        metadata: Some(metadata(server)),
        spec: Some(PodSpec {
            service_account_name: Some(spec.service_account_name.clone().unwrap_or_else(|| server.name.to_owned())),
            automount_service_account_token: Some(false),
            // hundreds of variables in large namespaces, and nobody reads them
            enable_service_links: Some(false),
            image_pull_secrets: some(&pull_secrets),
            init_containers: Some(vec![agent(server)]),
            containers: vec![server_container(server)],
            volumes: Some(volumes::all(server)),
            termination_grace_period_seconds: Some(seconds(server.settings.end())),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(pod::USER),
                run_as_group: Some(pod::USER),
                fs_group: Some(pod::USER),
                fs_group_change_policy: Some("OnRootMismatch".into()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
                ..PodSecurityContext::default()
            }),
            runtime_class_name: spec.runtime_class_name.clone(),
            priority_class_name: spec.priority_class_name.clone(),
            node_selector: filled(&spec.node_selector),
            tolerations: some(&spec.tolerations),
            affinity: placement::affinity(spec),
            resource_claims: some(&claims),
            topology_spread_constraints: Some(if spec.topology_spread_constraints.is_empty() {
                vec![placement::over_nodes(server)]
            } else {
                spec.topology_spread_constraints.clone()
            }),
            ..PodSpec::default()
        }),
    }
}

fn metadata(server: &Validated<'_>) -> ObjectMeta {
    let own = server.server.spec.pod_metadata.clone().unwrap_or_default();
    let mut all = own.labels;
    all.extend(labels::common(server.name)); // ours last: the selector lives on them
    let mut annotations = own.annotations;
    annotations.extend([("kubectl.kubernetes.io/default-container".to_owned(), pod::SERVER_CONTAINER.to_owned())]);
    annotations.extend(server.server.spec.tls.as_ref().map(|_| (labels::TLS.to_owned(), "true".to_owned())));
    ObjectMeta { labels: Some(all), annotations: Some(annotations), ..ObjectMeta::default() }
}

fn server_container(server: &Validated<'_>) -> Container {
    let spec = &server.server.spec;
    let env = spec.server.iter().flat_map(|options| &options.env).cloned().collect::<Vec<_>>();
    let mut args = vec![
        format!("--model-repository={}", pod::REPOSITORY),
        "--model-control-mode=explicit".to_owned(),
        // one bad model keeps the pod unready if it is required, and never takes the others with it
        "--exit-on-error=false".to_owned(),
        // The pod goes on serving while those who send to it learn that it leaves, or have nobody else to send to.
        format!("--drain-delay-secs={}", seconds(server.settings.drain_delay)),
        format!("--drain-timeout-secs={}", seconds(server.settings.drain_timeout)),
        // The agent's calls come this way, whatever is asked of callers of the ports.
        format!("--control-socket={}", pod::CONTROL_SOCKET),
    ];
    if spec.control == Some(Control::Public) {
        args.push("--public-control=true".to_owned());
    }
    args.extend(spec.tls.iter().flat_map(tls::flags));
    args.extend(server.settings.flags());
    Container {
        name: pod::SERVER_CONTAINER.into(),
        image: Some(server.image.clone()),
        image_pull_policy: Some(pull_policy(server)),
        // The agent's launcher adds the models to start with: the template must not change when they do.
        command: Some(vec![
            "triton-agent".into(),
            "launch".into(),
            format!("--root={}", pod::MODELS),
            "--".into(),
            "tritonserver".into(),
        ]),
        args: Some(args),
        env: some(&env),
        ports: Some(vec![
            port("http", pod::HTTP_PORT),
            port("grpc", pod::GRPC_PORT),
            port("metrics", pod::METRICS_PORT),
        ]),
        resources: Some(defaults::resources(spec)),
        volume_mounts: Some(volumes::of_server(server)),
        startup_probe: Some(probes::startup(spec)),
        readiness_probe: Some(probes::readiness(spec)),
        liveness_probe: Some(probes::liveness(spec)),
        termination_message_policy: Some(LAST_WORDS.into()),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

fn agent(server: &Validated<'_>) -> Container {
    let mut args = vec![
        format!("--manifest={}/{}", pod::MANIFEST, names::MANIFEST_KEY),
        format!("--adopt={}", pod::ADOPT),
        format!("--root={}", pod::MODELS),
        format!("--server=unix:{}", pod::CONTROL_SOCKET),
        format!("--listen=0.0.0.0:{}", pod::AGENT_PORT),
        format!("--config-maps={}", pod::CONFIG_MAPS),
        format!("--volumes={}", pod::CLAIMS),
        format!("--secrets={}", pod::SECRETS),
    ];
    args.extend(volumes::store(server).map(|_| format!("--store={}", pod::STORE)));
    // above the volume's limit, the kubelet evicts the pod
    args.extend(volumes::size_limit(server).map(|limit| format!("--store-limit={}", limit.get())));
    Container {
        name: pod::AGENT_CONTAINER.into(),
        image: Some(server.image.clone()),
        image_pull_policy: Some(pull_policy(server)),
        command: Some(vec!["triton-agent".into(), "run".into()]),
        args: Some(args),
        // which addresses no source may have; an older agent does not read them
        env: Some(vec![of_pod(pod::POD_IPS, "status.podIPs"), of_pod(pod::HOST_IPS, "status.hostIPs")]),
        ports: Some(vec![port("agent", pod::AGENT_PORT)]),
        // A sidecar: starts before the server, lives beside it, ends after it.
        restart_policy: Some("Always".into()),
        // The server starts only once this has succeeded, so that its readiness speaks of the whole start-up set.
        startup_probe: Some(probes::staged()),
        liveness_probe: Some(probes::agent_lives()),
        termination_message_policy: Some(LAST_WORDS.into()),
        resources: Some(defaults::agent_resources(&server.server.spec)),
        volume_mounts: Some(volumes::of_agent(server)),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

/// A variable with what the pod is told of itself.
fn of_pod(name: &str, field: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: field.into(), ..ObjectFieldSelector::default() });
    let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
    EnvVar { name: name.into(), value_from, ..EnvVar::default() }
}

fn pull_policy(server: &Validated<'_>) -> String {
    match server.server.spec.image.as_ref().and_then(|image| image.pull_policy) {
        Some(PullPolicy::Always) => "Always",
        Some(PullPolicy::Never) => "Never",
        Some(PullPolicy::IfNotPresent) | None => "IfNotPresent",
    }
    .into()
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}
