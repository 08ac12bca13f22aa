//! Which of several operators works: the one that holds the Lease. When to write is decided by `operator_core::election`;
//! here the Lease is read and written, each write on the condition that nobody has written since.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use operator_core::election::{Decision, Election, Rhythm};
use tokio::{sync::watch, time::Instant};

/// Why this one must not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Somebody else leads, or nobody can be asked.
    #[error("the lease could not be kept: another operator may lead now")]
    Lease,
}

/// One candidate.
pub(crate) struct Leader {
    api: Api<Lease>,
    lease: String,
    me: String,
    rhythm: Rhythm,
    leads: watch::Sender<bool>,
}

impl Leader {
    /// A candidate named `me` for the lease of that namespace and name, which says through `leads` when it leads.
    pub(crate) fn new(
        client: &Client,
        (namespace, lease): (&str, &str),
        me: String,
        leads: watch::Sender<bool>,
    ) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, lease: lease.to_owned(), me, rhythm: Rhythm::default(), leads }
    }

    /// Tries to lead and to go on leading. Returns only when it led and does not any more.
    pub(crate) async fn run(&self) -> Lost {
        let began = Instant::now();
        let mut election = Election::new(self.me.clone(), self.rhythm);
        loop {
            // an answer that takes longer than a pause would come too late to be of use
            let attempt = tokio::time::timeout(self.rhythm.retry * 2, self.attempt(&mut election, began)).await;
            let decision = match attempt {
                Ok(Ok(decision)) => decision,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease cannot be read or written");
                    election.failed(began.elapsed())
                }
                Err(_) => {
                    tracing::warn!("the API server does not answer about the lease");
                    election.failed(began.elapsed())
                }
            };
            if decision == Decision::StepDown {
                self.leads.send_replace(false);
                return Lost::Lease;
            }
            let leads = election.leads(began.elapsed());
            if self.leads.send_replace(leads) != leads {
                tracing::info!(leads, candidate = self.me, "leadership");
            }
            tokio::time::sleep(self.rhythm.retry).await;
        }
    }

    /// Gives the Lease back, so that another can begin at once.
    pub(crate) async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.lease).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.me.as_str()) {
                spec.holder_identity = None;
                self.api.replace(&self.lease, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(3), release).await {
            Ok(Ok(())) => {}
            _ => tracing::info!("the lease was not given back; another operator takes it when it has run out"),
        }
    }

    async fn attempt(&self, election: &mut Election, began: Instant) -> Result<Decision, kube::Error> {
        let found = self.api.get_opt(&self.lease).await?;
        let read = found.as_ref().map(|lease| operator_core::election::Lease {
            holder: lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone())
                .filter(|holder| !holder.is_empty()),
            revision: lease.metadata.resource_version.clone().unwrap_or_default(),
        });
        let decision = election.read(read, began.elapsed());
        if decision != Decision::Write {
            return Ok(decision);
        }
        let begun = began.elapsed();
        match self.write(found).await {
            Ok(()) => election.wrote(begun),
            // somebody was quicker: the next attempt shows who
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {}
            Err(error) => return Err(error),
        }
        Ok(Decision::Wait)
    }

    /// Writes the Lease as its holder; `found` carries the version it must still have.
    async fn write(&self, found: Option<Lease>) -> Result<(), kube::Error> {
        let now = MicroTime(Timestamp::now());
        let is_new = found.is_none();
        let mut lease = found.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.me.as_str()) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1) + 1);
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = i32::try_from(self.rhythm.lease.as_secs()).ok();
        spec.renew_time = Some(now);
        match is_new {
            true => self.api.create(&PostParams::default(), &lease).await.map(drop),
            false => self.api.replace(&self.lease, &PostParams::default(), &lease).await.map(drop),
        }
    }
}
