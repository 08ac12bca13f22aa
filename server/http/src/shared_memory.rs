//! The shared memory extension: status, register, unregister, of system and of CUDA memory.

use http::Response;
use serde::Serialize;
use server_core::error::{Error, Result};
use server_engine::{MemoryKind, RegionStatus};

use crate::{
    body::{Body, RequestBody},
    connection::Activity,
    json::value::{Value, text},
    limits::BodyLimit,
    reply::{empty, json},
    repository::decode_base64,
    router::{Memory, MemoryAction},
    server::Server,
    to_json::to_json,
};

/// Bytes of a `cudaIpcMemHandle_t`.
const HANDLE_LENGTH: usize = 64;

/// Answers every shared memory route. `region` is empty where the path names none.
///
/// Errors: `Unsupported`, clients may not register memory; what is wrong with the region, in Triton's words.
pub(crate) async fn answer(
    server: &Server,
    activity: &Activity,
    memory: Memory,
    region: &str,
    action: MemoryAction,
    body: &mut RequestBody,
) -> Result<Response<Body>> {
    let shared_memory = server.engine.shared_memory();
    let kind = match memory {
        Memory::System => MemoryKind::System,
        Memory::Cuda => MemoryKind::Cuda,
    };
    match action {
        MemoryAction::Status => return Ok(json(status(kind, shared_memory.status(kind, region)?)?)),
        MemoryAction::Unregister => shared_memory.unregister(kind, region)?,
        MemoryAction::Register => {
            shared_memory.check_name(kind, region)?;
            let limit = BodyLimit::Json(server.options.max_input_size);
            let body = body.read(limit, &server.options.byte_budget, activity, None).await?;
            match kind {
                MemoryKind::System => {
                    let SystemRegion { key, offset, byte_size } = SystemRegion::read(&body.bytes)?;
                    shared_memory.register_system(region, &key, offset, byte_size)?;
                }
                MemoryKind::Cuda => {
                    let CudaRegion { handle, device_id, byte_size } = CudaRegion::read(&body.bytes)?;
                    shared_memory.check_gpu(region)?;
                    shared_memory.register_cuda(region, &decode_handle(&handle)?, device_id, byte_size)?;
                }
            }
        }
    }
    Ok(empty())
}

#[derive(Serialize)]
struct SystemLine {
    name: String,
    key: String,
    offset: u64,
    byte_size: u64,
}

#[derive(Serialize)]
struct CudaLine {
    name: String,
    device_id: u64,
    byte_size: u64,
}

fn status(kind: MemoryKind, regions: Vec<RegionStatus>) -> Result<Vec<u8>> {
    let regions = regions.into_iter();
    match kind {
        MemoryKind::System => {
            let line = |RegionStatus { name, key, offset, byte_size, .. }| SystemLine { name, key, offset, byte_size };
            to_json(&regions.map(line).collect::<Vec<_>>())
        }
        MemoryKind::Cuda => {
            let line = |RegionStatus { name, device_id, byte_size, .. }| CudaLine { name, device_id, byte_size };
            to_json(&regions.map(line).collect::<Vec<_>>())
        }
    }
}

/// The body of a request to register system memory.
#[derive(Debug, PartialEq, Eq)]
struct SystemRegion {
    key: String,
    offset: u64,
    byte_size: u64,
}

impl SystemRegion {
    fn read(body: &[u8]) -> Result<Self> {
        let body = Value::parse(body)?;
        let key = string(required(&body, "key")?)?;
        let offset = body.member("offset").map_or(Ok(0), unsigned)?;
        let byte_size = unsigned(required(&body, "byte_size")?)?;
        Ok(Self { key, offset, byte_size })
    }
}

/// The body of a request to register CUDA memory.
#[derive(Debug, PartialEq, Eq)]
struct CudaRegion {
    /// In base64.
    handle: String,
    device_id: u64,
    byte_size: u64,
}

impl CudaRegion {
    fn read(body: &[u8]) -> Result<Self> {
        let body = Value::parse(body)?;
        let handle = string(member(required(&body, "raw_handle")?, "b64")?)?;
        let byte_size = unsigned(member(&body, "byte_size")?)?;
        let device_id = unsigned(member(&body, "device_id")?)?;
        Ok(Self { handle, device_id, byte_size })
    }
}

fn decode_handle(text: &str) -> Result<Vec<u8>> {
    let handle = decode_base64(text.as_bytes()).ok().filter(|handle| handle.len() == HANDLE_LENGTH);
    handle.ok_or_else(|| Error::invalid_argument("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"))
}

/// A member without which nothing is said at all.
fn required<'a, 'b>(body: &'b Value<'a>, name: &str) -> Result<&'b Value<'a>> {
    body.member(name)
        .ok_or_else(|| Error::invalid_argument(format!("Shared memory register request has no '{name}' field")))
}

fn member<'a, 'b>(body: &'b Value<'a>, name: &str) -> Result<&'b Value<'a>> {
    body.member(name).ok_or_else(|| Error::internal(format!("attempt to access non-existing object member '{name}'")))
}

