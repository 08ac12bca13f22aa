//! What a listener serves: the inference protocol or the metrics page.

use std::{future::Future, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use server_engine::{AccessLog, Leaving};

use crate::{body::Body, connection::Activity};

/// Answers the requests of all connections of one listener.
pub(crate) trait Application: Send + Sync + 'static {
    /// Answers one request. It cannot fail: an error is a response, too.
    fn answer(&self, activity: &Activity, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;

    /// Whether it asks how the headers of a request were written: [`Activity::written`].
    fn records_heads(&self) -> bool {
        false
    }

    /// Where its requests are logged, if they are.
    fn access_log(&self) -> Option<&Arc<AccessLog>> {
        None
    }

    /// Whether connections should be closed after their next response.
    fn leaves(&self) -> Leaving;
}
