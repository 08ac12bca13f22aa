//! With real shared memory of this machine.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering},
    task::Waker,
    time::Instant,
};

use rustix::{
    fs::{Mode, ftruncate},
    io::{pread, pwrite},
    shm::{self, OFlags},
};
use server_core::{
    error::Code,
    request::VersionChoice,
    response::ResponseParameters,
    tensor::{Shape, strings},
};
use tokio::task::yield_now;

use super::*;

/// A region `r` of a client.
struct Client {
    key: String,
    file: OwnedFd,
}

impl Client {
    fn new(shared_memory: &SharedMemory, len: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let key = format!("/server_engine_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let file =
            shm::open(key.as_str(), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, Mode::RUSR | Mode::WUSR).unwrap();
        ftruncate(&file, len).unwrap();
        shared_memory.register_system("r", &key, 0, len).unwrap();
        Self { key, file }
    }

    fn write(&self, bytes: &[u8]) {
        assert_eq!(pwrite(&self.file, bytes, 0), Ok(bytes.len()));
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(pread(&self.file, &mut bytes[..], offset), Ok(len));
        bytes
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        shm::unlink(self.key.as_str()).unwrap();
    }
}

fn allowed(budget: usize) -> SharedMemory {
    let byte_budget = Arc::new(ByteBudget::new(budget));
    SharedMemory::new(SharedMemoryOptions { is_allowed: true, byte_budget, ..SharedMemoryOptions::default() })
}

fn part(offset: u64, byte_size: u64) -> RegionPart<'static> {
    RegionPart { region: "r", offset, byte_size }
}

fn tensor(name: &str, data: Buffer) -> Tensor {
    let shape = Shape::from_slice(&[data.len() as i64]);
    Tensor { name: name.into(), data_type: DataType::Uint8, shape, data }
}

/// A request with that input, and its output `OUT` in the window.
fn request(input: Buffer, window: Option<OutputWindow>) -> InferRequest {
    InferRequest {
        model_name: "m".into(),
        model_version: VersionChoice::Latest,
        id: String::new(),
        inputs: [tensor("IN", input)].into_iter().collect(),
        outputs: [RequestedOutput { window, ..RequestedOutput::values("OUT") }].into_iter().collect(),
        parameters: Vec::new(),
        sequence: None,
        priority: 0,
        timeout: None,
        received_at: Instant::now(),
        callers: None,
        trace: None,
    }
}

fn response(output: Buffer) -> InferResponse {
    InferResponse {
        model_name: "m".into(),
        model_version: 1,
        id: String::new(),
        parameters: ResponseParameters::default(),
        outputs: [tensor("OUT", output)].into_iter().collect(),
    }
}

fn deliver(shared_memory: &SharedMemory, request: &InferRequest, output: Buffer) -> Result<InferResponse> {
    let mut delivery = shared_memory.delivery_of(request).expect("it has to do with a region");
    match delivery.begin(response(output), &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(delivered) => delivered,
        Poll::Pending => panic!("a small response is brought at once"),
    }
}

#[test]
fn clients_may_not_register_memory_unless_they_are_allowed_to() {
    let off = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.";
    let disabled = SharedMemory::default();
    assert_eq!(disabled.register_system("", "", 0, 0), Err(Error::unsupported(off)));
    assert_eq!(disabled.register_cuda("c", &[], 0, 0), Err(Error::unsupported(off)));
    assert_eq!(disabled.unregister(MemoryKind::System, ""), Err(Error::unsupported(off)));
    assert_eq!(disabled.status(MemoryKind::System, ""), Ok(vec![]));
    assert_eq!(disabled.input(&part(0, 1), None).unwrap_err().code, Code::NotFound);
    let unnamed = |kind| format!("'region name' is necessary to register {kind} shared memory region");
    assert_eq!(allowed(0).register_system("", "/k", 0, 1), Err(Error::invalid_argument(unnamed("system"))));
    assert_eq!(allowed(0).register_cuda("", &[], 0, 1), Err(Error::invalid_argument(unnamed("cuda"))));
    let long = allowed(0).register_system(&"n".repeat(MAX_NAME + 1), "/k", 0, 1).unwrap_err();
    assert!(long.message.contains("has 4097 bytes, 4096 are the maximum"), "{long}");
    assert_eq!(allowed(0).unregister(MemoryKind::Cuda, "unknown"), Ok(()));
}

