//! Health, metadata, configurations, statistics, the repository, and what this server does not offer.

use std::collections::BTreeMap;

use server_proto::{
    health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
    inference::{
        CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusRequest, CudaSharedMemoryUnregisterRequest,
        LogSettingsRequest, ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelRepositoryParameter,
        ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
        ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest, SystemSharedMemoryRegisterRequest,
        SystemSharedMemoryStatusRequest, SystemSharedMemoryUnregisterRequest, TraceSettingRequest,
        model_repository_parameter::ParameterChoice,
    },
};
use tonic::{Code, Response, Status, transport::Endpoint};

use crate::harness::{Client, Server, ask, floats, values};

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<Response<T>, Status>, code: Code, message: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, message));
}

fn load(name: &str, parameters: &[(&str, ParameterChoice)]) -> RepositoryModelLoadRequest {
    RepositoryModelLoadRequest {
        model_name: name.into(),
        parameters: repository_parameters(parameters),
        ..Default::default()
    }
}

fn repository_parameters(parameters: &[(&str, ParameterChoice)]) -> BTreeMap<String, ModelRepositoryParameter> {
    let named = |(key, choice): &(&str, ParameterChoice)| {
        ((*key).to_owned(), ModelRepositoryParameter { parameter_choice: Some(choice.clone()) })
    };
    parameters.iter().map(named).collect()
}

async fn is_ready(client: &mut Client, name: &str) -> Result<bool, String> {
    let request = ModelReadyRequest { name: name.into(), ..Default::default() };
    client
        .model_ready(request)
        .await
        .map(|answer| answer.into_inner().ready)
        .map_err(|status| status.message().to_owned())
}

/// `name version state reason`
async fn line(client: &mut Client, name: &str) -> String {
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    let lines = index.models.into_iter().filter(|model| model.name == name);
    lines
        .map(|model| format!("{} {} {} {}", model.name, model.version, model.state, model.reason))
        .collect::<Vec<_>>()
        .join("; ")
}

#[tokio::test]
async fn health_is_answered_by_both_services() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut health =
        HealthClient::new(Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect_lazy());
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    for service in ["", "inference.GRPCInferenceService", "anything"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    assert_eq!(is_ready(&mut client, "rows").await, Ok(true));
    for name in ["unknown", "asleep", "broken", ""] {
        assert_eq!(is_ready(&mut client, name).await, Ok(false), "{name}");
    }
    let request = |version: &str| ModelReadyRequest { name: "rows".into(), version: version.into() };
    assert!(client.model_ready(request("3")).await.unwrap().into_inner().ready);
    assert!(!client.model_ready(request("2")).await.unwrap().into_inner().ready);
    let text = "failed to get model version from specified version string 'x' (details: stol), version should be an integral value > 0";
    refused(client.model_ready(request("x")).await, Code::InvalidArgument, text);

    server.engine.close_admission();
    assert!(!client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert_eq!(is_ready(&mut client, "rows").await, Ok(false));
    let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_model_that_is_unloaded_is_not_ready() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.repository_model_load(load("asleep", &[])).await.unwrap();
    assert_eq!(is_ready(&mut client, "asleep").await, Ok(true));
    let unload = RepositoryModelUnloadRequest { model_name: "asleep".into(), ..Default::default() };
    client.repository_model_unload(unload).await.unwrap();
    assert_eq!(is_ready(&mut client, "asleep").await, Ok(false));
}

#[tokio::test]
async fn server_metadata_lists_name_and_extensions() {
    let server = Server::start().await;
    let metadata = server.client().await.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "triton");
    assert!(!metadata.version.is_empty());
    let expected = "classification,sequence,model_repository,model_repository(unload_dependents),schedule_policy,model_configuration,system_shared_memory,cuda_shared_memory,binary_tensor_data,parameters,statistics,trace,logging";
    assert_eq!(metadata.extensions.join(","), expected);
}