fn string(value: &Value<'_>) -> Result<String> {
    value.as_bytes().map(text).ok_or_else(|| Error::internal("attempt to access JSON non-string as string"))
}

fn unsigned(value: &Value<'_>) -> Result<u64> {
    value.as_u64().ok_or_else(|| Error::internal("attempt to access JSON non-unsigned-integer as unsigned-integer"))
}

#[cfg(test)]
mod tests {
    use server_core::error::Code;

    use super::*;

    #[test]
    fn what_registers_system_memory_is_read() {
        let region = |offset| SystemRegion { key: "/k".into(), offset, byte_size: 10 };
        assert_eq!(SystemRegion::read(br#"{"key":"/k","byte_size":10}"#), Ok(region(0)));
        assert_eq!(SystemRegion::read(br#"{"byte_size":10,"offset":7,"key":"/k","more":[1]}"#), Ok(region(7)));
        let (missing, number) = ("Shared memory register request has no", "non-unsigned-integer as unsigned-integer");
        for (body, code, text) in [
            ("", Code::Internal, "failed to parse the request JSON buffer: The document is empty. at 0"),
            ("{\"key\":\"/k\",", Code::Internal, "failed to parse the request JSON buffer"),
            ("{}", Code::InvalidArgument, &*format!("{missing} 'key' field")),
            ("[]", Code::InvalidArgument, &*format!("{missing} 'key' field")),
            ("null", Code::InvalidArgument, &*format!("{missing} 'key' field")),
            ("{\"key\":\"/k\"}", Code::InvalidArgument, &*format!("{missing} 'byte_size' field")),
            ("{\"key\":1,\"byte_size\":1}", Code::Internal, "attempt to access JSON non-string as string"),
            ("{\"key\":\"/k\",\"byte_size\":-1}", Code::Internal, number),
            ("{\"key\":\"/k\",\"byte_size\":1.5}", Code::Internal, number),
            ("{\"key\":\"/k\",\"byte_size\":\"1\"}", Code::Internal, number),
            ("{\"key\":\"/k\",\"byte_size\":18446744073709551616}", Code::Internal, number),
            ("{\"key\":\"/k\",\"byte_size\":1,\"offset\":-1}", Code::Internal, number),
        ] {
            let error = SystemRegion::read(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{body}: {error}");
            assert!(error.message.contains(text), "{body}: {error}");
        }
    }

    #[test]
    fn what_registers_cuda_memory_is_read() {
        let body = br#"{"raw_handle":{"b64":"AA=="},"device_id":1,"byte_size":10}"#;
        let expected = CudaRegion { handle: "AA==".into(), device_id: 1, byte_size: 10 };
        assert_eq!(CudaRegion::read(body), Ok(expected));
        let whole = "AA".repeat(42) + "AA==";
        assert_eq!(decode_handle(&whole), Ok(vec![0; HANDLE_LENGTH]));
        let bad = "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t";
        for text in ["", "!!", "AAAA", &*format!("{whole}AAAA"), "\0"] {
            assert_eq!(decode_handle(text), Err(Error::invalid_argument(bad)), "{text}");
        }
        let absent = |name| format!("attempt to access non-existing object member '{name}'");
        for (body, text) in [
            ("{\"raw_handle\":{},\"device_id\":0,\"byte_size\":1}", absent("b64")),
            ("{\"raw_handle\":\"x\",\"device_id\":0,\"byte_size\":1}", absent("b64")),
            ("{\"raw_handle\":{\"b64\":\"\"}}", absent("byte_size")),
            ("{\"raw_handle\":{\"b64\":\"\"},\"byte_size\":1}", absent("device_id")),
            ("{\"raw_handle\":{\"b64\":\"\"},\"device_id\":0}", absent("byte_size")),
        ] {
            assert_eq!(CudaRegion::read(body.as_bytes()), Err(Error::internal(text)), "{body}");
        }
        let text = "Shared memory register request has no 'raw_handle' field";
        assert_eq!(CudaRegion::read(b"{\"device_id\":0}"), Err(Error::invalid_argument(text)));
        let negative = b"{\"raw_handle\":{\"b64\":\"\"},\"device_id\":-1,\"byte_size\":1}";
        assert_eq!(CudaRegion::read(negative).unwrap_err().code, Code::Internal);
    }

    #[test]
    fn a_status_has_the_members_of_its_kind() {
        let region = RegionStatus { name: "r".into(), key: "/k".into(), offset: 7, device_id: 1, byte_size: 10 };
        let text = |kind| String::from_utf8(status(kind, vec![region.clone()]).unwrap()).unwrap();
        assert_eq!(text(MemoryKind::System), r#"[{"name":"r","key":"/k","offset":7,"byte_size":10}]"#);
        assert_eq!(text(MemoryKind::Cuda), r#"[{"name":"r","device_id":1,"byte_size":10}]"#);
    }
}
