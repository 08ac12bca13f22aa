//! Control calls where they are taken at a socket of their own: refused, each with the cure, and nothing else is.

use std::collections::BTreeMap;

use server_core::{
    control::{ControlCall, PrivateControl},
    restriction::{ApiGroup, Restriction},
};
use server_grpc::Options;
use server_proto::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusRequest, CudaSharedMemoryUnregisterRequest,
    LogSettingsRequest, ModelReadyRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest, TraceSettingRequest, log_settings_request, trace_setting_request,
};
use tonic::{Code, Request, Response, Status};

use crate::harness::{Client, Server};

fn private() -> PrivateControl {
    PrivateControl { socket: "/run/control.sock".into() }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<Response<T>, Status>, call: ControlCall) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, &*private().refusal(call)));
}

async fn is_ready(client: &mut Client, name: &str) -> bool {
    let request = ModelReadyRequest { name: name.into(), ..Default::default() };
    client.model_ready(request).await.unwrap().into_inner().ready
}

fn trace_settings(model_name: &str) -> TraceSettingRequest {
    let value = trace_setting_request::SettingValue { value: vec!["TIMESTAMPS".into()] };
    TraceSettingRequest { settings: BTreeMap::from([("trace_level".into(), value)]), model_name: model_name.into() }
}

fn log_settings() -> LogSettingsRequest {
    let value = log_settings_request::SettingValue {
        parameter_choice: Some(log_settings_request::setting_value::ParameterChoice::Uint32Param(1)),
    };
    LogSettingsRequest { settings: BTreeMap::from([("log_verbose_level".into(), value)]) }
}

#[tokio::test]
async fn every_control_call_is_refused_with_the_cure() {
    let server = Server::with(Options { private_control: Some(private()), ..Options::default() }).await;
    let mut client = server.client().await;
    for name in ["rows", "asleep", "none", ""] {
        let load = RepositoryModelLoadRequest { model_name: name.into(), ..Default::default() };
        refused(client.repository_model_load(load).await, ControlCall::Load);
        let unload = RepositoryModelUnloadRequest { model_name: name.into(), ..Default::default() };
        refused(client.repository_model_unload(unload).await, ControlCall::Unload);
        refused(client.trace_setting(trace_settings(name)).await, ControlCall::TraceSettings);
        let register = SystemSharedMemoryRegisterRequest { name: name.into(), ..Default::default() };
        refused(client.system_shared_memory_register(register).await, ControlCall::RegisterSharedMemory);
        let unregister = SystemSharedMemoryUnregisterRequest { name: name.into() };
        refused(client.system_shared_memory_unregister(unregister).await, ControlCall::UnregisterSharedMemory);
        let register = CudaSharedMemoryRegisterRequest { name: name.into(), ..Default::default() };
        refused(client.cuda_shared_memory_register(register).await, ControlCall::RegisterSharedMemory);
        let unregister = CudaSharedMemoryUnregisterRequest { name: name.into() };
        refused(client.cuda_shared_memory_unregister(unregister).await, ControlCall::UnregisterSharedMemory);
    }
    refused(client.log_settings(log_settings()).await, ControlCall::LogSettings);
    assert!(is_ready(&mut client, "rows").await && !is_ready(&mut client, "asleep").await);
}

#[tokio::test]
async fn what_only_asks_is_answered_as_before() {
    let server = Server::with(Options { private_control: Some(private()), ..Options::default() }).await;
    let mut client = server.client().await;
    assert!(client.repository_index(RepositoryIndexRequest::default()).await.is_ok());
    assert!(client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await.is_ok());
    assert!(client.cuda_shared_memory_status(CudaSharedMemoryStatusRequest::default()).await.is_ok());
    assert!(client.trace_setting(TraceSettingRequest::default()).await.is_ok());
    assert!(client.log_settings(LogSettingsRequest::default()).await.is_ok());
}

#[tokio::test]
async fn a_key_for_restricted_calls_opens_no_control_call() {
    let restriction =
        Restriction { groups: vec![ApiGroup::ModelRepository], header: "key".into(), value: "abc".into() };
    let options = Options { private_control: Some(private()), restrictions: vec![restriction], ..Options::default() };
    let server = Server::with(options).await;
    let mut client = server.client().await;
    for key in ["abc", "guess"] {
        let mut unload = Request::new(RepositoryModelUnloadRequest { model_name: "rows".into(), ..Default::default() });
        unload.metadata_mut().insert("triton-grpc-protocol-key", key.parse().unwrap());
        refused(client.repository_model_unload(unload).await, ControlCall::Unload);
    }
    let status = client.repository_index(RepositoryIndexRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn without_such_a_socket_the_ports_take_control_calls() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let load = RepositoryModelLoadRequest { model_name: "asleep".into(), ..Default::default() };
    client.repository_model_load(load).await.unwrap();
    assert!(is_ready(&mut client, "asleep").await);
    client.trace_setting(trace_settings("")).await.unwrap();
    client.log_settings(log_settings()).await.unwrap();
}
