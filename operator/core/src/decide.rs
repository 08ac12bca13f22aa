//! Step 2 of a reconcile: a server and what was fetched around it become what shall be built, everything decided, or the
//! problems that stand against it. Models with problems do not stand against it: the compile step has left them out.

use crds::{
    TritonServer,
    parts::{Switch, autoscaling::AutoscalingEngine},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube_core::Resource;

use crate::{
    Compiled, ObjectRef, Observed, Problem, Reason, access,
    autoscaling::Autoscale,
    build::pod_template,
    defaults::{self, ServerSettings},
    image,
    kind::Kind,
    labels, names,
    optional::Choice,
    overrides, pinned, replicas,
    strategic::{self, Mistake},
    surge::RollingUpdate,
    validated::Validated,
};

/// What the operator itself was configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Image of servers that name none.
    pub image: String,
    /// Namespace its pods run in; none where it runs outside the cluster.
    pub namespace: Option<String>,
    /// Host and port at which KEDA asks it for the load of a server.
    pub scaler_address: Option<String>,
}

/// Decides everything about `server`.
///
/// Errors: every problem of the server itself.
pub fn decide<'a>(
    server: &'a TritonServer,
    compiled: &'a Compiled,
    observed: &Observed,
    settings: &Settings,
) -> Result<Validated<'a>, Vec<Problem>> {
    let object = names::object(server);
    let mut problems: Vec<Problem> =
        compiled.problems.iter().filter(|problem| problem.object == object).cloned().collect();
    let name = server.metadata.name.as_deref().unwrap_or_default();
    if problems.is_empty() && !names_a_service(name) {
        problems.push(Problem {
            object: object.clone(),
            reason: Reason::InvalidSpec,
            path: "metadata.name".into(),
            message: format!(
                "'{name}' cannot be the name of a Service: use a-z, 0-9 and '-', with a letter first and no '-' last"
            ),
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let spec = &server.spec;
    let autoscale = Autoscale::of(spec);
    let replicas = replicas::decide(&replicas::Facts {
        is_suspended: spec.suspend == Some(true),
        set: spec.replicas,
        autoscale: autoscale.as_ref(),
        present: observed.replicas,
        before: observed.replicas_before,
        rests: autoscale.as_ref().is_some_and(|it| {
            it.min_replicas == 0 && (it.engine == AutoscalingEngine::Keda || observed.activators.is_some())
        }),
    });
    let optional = optional(server, autoscale.as_ref(), observed, settings);
    let wanted = access::wanted_mounts(server, &compiled.manifest, observed);
    let kept = pinned::kept(server, observed.template.as_ref()).filter(|kept| kept.is_enough(server, &wanted));
    let rolling_update = RollingUpdate::of(spec, observed.has_no_room);
    let gives_way = rolling_update.gives_way(spec).then(|| {
        "an old pod ends before its successor starts, for the scheduler finds no room for both (spec.rollout.maxUnavailable: 0 \
         waits until there is)"
            .to_owned()
    });
    let validated = Validated {
        server,
        namespace: names::namespace(server),
        name,
        owner: owner(server),
        manifest: &compiled.manifest,
        image: image::resolve(spec.image.as_ref(), &settings.image),
        settings: ServerSettings::of(spec),
        replicas,
        autoscale,
        scaler_address: settings.scaler_address.clone(),
        replicas_expected: replicas.replicas.or(observed.replicas).unwrap_or_else(|| defaults::replicas(spec)),
        rolling_update,
        mounts: kept.as_ref().map_or(wanted, |kept| kept.mounts.clone()),
        kept,
        operator_namespace: settings.namespace.clone(),
        activators: observed.activators.clone(),
        remarks: optional
            .remarks
            .iter()
            .cloned()
            .chain(gives_way)
            .chain(observed.rests_not.clone())
            .chain(overridden_labels(server))
            .collect(),
        optional,
    };
    if server.spec.pod_template.is_some()
        && let Err(mistakes) = overrides::apply(pod_template::of_operator(&validated), server)
    {
        return Err(mistakes.into_iter().map(|mistake| of_template(&object, mistake)).collect());
    }
    Ok(validated)
}

fn of_template(object: &ObjectRef, mistake: Mistake) -> Problem {
    let path = strategic::below("spec.podTemplate", &mistake.path);
    Problem { object: object.clone(), reason: Reason::InvalidSpec, path, message: mistake.message }
}

/// Labels that the user gives pods and that have other values on all pods of the server.
fn overridden_labels(server: &TritonServer) -> Option<String> {
    let given = &server.spec.pod_metadata.as_ref()?.labels;
    let ours = labels::common(server.metadata.name.as_deref().unwrap_or_default());
    let lost = ours.iter().filter(|(key, own)| given.get(*key).is_some_and(|value| value != *own));
    let lost: Vec<_> = lost.map(|(key, own)| format!("'{own}' for label {key}")).collect();
    (!lost.is_empty())
        .then(|| format!("pods of a server always have {} (remove it from spec.podMetadata)", lost.join(" and ")))
}

/// The reference by which everything built for `server` is its own.
pub fn owner(server: &TritonServer) -> OwnerReference {
    OwnerReference {
        api_version: TritonServer::api_version(&()).into_owned(),
        kind: TritonServer::kind(&()).into_owned(),
        name: server.metadata.name.clone().unwrap_or_default(),
        uid: server.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn names_a_service(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Which objects of optional kinds `server` gets: one line for each kind.
fn optional(server: &TritonServer, autoscale: Option<&Autoscale>, observed: &Observed, settings: &Settings) -> Choice {
    let mut choice = Choice::default();
    let mut add = |kind, switch, cure: &str| choice.add(kind, switch, cure, &observed.kinds);
    let monitoring = server.spec.monitoring.clone().unwrap_or_default();
    let of_pods = monitoring.pod_monitor.map_or(Switch::Never, |monitor| monitor.enabled.unwrap_or_default());
    let of_service = match (monitoring.service_monitor, of_pods) {
        (Some(monitor), _) => monitor.enabled.unwrap_or_default(),
        (None, Switch::Never) => Switch::Auto,
        (None, _) => Switch::Never,
    };
    let rule = monitoring.prometheus_rule.map_or(Switch::Never, |rule| rule.enabled.unwrap_or_default());
    let routes = server.spec.routes.clone().unwrap_or_default();
    let asked_for = |is_given: bool| if is_given { Switch::Always } else { Switch::Never };
    add(Kind::ServiceMonitor, of_service, "set spec.monitoring.serviceMonitor.enabled to Auto");
    add(Kind::PodMonitor, of_pods, "set spec.monitoring.podMonitor.enabled to Auto");
    add(Kind::PrometheusRule, rule, "set spec.monitoring.prometheusRule.enabled to Auto");
    add(Kind::HttpRoute, asked_for(routes.http.is_some()), "remove spec.routes.http");
    add(Kind::GrpcRoute, asked_for(routes.grpc.is_some()), "remove spec.routes.grpc");
    if let Some(autoscale) = autoscale.filter(|it| it.engine == AutoscalingEngine::Keda) {
        if autoscale.prometheus.is_some() || settings.scaler_address.is_some() {
            add(Kind::ScaledObject, Switch::Always, "set spec.autoscaling.engine to Operator");
        } else {
            choice.remarks.push(
                "no ScaledObject is made: the operator does not answer KEDA (set externalScaler.enabled among the values of its chart, or \
                 name a Prometheus in spec.autoscaling.prometheus)"
                    .to_owned(),
            );
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::names_a_service;

    #[test]
    fn a_server_is_named_as_its_service_can_be() {
        for name in ["vision", "v2-a"] {
            assert!(names_a_service(name), "{name}");
        }
        for name in ["", "1vision", "a.b", "a-", "Vision", "a_b"] {
            assert!(!names_a_service(name), "{name}");
        }
    }
}
