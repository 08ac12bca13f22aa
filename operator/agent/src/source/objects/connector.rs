//! What the clients of object stores send their requests with: the HTTP client of all sources, so that the rule for addresses holds
//! for endpoints, for redirects (which are not followed) and for the services that give out credentials.

use std::sync::{Arc, Mutex, PoisonError};

use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
};

use crate::{
    fault::{Fault, Reason},
    source::{AddressRule, Limits, client},
};

/// Sends the requests of one fetch.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    client: client::HttpClient,
    /// The first address that was refused: the store's client tells of it in its own words only.
    refused: Arc<Mutex<Option<Fault>>>,
}

/// A request that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotSent(String);

impl Guarded {
    /// `certificates`: PEM of those that the endpoint is known by besides those of the machine.
    pub(super) fn new(rule: &Arc<AddressRule>, limits: &Limits, certificates: Option<&[u8]>) -> Result<Self, Fault> {
        let client = client::HttpClient::trusting(rule, limits, certificates)?;
        Ok(Self { client, refused: Arc::default() })
    }

    /// Why the fetch failed, if an address was refused.
    pub(super) fn refusal(&self) -> Option<Fault> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, fault: &Fault) {
        if fault.reason == Reason::AddressRefused {
            self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
        }
    }
}

impl HttpConnector for Guarded {
    /// The options say what this client does anyway: time limits and certificates.
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Guarded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Err(error) = self.client.permit_uri(request.uri()).await {
            self.keep(&error.fault);
            return Err(HttpError::new(HttpErrorKind::Unknown, NotSent(error.fault.message)));
        }
        let sent = HttpService::call(self.client.inner(), request).await;
        if let Err(error) = &sent
            && let Some(fault) = client::refusal(error)
        {
            self.keep(&fault);
        }
        sent
    }
}
