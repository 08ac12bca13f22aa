//! The HTTP client of all sources. Every wait has a limit, every address it connects to is one that the [`AddressRule`]
//! permits, also after a redirect, and what opens one server is never sent to another.

use std::{collections::BTreeSet, error::Error as _, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap},
    redirect,
};
use tokio::time::Instant;

use super::{
    guard::{AddressRule, Refused, Resolver},
    progress::Limits,
};
use crate::fault::{Fault, Reason};

/// Most bytes that are shown of where a redirect leads.
const TARGET_MAX: usize = 512;
/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// What opens a server: not sent to another one.
const SECRET: [header::HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];

/// Asks the servers of sources.
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: Client,
    resolver: Resolver,
    limits: Limits,
    /// Why it has no certificates to know servers by.
    without_certificates: Option<String>,
}

/// An answer whose body has yet to come.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    least: LeastRate,
    shown: String,
}

/// Holds a transfer to a least rate, over one span after the other.
#[derive(Debug, Clone)]
pub struct LeastRate {
    bytes_per_second: u64,
    span: Duration,
    began: Instant,
    bytes: u64,
}

/// A request that failed.
#[derive(Debug)]
pub struct HttpError {
    /// What went wrong.
    pub fault: Fault,
    /// Trying again at once may help.
    pub is_for_now: bool,
}

impl HttpClient {
    /// A client that keeps to the rule and the limits.
    ///
    /// Errors: none can be made on this machine.
    pub fn new(rule: &Arc<AddressRule>, limits: &Limits) -> Result<Self, Fault> {
        Self::trusting(rule, limits, None)
    }

