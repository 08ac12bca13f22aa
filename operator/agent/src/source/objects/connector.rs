//! What the clients of object stores send their requests with: the HTTP client of all sources, so that the rule for addresses holds
//! for endpoints, for redirects (which are not followed) and for the services that give out credentials.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};

use crate::{
    fault::{Fault, Reason},
    source::{AddressRule, client, progress::Limits},
};

/// Most bytes of all answers of one fetch that are read whole: listings, credentials, what is said of an error. A thousand objects
/// take some 300 kB.
const LARGEST_ANSWERS: usize = 16 << 20;

/// Sends the requests of one fetch.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    client: client::HttpClient,
    /// The first that was refused, an address or an answer: the store's client tells of it in its own words only.
    refused: Arc<Mutex<Option<Fault>>>,
    /// Bytes of answers that are read whole.
    read: Arc<AtomicUsize>,
}

/// An answer that is read whole, held to the limit of all of them.
struct Bounded {
    body: HttpResponseBody,
    of: Guarded,
}

/// A request that was not sent, or an answer that was not read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotSent(String);

impl Guarded {
    /// `certificates`: PEM of those that the endpoint is known by besides those of the machine.
    pub(super) fn new(rule: &Arc<AddressRule>, limits: &Limits, certificates: Option<&[u8]>) -> Result<Self, Fault> {
        let client = client::HttpClient::trusting(rule, limits, certificates)?;
        Ok(Self { client, refused: Arc::default(), read: Arc::default() })
    }

    /// Why the fetch failed, if an address or an answer was refused.
    pub(super) fn refusal(&self) -> Option<Fault> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an address may be asked, before anything else is.
    pub(super) async fn permit(&self, address: &str) -> Result<(), Fault> {
        let Ok(uri) = address.parse() else { return Ok(()) }; // the store's client says what is wrong with it
        self.client.permit_uri(&uri).await.map_err(|error| error.fault)
    }

    fn keep(&self, fault: &Fault) {
        if fault.reason == Reason::AddressRefused {
            self.keep_first(fault);
        }
    }

    fn keep_first(&self, fault: &Fault) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
    }
}

/// Whether an answer is an object, which is written to disk as it comes.
fn is_object(method: &http::Method, query: &str, response: &HttpResponse) -> bool {
    let is_listing = query.split('&').any(|pair| pair.starts_with("list-type=") || pair == "comp=list");
    *method == http::Method::GET && !is_listing && response.status().is_success()
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let length = frame.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        if self.of.read.fetch_add(length, Ordering::Relaxed) + length > LARGEST_ANSWERS {
            let message = format!(
                "the store answered with more than {LARGEST_ANSWERS} bytes that are no object: it lists too much"
            );
            self.of.keep_first(&Fault::new(Reason::InvalidSource, message.clone()));
            return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, NotSent(message)))));
        }
        Poll::Ready(frame)
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
        let (method, query) = (request.method().clone(), request.uri().query().unwrap_or_default().to_owned());
        match HttpService::call(self.client.inner(), request).await {
            Ok(response) if is_object(&method, &query, &response) => Ok(response),
            Ok(response) => Ok(response.map(|body| HttpResponseBody::new(Bounded { body, of: self.clone() }))),
            Err(error) => {
                if let Some(fault) = client::refusal(&error) {
                    self.keep(&fault);
                }
                Err(error)
            }
        }
    }
}
