//! Whether somebody may read a metric: the API server is asked, and its answer kept for a few seconds.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use operator_core::metrics_api::{GROUP, VERSION, Values};
use tokio::time::Instant;

use super::front_proxy::User;

/// How long an answer counts, as in Kubernetes' own servers.
const KEPT: Duration = Duration::from_secs(10);
/// Most answers that are kept.
const MOST: usize = 4096;

/// Asks the API server who may read what.
pub(super) struct Access {
    api: Api<SubjectAccessReview>,
    answers: Mutex<HashMap<Question, (Answer, Instant)>>,
}

/// Who reads what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    user: User,
    namespace: String,
    pod: Option<String>,
    metric: &'static str,
}

/// Nothing, or why he may not.
type Answer = Option<String>;

impl Access {
    /// Asks with this client.
    pub(super) fn new(client: Client) -> Self {
        Self { api: Api::all(client), answers: Mutex::default() }
    }

    /// Nothing if the user may read these values, else a sentence that says that he may not.
    pub(super) async fn review(&self, user: &User, values: &Values) -> Result<Answer, kube::Error> {
        let metric = values.metric.name();
        let question =
            Question { user: user.clone(), namespace: values.namespace.clone(), pod: values.pod.clone(), metric };
        let now = Instant::now();
        if let Some((answer, until)) = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&question)
            && now < *until
        {
            return Ok(answer.clone());
        }
        let review = self.api.create(&PostParams::default(), &question.review()).await?;
        let is_allowed = review.status.as_ref().is_some_and(|status| status.allowed);
        let answer = (!is_allowed).then(|| {
            let why = review.status.and_then(|status| status.reason).filter(|why| !why.is_empty());
            let what = format!("pods/{metric} of {GROUP} in namespace {}", question.namespace);
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            format!("user '{}' may not get {what}{why}", question.user.name)
        });
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (_, until)| now < *until);
        }
        if answers.len() < MOST {
            answers.insert(question, (answer.clone(), now + KEPT));
        }
        Ok(answer)
    }
}

impl Question {
    fn review(&self) -> SubjectAccessReview {
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user.name.clone()),
                groups: Some(self.user.groups.clone()),
                extra: Some(self.user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    version: Some(VERSION.to_owned()),
                    namespace: Some(self.namespace.clone()),
                    resource: Some("pods".to_owned()),
                    subresource: Some(self.metric.to_owned()),
                    name: Some(self.pod.clone().unwrap_or_else(|| "*".to_owned())),
                    verb: Some("get".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}
