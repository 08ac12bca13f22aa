//! Who may use what. A model is written by whoever may write models, and is fetched with what the pods of its server have; so the
//! owner of the server says which Secrets, claims and hosts models may use, and the owner of a Secret marks it for the purpose.
//! Decided from metadata alone: what a Secret holds is never asked for.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    TritonModel, TritonServer,
    parts::{Opaque, access::ModelAccess},
};

use crate::{
    Manifest, Problem, Reason,
    labels::MODEL_ACCESS,
    manifest::ManifestSource,
    mounts::Mounts,
    names,
    observed::{FoundConfigMap, FoundSecret, Observed},
    overrides, pinned,
    source_rules::{HostPattern, SourceRules, Verdict},
    validate,
};

/// The Secrets to look for before deciding about `server`: those that it lists, and those that its pods use. One that only a
/// model names is nobody's business.
pub fn secrets_to_look_for(server: &TritonServer) -> BTreeSet<String> {
    let listed = server.spec.model_access.iter().flat_map(|access| &access.secrets).map(String::as_str);
    of_pods(server).into_iter().map(|(_, name)| name).chain(listed.map(str::to_owned)).collect()
}

/// The claims to look for: those that the server lists.
pub fn claims_to_look_for(server: &TritonServer) -> BTreeSet<&str> {
    server.spec.model_access.iter().flat_map(|access| &access.claims).map(String::as_str).collect()
}

/// Environment variables, certificate and changes of the pod template of a server that would use Secrets which are not for it.
pub fn of_server(server: &TritonServer, observed: &Observed) -> Vec<Problem> {
    let Some(secrets) = &observed.secrets else { return vec![] };
    let problem = |(path, name): (String, String)| {
        let (reason, message) = refused_secret(secrets, &name)?;
        Some(Problem { object: names::object(server), reason, path, message })
    };
    of_pods(server).into_iter().filter_map(problem).collect()
}

/// Why `model` may not use its source on `server`.
pub fn of_model(
    server: &TritonServer,
    model: &TritonModel,
    source: &ManifestSource,
    observed: &Observed,
) -> Option<Problem> {
    let secrets = observed.secrets.as_ref()?;
    let access = listed(server);
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let object = names::object(model);
    let problem = |reason, field: &str, message| {
        Some(Problem { object: object.clone(), reason, path: format!("spec.source.{field}"), message })
    };
    let kind = validate::kind_of(&model.spec.source);
    if let Some(claim) = source.claim() {
        let field = format!("{kind}.claimName");
        if !access.claims.iter().any(|listed| listed == claim) {
            let message = format!(
                "TritonServer {name} does not let its models use claim '{claim}': its owner adds it to spec.modelAccess.claims"
            );
            return problem(Reason::AccessDenied, &field, message);
        }
        if !observed.absent_claims.contains(claim)
            && !may_mount(server, observed, |mounts| mounts.claims.contains(claim))
        {
            return problem(Reason::NotMounted, &field, not_mounted(name, &format!("claim '{claim}'")));
        }
    }
    if let ManifestSource::ConfigMap { name: config_map, keys: None, .. } = source
        && observed.config_maps.get(config_map) == Some(&FoundConfigMap::Large)
        && !may_mount(server, observed, |mounts| mounts.config_maps.contains(config_map))
    {
        return problem(Reason::NotMounted, "configMap.name", not_mounted(name, &format!("ConfigMap '{config_map}'")));
    }
    if let Some(secret) = source.secret() {
        let field = format!("{kind}.secretRef.name");
        if !access.secrets.iter().any(|listed| listed == secret) {
            let message = format!(
                "TritonServer {name} does not let its models use Secret '{secret}': its owner adds it to spec.modelAccess.secrets"
            );
            return problem(Reason::AccessDenied, &field, message);
        }
        if let Some((reason, message)) = refused_secret(secrets, secret) {
            return problem(reason, &field, message);
        }
    }
    if let Some(host) = source.host()
        && rules_of(server).of_host(host) == Verdict::Refused
    {
        let message = format!(
            "TritonServer {name} does not let its models be fetched from '{host}': its owner adds it to spec.modelAccess.hosts"
        );
        return problem(Reason::AccessDenied, &format!("{kind}.uri"), message);
    }
    None
}

/// Whether the pods have a mount or may be given it.
pub(crate) fn may_mount(server: &TritonServer, observed: &Observed, has: impl Fn(&Mounts) -> bool) -> bool {
    observed.secrets.is_none()
        || listed(server).allow_pod_restart == Some(true)
        || pinned::kept(server, observed.template.as_ref()).is_none_or(|kept| has(&kept.mounts))
}

