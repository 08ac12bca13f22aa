//! The external scaler of KEDA: tells KEDA over gRPC how loaded a server is, so that it needs no Prometheus for that. What a trigger
//! asks for, and which number answers it, is decided in `operator_core::load`. Where nothing is known the answer is an error and never
//! a number: KEDA then leaves the replicas as they are, or falls back to what its user has said.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use operator_core::load::{ServerLoad, Trigger};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::{Request, Response, Status};

use self::proto::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
    external_scaler_server::{self, ExternalScalerServer},
};
use crate::{listen, queue::ServerKey, scrape::Loads};

#[allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod proto {
    tonic::include_proto!("externalscaler");
}

/// Connections at the same time.
const CONNECTIONS: usize = 256;
/// Calls at the same time on one connection: KEDA uses one for all of its ScaledObjects, with a stream for each.
const CALLS: u32 = 4096;
/// Streams at the same time.
const STREAMS: usize = 4096;
/// Longest message that is read.
const LONGEST_MESSAGE: usize = 64 << 10;
/// How long a server counts as active after its last work.
const ACTIVE: Duration = Duration::from_secs(60);
/// How often it is looked whether a server has become active, for those who wait for it.
const LOOK: Duration = Duration::from_secs(1);
/// How often the kernel's other side is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the operator knows of servers.
pub(crate) trait Servers: Send + Sync + 'static {
    /// Whether there is a server of that name.
    fn exists(&self, key: &ServerKey) -> bool;
    /// Whether requests for it wait until it has replicas.
    fn is_wanted(&self, key: &ServerKey) -> bool;
}

/// The service.
#[derive(Clone)]
pub(crate) struct Scaler {
    loads: Loads,
    servers: Arc<dyn Servers>,
    streams: Arc<Semaphore>,
}

impl Scaler {
    /// Answers from these loads.
    pub(crate) fn new(loads: Loads, servers: Arc<dyn Servers>) -> Self {
        Self { loads, servers, streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Answers for as long as it is polled.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let service = ExternalScalerServer::new(self).max_decoding_message_size(LONGEST_MESSAGE);
        listen::accept(listener, CONNECTIONS, |socket| serve_one(socket, service.clone())).await;
    }

    /// The load of the server that a trigger is about, which is asked for from now on.
    #[allow(clippy::result_large_err, reason = "tonic's own type of error")]
    fn load(&self, key: &ServerKey) -> Result<ServerLoad, Status> {
        if !self.servers.exists(key) {
            let message = format!("there is no TritonServer '{key}' that this operator serves");
            return Err(Status::unavailable(message));
        }
        self.loads.want(key);
        self.loads.of(key).ok_or_else(|| unknown(key, "its replicas have not been asked yet"))
    }

    #[allow(clippy::result_large_err, reason = "tonic's own type of error")]
    fn is_active(&self, key: &ServerKey) -> Result<bool, Status> {
        if self.servers.exists(key) && self.servers.is_wanted(key) {
            return Ok(true); // be there replicas or none
        }
        let load = self.load(key)?;
        if load.pods.is_empty() && !load.silent.is_empty() {
            return Err(unknown(key, &of_silent(&load)));
        }
        let is_at_work = load.idle_since.is_none_or(|since| self.loads.now().saturating_sub(since) < ACTIVE);
        let has_replicas = !load.pods.is_empty() || load.unready > 0;
        Ok(has_replicas && (is_at_work || load.pods.is_empty()))
    }
}

async fn serve_one(socket: TcpStream, service: ExternalScalerServer<Scaler>) {
    // a caller that goes away is none of our business
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(CALLS)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
        .await;
}

/// What a trigger asks for, and of which server.
#[allow(clippy::result_large_err, reason = "tonic's own type of error")]
fn trigger(object: &ScaledObjectRef) -> Result<(ServerKey, Trigger), Status> {
    let metadata: &BTreeMap<String, String> = &object.scaler_metadata;
    let read = Trigger::read(&object.name, metadata.iter().map(|(key, value)| (&**key, &**value)));
    let trigger = read.map_err(|error| Status::invalid_argument(error.to_string()))?;
    let key = ServerKey { namespace: object.namespace.clone(), name: trigger.server.clone() };
    Ok((key, trigger))
}

fn unknown(key: &ServerKey, why: &str) -> Status {
    Status::unavailable(format!("the load of TritonServer '{key}' is not known: {why}"))
}

/// Why nothing is known, in the words of the first replica.
fn of_silent(load: &ServerLoad) -> String {
    match load.silent.first_key_value() {
        Some((pod, why)) => format!("pod {pod}: {why}"),
        None if load.unready > 0 => "no replica is ready".to_owned(),
        None => "no replica has such a model".to_owned(),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl external_scaler_server::ExternalScaler for Scaler {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Answer<IsActiveResponse> {
        let (key, _) = trigger(request.get_ref())?;
        Ok(Response::new(IsActiveResponse { result: self.is_active(&key)? }))
    }

    /// Says at once whether the server is active, and again whenever that changes. While nothing is known, nothing is said.
    async fn stream_is_active(&self, request: Request<ScaledObjectRef>) -> Answer<Self::StreamIsActiveStream> {
        let (key, _) = trigger(request.get_ref())?;
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS} streams are open, which is the most: close some"))
        })?;
        let state = Following { scaler: self.clone(), key, told: None, _permit: permit };
        Ok(Response::new(Box::pin(stream::unfold(state, Following::next))))
    }

    async fn get_metric_spec(&self, request: Request<ScaledObjectRef>) -> Answer<GetMetricSpecResponse> {
        let (_, trigger) = trigger(request.get_ref())?;
        let spec = MetricSpec {
            metric_name: trigger.metric.name().to_owned(),
            target_size: whole(trigger.target).max(1),
            target_size_float: trigger.target,
        };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Answer<GetMetricsResponse> {
        let request = request.into_inner();
        let object = request.scaled_object_ref.unwrap_or_default();
        let (key, trigger) = trigger(&object)?;
        let name = trigger.metric.name();
        if request.metric_name != name {
            let asked: String = request.metric_name.chars().take(100).collect();
            return Err(Status::invalid_argument(format!(
                "the trigger measures '{name}', and '{asked}' was asked for"
            )));
        }
        let load = self.load(&key)?;
        let value = trigger.answer(&load).ok_or_else(|| unknown(&key, &of_silent(&load)))?;
        let value =
            MetricValue { metric_name: name.to_owned(), metric_value: whole(value.ceil()), metric_value_float: value };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

/// Somebody who wants to know when a server becomes active and when it stops being so.
struct Following {
    scaler: Scaler,
    key: ServerKey,
    told: Option<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Following {
    async fn next(mut self) -> Option<(Result<IsActiveResponse, Status>, Self)> {
        loop {
            if let Ok(now) = self.scaler.is_active(&self.key)
                && self.told != Some(now)
            {
                self.told = Some(now);
                return Some((Ok(IsActiveResponse { result: now }), self));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "`as` saturates, and NaN becomes 0")]
fn whole(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests;