#[tokio::test]
async fn model_metadata_and_configuration_are_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request = |version: &str| ModelMetadataRequest { name: "rows".into(), version: version.into() };
    let metadata = client.model_metadata(request("")).await.unwrap().into_inner();
    assert_eq!((&*metadata.name, &*metadata.versions.join(","), &*metadata.platform), ("rows", "1,3", "identity"));
    let [input] = &metadata.inputs[..] else { panic!("one input") };
    assert_eq!((&*input.name, &*input.datatype, &input.shape[..]), ("INPUT0", "FP32", &[-1, 2][..]));
    assert_eq!(metadata.outputs[0].name, "OUTPUT0");
    assert_eq!(client.model_metadata(request("1")).await.unwrap().into_inner().versions, ["1"]);
    let unknown = "Request for unknown model: 'rows' version 2 is not found";
    refused(client.model_metadata(request("2")).await, Code::NotFound, unknown);

    let request = ModelConfigRequest { name: "rows".into(), version: String::new() };
    let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((&*config.name, &*config.backend, config.max_batch_size), ("rows", "identity", 4));
    assert_eq!(config.input[0].dims, [2]);
    let request = ModelConfigRequest { name: "unknown".into(), version: String::new() };
    let unknown = "Request for unknown model: 'unknown' is not found";
    refused(client.model_config(request).await, Code::NotFound, unknown);
}

#[tokio::test]
async fn statistics_count_what_was_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for rows in [1i64, 3] {
        let message = ask("rows", "FP32", &[rows, 2], floats(&vec![0.0; 2 * rows as usize]));
        client.model_infer(message).await.unwrap();
    }
    let request = |name: &str, version: &str| ModelStatisticsRequest { name: name.into(), version: version.into() };
    let [one] =
        client.model_statistics(request("rows", "3")).await.unwrap().into_inner().model_stats.try_into().unwrap();
    assert_eq!((&*one.name, &*one.version, one.inference_count, one.execution_count), ("rows", "3", 4, 2));
    assert_eq!(one.inference_stats.unwrap().success.unwrap().count, 2);
    let sizes: Vec<_> = one.batch_stats.iter().map(|batch| batch.batch_size).collect();
    assert_eq!(sizes, [1, 3]);
    assert_eq!(client.model_statistics(request("rows", "")).await.unwrap().into_inner().model_stats.len(), 2);
    assert!(client.model_statistics(request("", "")).await.unwrap().into_inner().model_stats.len() > 14);
    let unknown = "requested model 'unknown' is not available";
    refused(client.model_statistics(request("unknown", "")).await, Code::InvalidArgument, unknown);
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_on_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(line(&mut client, "asleep").await, "asleep   ");
    client.repository_model_load(load("asleep", &[])).await.unwrap();
    assert_eq!(line(&mut client, "asleep").await, "asleep 1 READY ");
    client.model_infer(values("asleep", "", &[1.0])).await.unwrap();

    let config = r#"{"name": "asleep", "backend": "identity", "max_batch_size": 2,
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]}"#;
    let parameters = [("config", ParameterChoice::StringParam(config.into()))];
    client.repository_model_load(load("asleep", &parameters)).await.unwrap();
    client.model_infer(ask("asleep", "FP32", &[2, 1], floats(&[1.0, 2.0]))).await.unwrap();

    let ready = RepositoryIndexRequest { ready: true, ..Default::default() };
    let models = client.repository_index(ready).await.unwrap().into_inner().models;
    assert!(models.iter().all(|model| model.state == "READY"));
    assert!(models.iter().any(|model| model.name == "asleep"));

    let unload = RepositoryModelUnloadRequest {
        model_name: "asleep".into(),
        parameters: repository_parameters(&[("unload_dependents", ParameterChoice::BoolParam(true))]),
        ..Default::default()
    };
    client.repository_model_unload(unload).await.unwrap();
    assert!(client.model_infer(values("asleep", "", &[1.0])).await.is_err());
}

