//! A device plugin that offers GPUs which are not there: the scheduler, the kubelet and the container's environment take
//! them for real, so that whatever decides about GPUs is really decided.
//!
//! `pretend_gpus COUNT [FOLDER]`: runs beside a kubelet whose plug-in folder is FOLDER until it is ended. A file
//! `FOLDER/pretend-gpus.unhealthy` holds the numbers of GPUs that are out of order, one per line.

use std::{collections::HashMap, path::PathBuf, pin::Pin, time::Duration};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Endpoint};

/// The generated messages and services.
#[allow(missing_docs, clippy::all, unreachable_pub)]
mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

use v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
    ListAndWatchResponse, RegisterRequest,
    device_plugin_server::{DevicePlugin, DevicePluginServer},
    registration_client::RegistrationClient,
};

const SOCKET: &str = "pretend-gpus.sock";
const UNHEALTHY: &str = "pretend-gpus.unhealthy";
const RESOURCE: &str = "nvidia.com/gpu";

struct PretendGpus {
    count: usize,
    folder: PathBuf,
}

impl PretendGpus {
    fn devices(&self) -> Vec<Device> {
        let list = std::fs::read_to_string(self.folder.join(UNHEALTHY)).unwrap_or_default();
        let broken: Vec<usize> = list.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let device = |number: usize| Device {
            id: format!("GPU-{number}"),
            health: if broken.contains(&number) { "Unhealthy" } else { "Healthy" }.to_owned(),
        };
        (0..self.count).map(device).collect()
    }
}

#[tonic::async_trait]
impl DevicePlugin for PretendGpus {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let gpus = Self { count: self.count, folder: self.folder.clone() };
        let mut sent = Vec::new();
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_secs(1)));
        let changes = ticks.filter_map(move |_| {
            let devices = gpus.devices();
            (devices != sent).then(|| {
                sent.clone_from(&devices);
                Ok(ListAndWatchResponse { devices })
            })
        });
        Ok(Response::new(Box::pin(changes)))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let answer = |ids: Vec<String>| ContainerAllocateResponse {
            envs: HashMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), ids.join(","))]),
        };
        let container_responses = request
            .into_inner()
            .container_requests
            .into_iter()
            .map(|container| answer(container.devices_ids))
            .collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().context("usage: pretend_gpus COUNT [FOLDER]")?.parse().context("COUNT")?;
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "/var/lib/kubelet/device-plugins".into()));
    let socket = folder.join(SOCKET);
    if socket.exists() {
        std::fs::remove_file(&socket)?;
    }
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let plugin = DevicePluginServer::new(PretendGpus { count, folder: folder.clone() });
    let serving = tokio::spawn(
        tonic::transport::Server::builder().add_service(plugin).serve_with_incoming(UnixListenerStream::new(listener)),
    );
    register(folder.join("kubelet.sock")).await?;
    serving.await??;
    Ok(())
}

async fn register(kubelet: PathBuf) -> anyhow::Result<()> {
    let connector = tower::service_fn(move |_| {
        let kubelet = kubelet.clone();
        async move { UnixStream::connect(kubelet).await.map(TokioIo::new) }
    });
    // The address is never used: the connector knows the socket.
    let channel = Endpoint::from_static("http://kubelet").connect_with_connector(connector).await?;
    let request = RegisterRequest {
        version: "v1beta1".into(),
        endpoint: SOCKET.into(),
        resource_name: RESOURCE.into(),
        options: Some(DevicePluginOptions::default()),
    };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}
