//! Follows one pod: its agent is asked for a state that differs from the one known, and answers when there is one; where no agent
//! answers, the server is asked now and then: for its index, or, where it wants a certificate for that, for its metrics page. Ends with
//! its task.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Method, Request, StatusCode, Uri,
    header::{HOST, HeaderName, HeaderValue, IF_NONE_MATCH},
};
use operator_core::pod::STATE_PATH;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    connection::{Connection, End, Failure, Limits, Received},
    memory::{Answer, Heard, Memory, Said},
    report,
};
use crate::metrics::Metrics;

/// The header of RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Longest answer that is read. The manifest a pod follows is no longer.
const LONGEST_ANSWER: usize = 1 << 20;
/// Longest metrics page that is read: that of a server with a thousand models is shorter.
pub(crate) const LONGEST_PAGE: usize = 2 << 20;
/// How long an agent may wait for something new to say.
const WAIT: Duration = Duration::from_secs(10);
/// How long a question may take that is answered from memory.
const QUESTION: Duration = Duration::from_secs(2);
/// Between an answer and the next question: an agent that has much to say is heard twice a second.
const AFTER_NEWS: Duration = Duration::from_millis(500);
/// The same for an agent of an older version, which does not wait, and for a server without an agent.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);
/// Between questions to a pod that does not answer.
const AFTER_SILENCE: Duration = Duration::from_secs(1);
/// Between questions to a pod whose answers are not read.
const AFTER_JUNK: Duration = Duration::from_secs(10);

/// The models a server may be asked about; what pods say of others is not kept.
pub(super) type Names = Arc<Mutex<Arc<BTreeSet<String>>>>;

/// What may be done at the same time.
#[derive(Debug)]
pub(super) struct Permits {
    pub(super) connects: Semaphore,
    pub(super) long_reports: Semaphore,
}

