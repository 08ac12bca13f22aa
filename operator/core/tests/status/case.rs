//! One server with its models at one moment, and what comes of it.

use crds::{
    TritonModel, TritonModelStatus, TritonServer, TritonServerStatus,
    parts::{Condition, condition},
};
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use operator_core::{
    Compiled, Manifest, Observed,
    build::{self, Applied, Resources},
    compile,
    decide::{self, Settings},
    replica::{ModelReport, Phase, Replica, Report},
    status::{self, Outcome, Seen, Statuses},
};
use serde_json::{Value, json};

pub(crate) fn at(second: u8) -> Time {
    serde_json::from_value(json!(format!("2026-01-01T00:00:{second:02}Z"))).unwrap()
}

pub(crate) fn server(replicas: i32) -> TritonServer {
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonServer",
        "metadata": { "name": "vision", "namespace": "ml", "uid": "1", "generation": 3 },
        "spec": { "replicas": replicas },
    }))
    .unwrap()
}

pub(crate) fn model(name: &str, spec: Value) -> TritonModel {
    let mut all = json!({ "serverRef": { "name": "vision" }, "source": { "http": { "uri": "http://x/m.zip" } } });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
        "metadata": { "name": name, "namespace": "ml", "generation": 2 }, "spec": all,
    }))
    .unwrap()
}

/// `status` of a Deployment of generation 7.
pub(crate) fn deployment(status: Value) -> Value {
    let mut all = json!({ "observedGeneration": 7 });
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    all
}

pub(crate) fn all_ready(number: i32) -> Value {
    deployment(json!({
        "replicas": number, "readyReplicas": number, "updatedReplicas": number, "availableReplicas": number,
    }))
}

/// Writes the resources with their statuses to the file in `STATUSES`, a line each: `e2e/manifests` has delivery tools read them.
pub(crate) fn record(server: &TritonServer, models: &[TritonModel], statuses: &Statuses) {
    let Some(file) = std::env::var_os("STATUSES") else { return };
    let server = TritonServer { status: Some(statuses.server.clone()), ..server.clone() };
    let mut lines = serde_json::to_string(&server).unwrap() + "\n";
    for (model, (_, status)) in models.iter().zip(&statuses.models) {
        let model = TritonModel { status: Some(status.clone()), ..model.clone() };
        lines += &(serde_json::to_string(&model).unwrap() + "\n");
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
}

/// Invariant 5: every condition has a reason, a message and the generation that it speaks of, and its time moves only with its status.
#[track_caller]
fn check_conditions(generation: Option<i64>, before: &[Condition], after: &[Condition]) {
    for it in after {
        assert!(!it.reason.is_empty() && !it.message.is_empty() && it.observed_generation == generation, "{it:?}");
        let before = condition::find(before, &it.type_).filter(|before| before.status == it.status);
        assert!(
            before.is_none_or(|before| before.last_transition_time == it.last_transition_time),
            "{before:?} {it:?}"
        );
    }
}

/// One case at one server with its models.
pub(crate) struct Case {
    pub(crate) server: TritonServer,
    pub(crate) models: Vec<TritonModel>,
    pub(crate) deployment: Value,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) before: Option<Statuses>,
    pub(crate) manifest_before: Option<Manifest>,
    pub(crate) deployment_before: Option<Deployment>,
    pub(crate) autoscaler: Option<Value>,
    pub(crate) second: u8,
}

impl Case {
    pub(crate) fn new(replicas: i32, models: Vec<TritonModel>) -> Self {
        Self {
            server: server(replicas),
            models,
            deployment: json!({}),
            replicas: vec![],
            before: None,
            manifest_before: None,
            deployment_before: None,
            autoscaler: None,
            second: 1,
        }
    }

    pub(crate) fn compiled(&self) -> Compiled {
        compile(&self.server, &self.models, &Observed::default())
    }

    pub(crate) fn applied(&self, compiled: &Compiled) -> Resources<Applied> {
        let settings = Settings { image: "triton:1".into(), ..Settings::default() };
        let validated = decide::decide(&self.server, compiled, &Observed::default(), &settings).unwrap();
        let prepared = build::build(&validated);
        let mut live: Deployment = prepared.deployment.clone();
        live.metadata.generation = Some(7);
        live.status = serde_json::from_value(self.deployment.clone()).unwrap();
        prepared.applied(live, None)
    }

    pub(crate) fn take(&self) -> Statuses {
        let compiled = self.compiled();
        let resources = self.applied(&compiled);
        self.take_with(&compiled, Outcome::Applied(&resources))
    }

    pub(crate) fn take_with(&self, compiled: &Compiled, outcome: Outcome<'_>) -> Statuses {
        let (server, models) = match &self.before {
            Some(before) => (before.server.clone(), before.models.iter().map(|(_, status)| status.clone()).collect()),
            None => (TritonServerStatus::default(), vec![TritonModelStatus::default(); self.models.len()]),
        };
        let models: Vec<_> = self.models.iter().zip(models).collect();
        let statuses = status::statuses(&Seen {
            server: &self.server,
            models: &models,
            before: &server,
            compiled,
            outcome,
            manifest_before: self.manifest_before.as_ref(),
            deployment_before: self.deployment_before.as_ref(),
            autoscaler: self.autoscaler.as_ref(),
            replicas: &self.replicas,
            now: &at(self.second),
        });
        check_conditions(self.server.metadata.generation, &server.conditions, &statuses.server.conditions);
        for ((model, before), (_, after)) in models.iter().zip(&statuses.models) {
            check_conditions(model.metadata.generation, &before.conditions, &after.conditions);
        }
        record(&self.server, &self.models, &statuses);
        statuses
    }

    /// Replicas that all say `phase` of each model, of the present manifest.
    pub(crate) fn saying(mut self, replicas: usize, phase: &Phase, versions: &[i64]) -> Self {
        let hash = self.compiled().manifest.hash;
        self.replicas = (0..replicas).map(|at| replica(at, Some(&hash), &self.models, phase, versions)).collect();
        self
    }
}

pub(crate) fn replica(
    at: usize,
    hash: Option<&str>,
    models: &[TritonModel],
    phase: &Phase,
    versions: &[i64],
) -> Replica {
    let report = ModelReport { phase: phase.clone(), versions: versions.to_vec(), ..ModelReport::default() };
    Replica {
        name: format!("vision-{at}"),
        is_ready: true,
        report: Some(Report {
            manifest_hash: hash.map(str::to_owned),
            models: models.iter().map(|model| (model.metadata.name.clone().unwrap(), report.clone())).collect(),
            ..Report::default()
        }),
        ..Replica::default()
    }
}

/// Conditions in one line: `Ready=True/Loaded Servable=False/NoActiveVersion`.
pub(crate) fn line(conditions: &[Condition]) -> String {
    let all: Vec<_> = conditions.iter().map(|it| format!("{}={:?}/{}", it.type_, it.status, it.reason)).collect();
    all.join(" ")
}

pub(crate) fn of<'a>(conditions: &'a [Condition], type_: &str) -> &'a Condition {
    condition::find(conditions, type_).unwrap()
}