#[tokio::test]
async fn repository_requests_that_are_wrong_are_refused_in_tritons_words() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let named = "'repository_name' specification is not supported";
    let index = RepositoryIndexRequest { repository_name: "r".into(), ..Default::default() };
    refused(client.repository_index(index).await, Code::Unimplemented, named);
    let request = RepositoryModelLoadRequest { repository_name: "r".into(), ..load("rows", &[]) };
    refused(client.repository_model_load(request).await, Code::Unimplemented, named);
    let unload = RepositoryModelUnloadRequest { repository_name: "r".into(), ..Default::default() };
    refused(client.repository_model_unload(unload).await, Code::Unimplemented, named);

    let invalid = Code::InvalidArgument;
    let request = load("rows", &[("config", ParameterChoice::BoolParam(true))]);
    let expected = "invalid value type for load parameter 'config', expected string_param.";
    refused(client.repository_model_load(request).await, invalid, expected);
    let request = load("rows", &[("speed", ParameterChoice::Int64Param(1))]);
    refused(client.repository_model_load(request).await, invalid, "unrecognized load parameter 'speed'.");
    let unload = RepositoryModelUnloadRequest {
        model_name: "rows".into(),
        parameters: repository_parameters(&[("unload_dependents", ParameterChoice::Int64Param(1))]),
        ..Default::default()
    };
    let expected = "invalid value type for 'unload_dependents' parameter, expected bool_param.";
    refused(client.repository_model_unload(unload).await, invalid, expected);
    let expected = "failed to load 'unknown', failed to poll from model repository";
    refused(client.repository_model_load(load("unknown", &[])).await, Code::Internal, expected);
    let status = client.repository_model_load(load("broken", &[])).await.unwrap_err();
    assert!(!status.message().is_empty(), "{status:?}");
    assert_eq!(is_ready(&mut client, "rows").await, Ok(true));
}

#[tokio::test]
async fn shared_memory_requests_say_that_it_is_disabled_and_how_to_enable_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let off = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.";
    let request = SystemSharedMemoryRegisterRequest { name: "r".into(), key: "/r".into(), offset: 0, byte_size: 64 };
    refused(client.system_shared_memory_register(request).await, Code::Unimplemented, off);
    let request = SystemSharedMemoryUnregisterRequest::default();
    refused(client.system_shared_memory_unregister(request).await, Code::Unimplemented, off);
    let request = CudaSharedMemoryRegisterRequest { name: "r".into(), ..Default::default() };
    refused(client.cuda_shared_memory_register(request).await, Code::Unimplemented, off);
    let request = CudaSharedMemoryUnregisterRequest::default();
    refused(client.cuda_shared_memory_unregister(request).await, Code::Unimplemented, off);

    let status = client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await.unwrap();
    assert!(status.into_inner().regions.is_empty());
    let status = client.cuda_shared_memory_status(CudaSharedMemoryStatusRequest::default()).await.unwrap();
    assert!(status.into_inner().regions.is_empty());
    let request = SystemSharedMemoryStatusRequest { name: "r".into() };
    let unknown = "Unable to find system shared memory region: 'r'";
    refused(client.system_shared_memory_status(request).await, Code::NotFound, unknown);
    let request = CudaSharedMemoryStatusRequest { name: "r".into() };
    let unknown = "Unable to find cuda shared memory region: 'r'";
    refused(client.cuda_shared_memory_status(request).await, Code::NotFound, unknown);
}

#[tokio::test]
async fn trace_and_log_settings_are_shown() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let settings = client.trace_setting(TraceSettingRequest::default()).await.unwrap().into_inner().settings;
    let names: Vec<_> = settings.keys().map(String::as_str).collect();
    assert_eq!(names, ["log_frequency", "trace_count", "trace_level", "trace_rate"]);
    let unknown = TraceSettingRequest { model_name: "nothing".into(), ..Default::default() };
    let status = client.trace_setting(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let settings = client.log_settings(LogSettingsRequest::default()).await.unwrap().into_inner().settings;
    let names: Vec<_> = settings.keys().map(String::as_str).collect();
    let expect = ["log_error", "log_file", "log_format", "log_info", "log_verbose_level", "log_warning"];
    assert_eq!(names, expect);
}