/// What is followed, and with which means.
pub(super) struct Follower {
    /// Of its agent, if it has one.
    pub(super) agent: Option<SocketAddr>,
    pub(super) server: End,
    /// Of its metrics page.
    pub(super) page: End,
    /// Where that is, in words.
    pub(super) place: String,
    pub(super) names: Names,
    pub(super) permits: Arc<Permits>,
    /// For long reports of this server.
    pub(super) long_reports: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// The agent, as far as the conversation with it has come.
#[derive(Debug, Default)]
struct Agent {
    connection: Option<Connection>,
    /// Names the state that is known.
    tag: Option<HeaderValue>,
}

/// Why a server says nothing of its models.
#[derive(Debug)]
enum Unheard {
    /// What it said must not be read, for that reason.
    Unread(String),
    /// Nothing comes from there, not even from its kernel.
    Unreachable,
    /// It gives no answer, or refuses one.
    Silent,
}

impl Follower {
    /// Follows the pod for as long as it is polled; `publish` is handed what is known after each answer.
    pub(super) async fn run(self, publish: impl Fn(Heard)) {
        let (mut agent, mut memory) = (Agent::default(), Memory::default());
        loop {
            let (answer, pause) = self.look(&mut agent).await;
            publish(memory.note(answer, Instant::now()));
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks once. Returns what came of it, and how long to wait before the next time.
    async fn look(&self, agent: &mut Agent) -> (Answer, Duration) {
        let Some(address) = self.agent else {
            let (answer, _) = self.ask_server(Answer::default(), Said::ByServer).await;
            return (answer, BETWEEN_LOOKS);
        };
        let received = match self.ask_agent(address, agent).await {
            Ok(received) => received,
            Err(Failure::Unreachable) => {
                self.metrics.polled("unreachable");
                let why = format!("nothing comes from {}", self.place);
                return (Answer { unreachable: Some(why), ..Answer::default() }, AFTER_SILENCE);
            }
            Err(Failure::TooLong) => {
                self.metrics.polled("too_large");
                let why = format!("its agent's report has more than {LONGEST_ANSWER} bytes and is not read");
                return self.instead_of_junk(why).await;
            }
            Err(Failure::Silent) => {
                self.metrics.polled("agent_silent");
                return self.ask_server(Answer::default(), Said::InsteadOfAgent).await;
            }
        };
        match received.status {
            StatusCode::NOT_MODIFIED => {
                self.metrics.polled("unchanged");
                (Answer { said: Said::Unchanged, ..Answer::default() }, AFTER_NEWS)
            }
            StatusCode::OK => match report::of_state(&received.body, &self.names()) {
                Ok(report) => {
                    self.metrics.polled("state");
                    let pause = if received.tag.is_some() { AFTER_NEWS } else { BETWEEN_LOOKS };
                    agent.tag = received.tag;
                    (Answer { said: Said::ByAgent(Arc::new(report)), ..Answer::default() }, pause)
                }
                Err(error) => {
                    self.metrics.polled("unreadable");
                    self.instead_of_junk(format!("its agent's report cannot be read: {error}")).await
                }
            },
            // it has read no manifest yet, or is none of ours
            _ => {
                self.metrics.polled("agent_silent");
                self.ask_server(Answer::default(), Said::InsteadOfAgent).await
            }
        }
    }

    async fn instead_of_junk(&self, why: String) -> (Answer, Duration) {
        let unread = Answer { unread: Some(why), ..Answer::default() };
        (self.ask_server(unread, Said::ByServer).await.0, AFTER_JUNK)
    }

    /// What the agent has to say; over the connection there is, or over a new one if that has ended meanwhile.
    async fn ask_agent(&self, address: SocketAddr, agent: &mut Agent) -> Result<Received, Failure> {
        let tag = agent.tag.take();
        if let Some(mut connection) = agent.connection.take() {
            let limits = state_within(if tag.is_some() { WAIT + QUESTION } else { QUESTION });
            match self.exchange(&mut connection, state_after(address, tag.as_ref()), limits).await {
                Ok(received) => {
                    (agent.connection, agent.tag) = (Some(connection), tag);
                    return Ok(received);
                }
                Err(Failure::Silent) => {}
                Err(failure) => return Err(failure),
            }
        }
        // without a tag: an agent that was started anew may have anything to say
        let mut connection = self.open(End::plain(address)).await?;
        let received = self.exchange(&mut connection, state_after(address, None), state_within(QUESTION)).await?;
        agent.connection = Some(connection);
        Ok(received)
    }

    /// What the server has to say, as `said`; `answer` is what is known besides.
    async fn ask_server(&self, answer: Answer, said: fn(Arc<report::Report>) -> Said) -> (Answer, Duration) {
        let mut heard = self.ask_for_index().await;
        if self.server.speaks_tls && matches!(heard, Err(Unheard::Silent | Unheard::Unreachable)) {
            heard = self.ask_for_page().await;
        }
        let answer = match heard {
            Ok(report) => Answer { said: said(Arc::new(report)), ..answer },
            Err(Unheard::Unread(why)) => Answer { unread: answer.unread.or(Some(why)), ..Answer::default() },
            Err(Unheard::Unreachable) if self.agent.is_none() => {
                let why = format!("nothing comes from {}", self.place);
                Answer { unreachable: Some(why), ..answer }
            }
            // something has come from the agent's port just now: a NetworkPolicy may close the others to the operator
            Err(Unheard::Unreachable | Unheard::Silent) => {
                self.metrics.polled("silent");
                answer
            }
        };
        (answer, AFTER_SILENCE)
    }

    async fn ask_for_index(&self) -> Result<report::Report, Unheard> {
        let index = self.ask_once(self.server, Method::POST, "/v2/repository/index", LONGEST_ANSWER).await?;
        let report = report::of_index(&index, &self.names(), self.agent.is_some())
            .map_err(|error| Unheard::Unread(format!("its server's index cannot be read: {error}")))?;
        self.metrics.polled("index");
        Ok(report)
    }

    /// The operator has no certificate to show; whoever asks for metrics needs none.
    async fn ask_for_page(&self) -> Result<report::Report, Unheard> {
        let page = self.ask_once(self.page, Method::GET, "/metrics", LONGEST_PAGE).await?;
        let report = report::of_page(&page, &self.names(), self.agent.is_some())
            .map_err(|error| Unheard::Unread(format!("its server's metrics cannot be read: {error}")))?;
        self.metrics.polled("page");
        Ok(report)
    }

    /// What is answered at a port of the server, over a connection of its own.
    async fn ask_once(&self, end: End, method: Method, path: &'static str, longest: usize) -> Result<Bytes, Unheard> {
        let asked = async {
            let mut connection = self.open(end).await?;
            let limits = Limits { begins_within: QUESTION, longest };
            self.exchange(&mut connection, request(method, end.address, path), limits).await
        };
        match asked.await {
            Ok(received) if received.status == StatusCode::OK => Ok(received.body),
            Err(Failure::TooLong) => {
                let why = format!("its server's answer to {path} has more than {longest} bytes and is not read");
                Err(Unheard::Unread(why))
            }
            Err(Failure::Unreachable) => Err(Unheard::Unreachable),
            Ok(_) | Err(Failure::Silent) => Err(Unheard::Silent),
        }
    }

    async fn open(&self, end: End) -> Result<Connection, Failure> {
        let _permit = self.permits.connects.acquire().await; // never closed
        Connection::open(end).await
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Empty<Bytes>>,
        limits: Limits,
    ) -> Result<Received, Failure> {
        connection.ask(request, limits, [&self.long_reports, &self.permits.long_reports]).await
    }

    fn names(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks an agent for a state other than the one with that tag, or for whichever it has.
fn state_after(address: SocketAddr, tag: Option<&HeaderValue>) -> Request<Empty<Bytes>> {
    let mut request = request(Method::GET, address, STATE_PATH);
    if let Some(tag) = tag {
        request.headers_mut().insert(IF_NONE_MATCH, tag.clone());
        if let Ok(wait) = HeaderValue::try_from(format!("wait={}", WAIT.as_secs())) {
            request.headers_mut().insert(PREFER, wait);
        }
    }
    request
}

/// What an agent's state may cost that is to begin within this time.
fn state_within(begins_within: Duration) -> Limits {
    Limits { begins_within, longest: LONGEST_ANSWER }
}

fn request(method: Method, address: SocketAddr, path: &'static str) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(path);
    if let Ok(host) = HeaderValue::try_from(address.to_string()) {
        request.headers_mut().insert(HOST, host);
    }
    request
}

#[cfg(test)]
mod tests;
