//! Waiting for a state that the caller does not know: a request that names the present one (`If-None-Match`) and is willing to wait
//! (`Prefer: wait=SECONDS`) is answered when it changes, or with 304 once the time is over.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    header::{HeaderName, IF_NONE_MATCH},
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::Published;

/// The header of RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The longest wait that is granted.
const LONGEST: Duration = Duration::from_secs(60);
/// Callers that may wait at the same time: there are few operators.
const AT_ONCE: usize = 16;

/// Places for those who wait.
#[derive(Debug, Clone)]
pub(super) struct Waits(Arc<Semaphore>);

impl Default for Waits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Waits {
    /// The answer to a request, at once or when there is something new to say.
    pub(super) async fn answer<B>(
        &self,
        request: &Request<B>,
        mut published: watch::Receiver<Published>,
    ) -> Response<Full<Bytes>> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let mut response = super::answer(method, path, headers, &published.borrow_and_update());
        let wait = preferred(headers);
        if wait.is_zero() || response.status() != StatusCode::NOT_MODIFIED {
            return response;
        }
        // a preference need not be met
        let Ok(_place) = self.0.try_acquire() else { return response };
        let deadline = Instant::now() + wait;
        while response.status() == StatusCode::NOT_MODIFIED {
            match tokio::time::timeout_at(deadline, published.changed()).await {
                Ok(Ok(())) => {
                    response = super::answer(method, path, headers, &published.borrow_and_update());
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        response
    }
}

/// How long the caller is willing to wait, at most [`LONGEST`]; what cannot be read is no preference.
fn preferred(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let mut waits = preferences.flat_map(|value| value.split([',', ';'])).filter_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u32>().ok()).flatten()
    });
    Duration::from_secs(waits.next().unwrap_or(0).into()).min(LONGEST)
}

/// Whether the caller knows the state with that tag. The comparison is the weak one, as RFC 9110 asks for.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let known = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    known.flat_map(|value| value.split(',')).any(|known| known.trim() == "*" || plain(known) == plain(tag))
}

#[cfg(test)]
mod tests {
    use hyper::{Method, header::ETAG};
    use triton_agent::State;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn state(hash: &str) -> Published {
        let state = State { manifest_hash: hash.into(), ..State::default() };
        Published { state: Ok(state), missing: Ok(vec![]) }
    }

    fn asking(published: &watch::Sender<Published>, wait: &str) -> Request<()> {
        let known = super::super::answer(&Method::GET, "/state", &HeaderMap::new(), &published.borrow());
        let tag = known.headers()[ETAG].to_str().unwrap().to_owned();
        Request::get("/state").header(IF_NONE_MATCH, tag).header(PREFER, wait).body(()).unwrap()
    }

    #[test]
    fn a_preference_is_read_as_far_as_it_can_be() {
        let seconds = |value: &str| preferred(&headers(&[(PREFER, value)])).as_secs();
        assert_eq!(seconds("wait=30"), 30);
        assert_eq!(seconds("respond-async, Wait = \"10\""), 10);
        assert_eq!(seconds("wait=4000000000"), LONGEST.as_secs());
        for junk in ["wait", "wait=", "wait=-1", "wait=1e9", "wait=99999999999999999999", "await=5", "=", ""] {
            assert_eq!(seconds(junk), 0, "{junk}");
        }
        assert_eq!(preferred(&HeaderMap::new()), Duration::ZERO);
    }

    #[test]
    fn a_tag_is_known_whether_weak_or_strong_and_among_others() {
        let is_known = |value: &str| is_known(&headers(&[(IF_NONE_MATCH, value)]), "W/\"ab\"");
        assert!(is_known("W/\"ab\"") && is_known("\"ab\"") && is_known("\"x\" , W/\"ab\"") && is_known("*"));
        assert!(!is_known("\"a\"") && !is_known("") && !is_known("ab"));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_knows_the_state_waits_for_the_next_one() {
        let (sender, receiver) = watch::channel(state("a"));
        let waits = Waits::default();
        let request = asking(&sender, "wait=30");
        let began = Instant::now();
        assert_eq!(waits.answer(&request, receiver.clone()).await.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(began.elapsed().as_secs(), 30);

        let change = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            sender.send_replace(state("a")); // nothing new
            tokio::time::sleep(Duration::from_secs(5)).await;
            sender.send_replace(state("b"));
        };
        let began = Instant::now();
        let (response, ()) = tokio::join!(waits.answer(&request, receiver.clone()), change);
        assert_eq!((response.status(), began.elapsed().as_secs()), (StatusCode::OK, 10));
        // what it does not know yet comes at once
        let began = Instant::now();
        assert_eq!(waits.answer(&request, receiver).await.status(), StatusCode::OK);
        assert!(began.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_to_wait_is_answered_at_once() {
        let (sender, receiver) = watch::channel(state("a"));
        let waits = Waits::default();
        let request = asking(&sender, "wait=30");
        let places: Vec<_> = std::iter::from_fn(|| waits.0.try_acquire().ok()).collect();
        assert_eq!(places.len(), AT_ONCE);
        let began = Instant::now();
        assert_eq!(waits.answer(&request, receiver.clone()).await.status(), StatusCode::NOT_MODIFIED);
        assert!(began.elapsed().is_zero());
        drop(places);
        sender.send_replace(Published { state: Err("gone".into()), missing: Ok(vec![]) });
        assert_eq!(waits.answer(&request, receiver).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