    /// The same, which also knows servers by these certificates (PEM).
    pub(super) fn trusting(
        rule: &Arc<AddressRule>,
        limits: &Limits,
        certificates: Option<&[u8]>,
    ) -> Result<Self, Fault> {
        let unusable = |error: reqwest::Error| {
            Fault::new(
                Reason::CredentialsMissing,
                format!("ca.crt of the Secret holds no certificates: {}", chain(&error)),
            )
        };
        let certificates = certificates.map(reqwest::Certificate::from_pem_bundle).transpose().map_err(unusable)?;
        let certificates = certificates.unwrap_or_default();
        let resolver = Resolver { rule: Arc::clone(rule), exempt: Arc::new(proxies(|name| std::env::var(name).ok())) };
        let builder = || {
            Client::builder()
                .user_agent(concat!("triton-agent/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none()) // followed here, where each address is looked at
                .dns_resolver(Arc::new(resolver.clone()))
                .tls_certs_merge(certificates.clone())
                .connect_timeout(limits.connect)
                .read_timeout(limits.silence)
        };
        let (made, without_certificates) = match builder().build() {
            // a machine without certificates can still reach what needs none
            Err(error) => (builder().tls_certs_only(certificates.clone()).build(), Some(chain(&error))),
            made => (made, None),
        };
        let inner = made.map_err(|error| {
            Fault::new(Reason::DownloadFailed, format!("no HTTP client can be made: {}", chain(&error)))
        })?;
        Ok(Self { inner, resolver, limits: *limits, without_certificates })
    }

    /// Asks for `url` and follows redirects; headers that are secret go to its own server only.
    ///
    /// Errors: the address is none, or is refused; nobody answers in time. An answer is no error, whatever its status.
    pub async fn get(&self, url: &str, headers: &HeaderMap) -> Result<Answer, HttpError> {
        self.request(&Method::GET, url, headers, REDIRECTS).await
    }

    /// The same with a method that has no body, following up to `redirects` redirects; the answer beyond them is returned as it is
    /// where none are to be followed.
    pub async fn request(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        redirects: usize,
    ) -> Result<Answer, HttpError> {
        let first = shown(url);
        let mut url = parse(url)?;
        let mut headers = headers.clone();
        let mut left = redirects;
        loop {
            let response = self.one(method, &url, &headers).await;
            let response =
                response.map_err(|error| if left < redirects { error.after_redirect(&first) } else { error })?;
            let Some(next) = next(&url, &response)?.filter(|_| redirects > 0) else {
                let least = LeastRate::new(&self.limits, Instant::now());
                return Ok(Answer { response, least, shown: shown(url.as_str()) });
            };
            if left == 0 {
                let text =
                    format!("{first}: more than {redirects} redirects, the last one to {}", shown(next.as_str()));
                return Err(HttpError::for_good(Reason::DownloadFailed, text));
            }
            left -= 1;
            if next.origin() != url.origin() {
                for name in &SECRET {
                    headers.remove(name);
                }
            }
            url = next;
        }
    }

    /// Sends a body; redirects are not followed.
    ///
    /// Errors: as those of [`Self::get`].
    pub async fn post(&self, url: &str, headers: &HeaderMap, body: String) -> Result<Answer, HttpError> {
        let url = parse(url)?;
        let shown = shown(url.as_str());
        self.may_ask(&url, &shown).await?;
        let request = self.inner.post(url).headers(headers.clone()).body(body);
        let response = request.send().await.map_err(|error| HttpError::of(&shown, &error))?;
        Ok(Answer { response, least: LeastRate::new(&self.limits, Instant::now()), shown })
    }

    /// Sends one request, redirects not followed.
    async fn one(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Result<Response, HttpError> {
        let shown = shown(url.as_str());
        self.may_ask(url, &shown).await?;
        let request = self.inner.request(method.clone(), url.clone()).headers(headers.clone());
        request.send().await.map_err(|error| HttpError::of(&shown, &error))
    }

    async fn may_ask(&self, url: &Url, shown: &str) -> Result<(), HttpError> {
        self.permit(url).await?;
        match (&self.without_certificates, url.scheme()) {
            (Some(why), "https") => {
                let text = format!("{shown}: this machine has no certificates to know servers by: {why}");
                Err(HttpError::for_good(Reason::DownloadFailed, text))
            }
            _ => Ok(()),
        }
    }

    /// The client itself, for those that send requests of their own: [`Self::permit_uri`] comes before each.
    pub(super) fn inner(&self) -> &Client {
        &self.inner
    }

    /// Whether a request to this address may be sent.
    pub(super) async fn permit_uri(&self, uri: &http::Uri) -> Result<(), HttpError> {
        self.permit(&parse(&uri.to_string())?).await
    }

    /// Judges what no resolver is asked for: addresses written out, and names that a proxy will look up.
    async fn permit(&self, url: &Url) -> Result<(), HttpError> {
        let host = url.host_str().unwrap_or_default();
        let refused = |refused: &Refused| HttpError::refused(&shown(url.as_str()), refused);
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.resolver.rule.check(host, address).map_err(|error| refused(&error));
        }
        if self.resolver.exempt.is_empty() {
            return Ok(());
        }
        // the proxy may know names that this machine does not
        match tokio::time::timeout(self.limits.connect, self.resolver.look_up(host)).await {
            Ok(Err(error)) => error.downcast_ref::<Refused>().map_or(Ok(()), |error| Err(refused(error))),
            _ => Ok(()),
        }
    }
}

impl Answer {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where it came from, redirects followed; without what may be secret in it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// Errors: the connection broke, fell silent, or was slower than the least rate.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, HttpError> {
        let deadline = self.least.deadline(Instant::now());
        match tokio::time::timeout_at(deadline, self.response.chunk()).await {
            Ok(Ok(Some(piece))) => {
                self.least.count(piece.len() as u64, Instant::now()).map_err(|what| self.too_slow(&what))?;
                Ok(Some(piece))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(HttpError::of(&self.shown, &error)),
            Err(_) => {
                let what = self.least.count(0, Instant::now()).err().unwrap_or_else(|| "it is too slow".to_owned());
                Err(self.too_slow(&what))
            }
        }
    }

    /// The whole body, as long as it has at most `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, HttpError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if all.len() + piece.len() > limit {
                let text = format!("{} answered more than {limit} bytes", self.shown);
                return Err(HttpError::for_good(Reason::DownloadFailed, text));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Goes on with the count of an earlier attempt at the same: a source that breaks off again and again gets no further than
    /// one that is slow.
    pub fn count_from(&mut self, least: LeastRate) {
        self.least = least;
    }

    /// How the transfer stands to its least rate.
    pub fn least(&self) -> LeastRate {
        self.least.clone()
    }

    fn too_slow(&self, what: &str) -> HttpError {
        HttpError { fault: Fault::new(Reason::DownloadFailed, format!("{}: {what}", self.shown)), is_for_now: false }
    }
}

impl LeastRate {
    /// Begins at `now`.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        let (bytes_per_second, span) = (limits.least_rate, limits.least_rate_over);
        Self { bytes_per_second, span, began: now, bytes: 0 }
    }

    /// When the span under way ends.
    pub fn deadline(&self, now: Instant) -> Instant {
        (self.began + self.span).max(now)
    }

    /// That many more bytes came. Errors: a span is over and brought too few; a sentence.
    pub fn count(&mut self, bytes: u64, now: Instant) -> Result<(), String> {
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < self.span {
            return Ok(());
        }
        let least = u128::from(self.bytes_per_second) * elapsed.as_millis() / 1000;
        if u128::from(self.bytes) < least {
            let (bytes, seconds, rate) = (self.bytes, elapsed.as_secs(), self.bytes_per_second);
            return Err(format!("{bytes} bytes in {seconds} s are less than the least rate of {rate} bytes a second"));
        }
        (self.began, self.bytes) = (now, 0);
        Ok(())
    }
}

impl HttpError {
    pub(super) fn for_good(reason: Reason, text: String) -> Self {
        Self { fault: Fault::new(reason, text), is_for_now: false }
    }