/// What pods that are made now mount: the Secrets and claims that the server lets models use, and the ConfigMaps that are too
/// large for the manifest. A claim that does not exist is not mounted, since a pod would wait for it. Nor is a Secret that its
/// owner has not marked: what runs in the pod is chosen by whoever writes the server, down to the image.
pub(crate) fn wanted_mounts(server: &TritonServer, manifest: &Manifest, observed: &Observed) -> Mounts {
    let access = server.spec.model_access.iter();
    let is_there = |claim: &&String| !observed.absent_claims.contains(*claim);
    let is_for_models = |secret: &&String| {
        observed.secrets.as_ref().is_none_or(|found| found.get(*secret) == Some(&FoundSecret::ForModels))
    };
    let large = manifest.sources().filter_map(|source| match source {
        ManifestSource::ConfigMap { name, keys: None, .. } => Some(name),
        _ => None,
    });
    let exists = |name: &&String| observed.config_maps.get(*name) != Some(&FoundConfigMap::Absent);
    Mounts {
        config_maps: large.filter(exists).cloned().collect(),
        claims: access.clone().flat_map(|access| &access.claims).filter(is_there).cloned().collect(),
        secrets: access.flat_map(|access| &access.secrets).filter(is_for_models).cloned().collect(),
    }
}

/// What the sources of a server's models may use: what the agent holds each fetch to. A Secret or claim that was allowed and is not any
/// more stays named by what serves; it opens nothing from then on.
pub fn rules(server: &TritonServer, observed: &Observed) -> SourceRules {
    let access = listed(server);
    let secrets = observed.secrets.as_ref().map(|found| {
        let is_for_models = |name: &&String| found.get(*name) == Some(&FoundSecret::ForModels);
        sorted(access.secrets.iter().filter(is_for_models))
    });
    let claims = observed.secrets.as_ref().map(|_| sorted(access.claims.iter()));
    SourceRules { allow: observed.allowed_addresses.clone(), secrets, claims, ..rules_of(server) }
}

/// Whether a reason says that something may not be used. It ends with a change of metadata, of which no event comes.
pub fn is_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::AccessDenied | Reason::CredentialsMissing)
}

fn rules_of(server: &TritonServer) -> SourceRules {
    let hosts = server.spec.model_access.as_ref().and_then(|access| access.hosts.as_ref());
    // those that cannot be read are reported as problems of the server
    let hosts = hosts.map(|hosts| hosts.iter().filter_map(|host| host.parse::<HostPattern>().ok()).collect());
    SourceRules { hosts, ..SourceRules::default() }
}

fn refused_secret(secrets: &BTreeMap<String, FoundSecret>, name: &str) -> Option<(Reason, String)> {
    match secrets.get(name).copied().unwrap_or(FoundSecret::NotForModels) {
        FoundSecret::ForModels => None,
        FoundSecret::NotForModels => Some((
            Reason::CredentialsMissing,
            format!(
                "there is no Secret '{name}' with the label {MODEL_ACCESS}: \"true\": its owner makes it or sets the label"
            ),
        )),
        FoundSecret::Unseen => Some((
            Reason::AccessDenied,
            format!(
                "the operator is not allowed to look for the label of Secret '{name}': it was installed without the right to get \
                 Secrets (chart value modelSecrets.enabled)"
            ),
        )),
    }
}

fn not_mounted(server: &str, what: &str) -> String {
    format!(
        "the pods of TritonServer {server} do not have {what} mounted, and are not replaced for it: set \
         spec.modelAccess.allowPodRestart: true there"
    )
}

/// Secrets that the pods of a server, or who reads their metrics, would use besides those of models: the place that names each, and its name.
fn of_pods(server: &TritonServer) -> Vec<(String, String)> {
    let env = server.spec.server.iter().flat_map(|options| &options.env).enumerate();
    let variables = env.filter_map(|(at, variable)| {
        let secret = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some((format!("spec.server.env[{at}].valueFrom.secretKeyRef.name"), secret.name.clone()))
    });
    let certificate = server.spec.tls.iter().map(|tls| ("spec.tls.secretName".to_owned(), tls.secret_name.clone()));
    let below = |place: &'static str, given: &Opaque| {
        overrides::secrets_in(given).into_iter().map(move |(path, name)| (format!("{place}.{path}"), name))
    };
    let changes = server.spec.pod_template.iter().flat_map(|patch| below("spec.podTemplate", patch));
    let monitors = server.spec.monitoring.iter().flat_map(|monitoring| {
        [
            ("spec.monitoring.serviceMonitor.tlsConfig", &monitoring.service_monitor),
            ("spec.monitoring.podMonitor.tlsConfig", &monitoring.pod_monitor),
        ]
    });
    let monitors = monitors
        .filter_map(|(place, monitor)| Some((place, monitor.as_ref()?.tls_config.as_ref()?)))
        .flat_map(|(place, given)| below(place, given));
    variables.chain(certificate).chain(changes).chain(monitors).collect()
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let names: BTreeSet<&String> = names.collect();
    names.into_iter().cloned().collect()
}

fn listed(server: &TritonServer) -> ModelAccess {
    server.spec.model_access.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