#[test]
fn what_is_parsed_is_copied_within_the_budget_and_the_rest_stays_where_it_is() {
    let shared_memory = allowed(100);
    let client = Client::new(&shared_memory, 4096);
    let text = strings::join([b"ab".as_slice(), b"c"]);
    client.write(&text);
    let numbers = shared_memory.input(&part(0, 11), Some(DataType::Uint8)).unwrap();
    let texts = shared_memory.input(&part(0, 11), Some(DataType::Bytes)).unwrap();
    assert_eq!(shared_memory.options.byte_budget.in_use(), 11);
    client.write(&[0xff; 11]);
    assert_eq!((numbers.is_of_client(), numbers.as_host()), (true, Some([0xff; 11].as_slice())));
    assert_eq!((texts.is_of_client(), texts.as_host()), (false, Some(text.as_slice())));
    let error = shared_memory.input(&part(0, 90), Some(DataType::Bytes)).unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    shared_memory.input(&part(0, 4096), Some(DataType::Fp32)).unwrap();
    drop(texts);
    assert_eq!(shared_memory.options.byte_budget.in_use(), 0);
}

#[test]
fn requests_without_shared_memory_have_nothing_to_deliver() {
    assert!(allowed(0).delivery_of(&request(vec![1].into(), None)).is_none());
}

#[test]
fn an_output_goes_to_its_window_and_nothing_of_it_into_the_response() {
    let shared_memory = allowed(0);
    let client = Client::new(&shared_memory, 4096);
    client.write(&[9; 16]);
    let request = request(vec![1].into(), Some(shared_memory.output(&part(4, 8)).unwrap()));
    let delivered = deliver(&shared_memory, &request, vec![1, 2, 3].into()).unwrap();
    let output = &delivered.outputs[0];
    assert_eq!((output.data.len(), output.shape.as_slice()), (0, [3].as_slice()));
    assert_eq!(client.read(0, 10), [9, 9, 9, 9, 1, 2, 3, 9, 9, 9]);
    // several responses, one after the other
    deliver(&shared_memory, &request, vec![7; 8].into()).unwrap();
    deliver(&shared_memory, &request, Buffer::default()).unwrap();
    assert_eq!(client.read(3, 10), [9, 7, 7, 7, 7, 7, 7, 7, 7, 9]);
    let text = "shared memory size specified with the request for output 'OUT' (8 bytes) should be at least 9 bytes to hold the \
                results";
    assert_eq!(deliver(&shared_memory, &request, vec![1; 9].into()).unwrap_err(), Error::internal(text));
    assert_eq!(client.read(3, 10), [9, 7, 7, 7, 7, 7, 7, 7, 7, 9], "written over");
}

#[test]
fn an_input_may_be_answered_where_it_lies_and_is_copied_into_a_response() {
    let shared_memory = allowed(0);
    let client = Client::new(&shared_memory, 4096);
    client.write(b"abcdef");
    let input = shared_memory.input(&part(0, 6), Some(DataType::Uint8)).unwrap();
    let inline = request(input.clone(), None);
    let delivered = deliver(&shared_memory, &inline, input.clone()).unwrap();
    client.write(b"A");
    assert!(!delivered.outputs[0].data.is_of_client());
    assert_eq!(delivered.outputs[0].data.as_host(), Some(b"abcdef".as_slice()));
    // over itself, and beside itself
    for (offset, expect) in [(0, b"Abcdef\0\0"), (2, b"AbAbcdef")] {
        let beside = request(input.clone(), Some(shared_memory.output(&part(offset, 6)).unwrap()));
        deliver(&shared_memory, &beside, input.clone()).unwrap();
        assert_eq!(client.read(0, 8), expect);
    }
}

#[test]
fn a_request_whose_input_is_gone_ends_with_an_error() {
    let shared_memory = allowed(0);
    let client = Client::new(&shared_memory, 2 * 4096);
    let input = shared_memory.input(&part(4096, 8), Some(DataType::Uint8)).unwrap();
    let request = request(input.clone(), None);
    ftruncate(&client.file, 4096).unwrap();
    let computed = input.as_host().unwrap().iter().sum::<u8>(); // by the model
    let error = deliver(&shared_memory, &request, vec![computed].into()).unwrap_err();
    assert!(error.message.starts_with("shared memory region 'r' is shorter than it was"), "{error}");
}

#[tokio::test]
async fn much_is_copied_on_the_blocking_pool() {
    let shared_memory = allowed(0);
    let len = LONG_COPY + 1;
    let client = Client::new(&shared_memory, len as u64);
    let request = request(vec![1].into(), Some(shared_memory.output(&part(0, len as u64)).unwrap()));
    let mut delivery = shared_memory.delivery_of(&request).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    assert!(delivery.poll(&mut context).is_none());
    let mut poll = delivery.begin(response(vec![7; len].into()), &mut context);
    while poll.is_pending() {
        yield_now().await;
        poll = delivery.poll(&mut context).unwrap();
    }
    let Poll::Ready(Ok(delivered)) = poll else { panic!("it fits") };
    assert!(delivered.outputs[0].data.is_empty());
    assert_eq!(client.read(len as u64 - 1, 1), [7]);
    assert!(delivery.poll(&mut context).is_none());
}