    /// The same, met where a redirect of `first` has led.
    fn after_redirect(mut self, first: &str) -> Self {
        self.fault.message = format!("{first} redirects to {}", self.fault.message);
        self
    }

    fn refused(shown: &str, refused: &Refused) -> Self {
        Self::for_good(Reason::AddressRefused, format!("{shown}: {refused}"))
    }

    fn of(shown: &str, error: &reqwest::Error) -> Self {
        if let Some(refused) = refused_inside(error) {
            return Self::refused(shown, refused);
        }
        // who did not answer within the limit will not within another one
        let is_for_now = !error.is_builder() && !error.is_timeout();
        Self { fault: Fault::new(Reason::DownloadFailed, format!("{shown}: {}", chain(error))), is_for_now }
    }
}

/// The fault of an error that a refused address is at the bottom of.
pub(super) fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<Fault> {
    refused_inside(error).map(|refused| Fault::new(Reason::AddressRefused, refused.to_string()))
}

fn refused_inside<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refused> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refused) = error.downcast_ref() {
            return Some(refused);
        }
        next = error.source();
    }
    None
}

fn parse(url: &str) -> Result<Url, HttpError> {
    let parsed = Url::parse(url).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|url| match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) if !host.is_empty() => Ok(url),
        _ => Err("it does not begin with http:// or https:// and a host".to_owned()),
    });
    parsed.map_err(|what| HttpError::for_good(Reason::InvalidSource, format!("{} is no address: {what}", shown(url))))
}

/// Where a redirect leads; `None` if it is none.
fn next(url: &Url, response: &Response) -> Result<Option<Url>, HttpError> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = response.headers().get(header::LOCATION).filter(|_| is_redirect) else { return Ok(None) };
    let shown = shown(url.as_str());
    next_of(url, location.as_bytes())
        .map(Some)
        .map_err(|what| HttpError::for_good(Reason::DownloadFailed, format!("{shown}: {what}")))
}

