//! Before files come: short questions to servers, asked again when the answer fails to come for now, and room for what will come.

use std::{sync::Arc, time::Duration};

use reqwest::StatusCode;

use super::{client::HttpError, progress::Progress};
use crate::{fault::Fault, files::blocking};

/// Pauses before a question is asked again.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// The first answer that `question` gets, or why it gets none however often it is asked.
pub(super) async fn patiently<T, F: Future<Output = Result<T, HttpError>>>(
    progress: &Arc<Progress>,
    mut question: impl FnMut() -> F,
) -> Result<T, Fault> {
    let mut pauses = PAUSES.into_iter();
    loop {
        progress.check()?;
        let error = match question().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Some(pause) = pauses.next().filter(|_| error.is_for_now) else { return Err(error.fault) };
        tracing::warn!(error = %error.fault.message, ?pause, "no answer for now");
        tokio::time::sleep(pause).await;
    }
}

/// Tells how much a fetch will be in all, which may count and delete files. Errors: it is over a limit, or the disk has no room.
pub(super) async fn expect(progress: &Arc<Progress>, total: u64) -> Result<(), Fault> {
    let progress = Arc::clone(progress);
    blocking(move || progress.expect(total)).await
}

/// Whether a status that is no success may be another one soon.
pub(super) fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}