/// Where `location` leads from `url`, or why nobody goes there.
fn next_of(url: &Url, location: &[u8]) -> Result<Url, String> {
    let text = String::from_utf8_lossy(location);
    let next = std::str::from_utf8(location).ok().and_then(|location| url.join(location).ok());
    let target = next.as_ref().map_or_else(|| self::shown(&text), |next| self::shown(next.as_str()));
    let target = &target[..target.floor_char_boundary(TARGET_MAX)];
    match next.filter(|next| matches!(next.scheme(), "http" | "https") && next.has_host()) {
        None => Err(format!("redirected to '{target}', which does not begin with http:// or https:// and a host")),
        Some(next) if url.scheme() == "https" && next.scheme() != "https" => Err(format!(
            "redirected from https to '{target}', which is not encrypted: name an address that stays with https, or that one itself"
        )),
        Some(next) => Ok(next),
    }
}

/// Names of the proxies that the process' environment sets up.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let names = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let hosts = names.into_iter().filter_map(variable).filter_map(|proxy| {
        let url = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
        Some(Url::parse(&url).ok()?.host_str()?.to_ascii_lowercase())
    });
    hosts.collect()
}

/// The address without what may be secret in it.
pub fn shown(uri: &str) -> String {
    let uri = uri.split(['?', '#']).next().unwrap_or(uri);
    match uri.split_once("://").map(|(scheme, rest)| (scheme, rest, rest.split('/').next().and_then(|a| a.rfind('@'))))
    {
        Some((scheme, rest, Some(at))) => format!("{scheme}://{}", &rest[at + 1..]),
        _ => uri.to_owned(),
    }
}

/// An error with what lies under it, without the address (it may hold secrets) and without saying a thing twice.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    if error.is_timeout() && !parts.iter().any(|part| part.contains("timed out")) {
        parts.insert(0, "timed out".to_owned());
    }
    if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_secrets() {
        assert_eq!(shown("https://me:pw@host/m.onnx?sig=x"), "https://host/m.onnx");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
    }

    #[test]
    fn a_redirect_that_is_not_followed_is_told_with_where_it_leads_and_without_secrets() {
        let from = Url::parse("https://hub.test/m/1?sig=x").unwrap();
        let target = |location: &str| next_of(&from, location.as_bytes()).map(String::from);
        assert_eq!(target("../2?sig=y"), Ok("https://hub.test/2?sig=y".into()));
        let told = target("http://me:pw@plain.test/m?token=t").unwrap_err();
        assert!(told.contains("'http://plain.test/m'") && !told.contains("pw") && !told.contains("token"), "{told}");
        let told = target("ftp://me:pw@files.test/m?token=t").unwrap_err();
        assert!(told.contains("'ftp://files.test/m'") && !told.contains("pw") && !told.contains("token"), "{told}");
        let told = target("https://:/?token=t").unwrap_err();
        assert!(told.contains("redirected to 'https://:/'") && !told.contains("token"), "{told}");
        assert!(next_of(&from, b"\xff").unwrap_err().len() < 200);
        assert!(target(&format!("ftp://h/{}", "x".repeat(9000))).unwrap_err().len() < 1000);
    }

    #[test]
    fn proxies_are_known_by_their_names() {
        let variables = |name: &str| match name {
            "https_proxy" => Some("http://me:pw@Proxy.test:3128".to_owned()),
            "ALL_PROXY" => Some("other.test:1".to_owned()),
            "http_proxy" => Some("://".to_owned()),
            _ => None,
        };
        assert_eq!(proxies(variables), BTreeSet::from(["proxy.test".into(), "other.test".into()]));
    }

    #[test]
    fn a_rate_is_judged_once_a_span_is_over() {
        let limits = Limits { least_rate: 1024, least_rate_over: Duration::from_secs(60), ..Limits::default() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut slow = LeastRate::new(&limits, start);
        assert_eq!(slow.count(1, at(59)), Ok(()));
        assert!(slow.count(1, at(60)).unwrap_err().contains("2 bytes in 60 s are less"));
        let mut steady = LeastRate::new(&limits, start);
        for minute in 1..100 {
            assert_eq!(steady.count(60 * 1024, at(60 * minute)), Ok(()), "{minute}");
        }
        assert_eq!(steady.deadline(at(0)), at(60 * 100));
        assert!(steady.count(61 * 1024, at(60 * 99 + 62)).is_err(), "what came before does not count any more");
    }
}
