//! With real shared memory of this machine.

use std::{
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::{
    fs::{Mode, ftruncate},
    io::{pread, pwrite},
    shm::{self, OFlags},
};
use server_core::{error::Code, request::OutputMemory};

use super::*;

/// A shared-memory object as a client makes it; its name goes when this is dropped.
struct Object {
    key: String,
    file: OwnedFd,
}

impl Object {
    fn new(len: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let key = format!("/server_shm_test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let file = shm::open(key.as_str(), flags, Mode::RUSR | Mode::WUSR).unwrap();
        ftruncate(&file, len).unwrap();
        Self { key, file }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        assert_eq!(pwrite(&self.file, bytes, offset), Ok(bytes.len()));
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(pread(&self.file, &mut bytes[..], offset), Ok(len));
        bytes
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = shm::unlink(self.key.as_str()); // a test may have done so
    }
}

fn registered(object: &Object, offset: u64, byte_size: u64) -> Regions {
    let regions = Regions::default();
    regions.register_system("r", &object.key, offset, byte_size).unwrap();
    regions
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, code: Code, text: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code, &*error.message), (code, text));
}

#[test]
fn bytes_are_read_where_they_lie_and_written_where_they_belong() {
    let object = Object::new(8192);
    object.write(4100, b"abcdef");
    let regions = registered(&object, 4099, 100); // from the middle of a page
    let buffer = regions.part("r", 1, 6).unwrap().in_place().unwrap();
    assert!(buffer.is_of_client());
    assert_eq!(buffer.as_host().unwrap(), b"abcdef");
    object.write(4100, b"A");
    assert_eq!(buffer.as_host().unwrap(), b"Abcdef", "copied");
    assert_eq!(Region::of(&buffer).unwrap().name(), "r");
    assert!(Region::of(&vec![1].into()).is_none());

    let part = regions.part("r", 90, 10).unwrap();
    assert_eq!(part.byte_size(), 10);
    part.write(b"xyz").unwrap();
    assert_eq!(object.read(4099 + 88, 8), b"\0\0xyz\0\0\0");
    part.write(b"").unwrap();
    assert!(part.write(&[0; 11]).is_err());
    // over what is read
    let source = regions.part("r", 1, 6).unwrap().in_place().unwrap();
    regions.part("r", 3, 6).unwrap().write(source.as_host().unwrap()).unwrap();
    assert_eq!(object.read(4100, 8), b"AbAbcdef");
}

#[test]
fn what_cannot_be_registered_is_refused_in_tritons_words() {
    let object = Object::new(4096);
    let regions = registered(&object, 0, 4096);
    let register = |name: &str, key: &str, offset, size| regions.register_system(name, key, offset, size);
    refused(register("r", "/nope", 0, 1), Code::AlreadyExists, "shared memory region 'r' already in manager");
    for key in ["/nope", "a/b", "/..", "..", "/../etc/passwd", "nul\0byte", &"k".repeat(300)] {
        refused(register("s", key, 0, 1), Code::Internal, &format!("Unable to open shared memory region: '{key}'"));
    }
    let invalid = "failed to register shared memory region 's': invalid args";
    for (offset, size) in [(0, 4097), (1, 4096), (4096, 1), (u64::MAX, 1), (1, u64::MAX)] {
        refused(register("s", &object.key, offset, size), Code::InvalidArgument, invalid);
    }
    register("s", &object.key, 4000, 96).unwrap(); // one object may be registered any number of times
    let handle = [0; 64];
    if !Regions::has_cuda() {
        let text = "failed to register CUDA shared memory region: 'c', GPUs not supported";
        refused(regions.register_cuda("c", &handle, 0, 1), Code::InvalidArgument, text);
    }
}

#[test]
fn nothing_but_memory_is_opened_and_no_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    std::fs::write(&outside, [7; 4096]).unwrap();
    let object = Object::new(4096);
    let regions = Regions::default();
    let name = |kind: &str| format!("{}-{kind}", object.key);
    let path = |key: &str| std::path::PathBuf::from(format!("/dev/shm{key}"));
    let (link, inner, pipe, dir) = (name("link"), name("inner"), name("pipe"), name("dir"));
    std::os::unix::fs::symlink(&outside, path(&link)).unwrap();
    std::os::unix::fs::symlink(path(&object.key), path(&inner)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path(&pipe), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    std::fs::create_dir(path(&dir)).unwrap();
    let results: Vec<_> = [&link, &inner, &pipe, &dir].map(|key| (key, regions.register_system("s", key, 0, 1))).into();
    for key in [&link, &inner, &pipe] {
        std::fs::remove_file(path(key)).unwrap();
    }
    std::fs::remove_dir(path(&dir)).unwrap();
    for (key, result) in results {
        refused(result, Code::Internal, &format!("Unable to open shared memory region: '{key}'"));
    }
}

#[test]
fn requests_get_only_what_is_inside() {
    let object = Object::new(4096);
    let regions = registered(&object, 96, 1000);
    let part = |offset, size| regions.part("r", offset, size).map(|part| part.len());
    assert_eq!(part(0, 1000), Ok(1000));
    assert_eq!(part(999, 1), Ok(1));
    for offset in [1000, 1001, u64::MAX] {
        refused(part(offset, 1), Code::InvalidArgument, "Invalid offset for shared memory region: 'r'");
    }
    for (offset, size) in [(0, 1001), (1, 1000), (0, u64::MAX), (0, 0), (5, 0)] {
        refused(part(offset, size), Code::InvalidArgument, "Invalid offset + byte size for shared memory region: 'r'");
    }
    refused(
        part(5, u64::MAX),
        Code::InvalidArgument,
        "Integer overflow detected: byte_size (18446744073709551615) + offset (5) exceeds maximum value \
         (18446744073709551615) for region 'r'",
    );
    refused(regions.part("s", 0, 1), Code::NotFound, "Unable to find shared memory region: 's'");
}

#[test]
fn the_status_tells_of_each_region_or_of_one() {
    let object = Object::new(4096);
    let regions = registered(&object, 96, 1000);
    regions.register_system("a", &object.key, 0, 1).unwrap();
    let names: Vec<_> = regions.status(Kind::System, "").unwrap().into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["a", "r"]);
    let one = RegionStatus { name: "r".into(), key: object.key.clone(), offset: 96, device_id: 0, byte_size: 1000 };
    assert_eq!(regions.status(Kind::System, "r"), Ok(vec![one]));
    assert_eq!(regions.status(Kind::Cuda, ""), Ok(vec![]));
    let other = "The region named 'r' is registered as system shared memory, not CUDA shared memory";
    refused(regions.status(Kind::Cuda, "r"), Code::NotFound, other);
    refused(regions.status(Kind::Cuda, "x"), Code::NotFound, "Unable to find cuda shared memory region: 'x'");
    refused(regions.status(Kind::System, "x"), Code::NotFound, "Unable to find system shared memory region: 'x'");
    regions.unregister(Kind::Cuda, "r");
    regions.unregister_all(Kind::Cuda);
    regions.unregister(Kind::System, "x");
    assert_eq!(regions.status(Kind::System, "").unwrap().len(), 2);
    regions.unregister(Kind::System, "r");
    assert_eq!(regions.status(Kind::System, "").unwrap().len(), 1);
    regions.unregister_all(Kind::System);
    assert_eq!(regions.status(Kind::System, ""), Ok(vec![]));
}

#[test]
fn a_region_goes_with_its_last_use() {
    let object = Object::new(4096);
    object.write(0, b"abc");
    let regions = registered(&object, 0, 4096);
    let input = regions.part("r", 0, 3).unwrap().in_place().unwrap();
    let output = regions.part("r", 8, 3).unwrap();
    regions.unregister(Kind::System, "r");
    shm::unlink(object.key.as_str()).unwrap();
    assert_eq!(regions.status(Kind::System, "").unwrap().len(), 1, "it is used");
    output.write(input.as_host().unwrap()).unwrap();
    assert_eq!(object.read(8, 3), b"abc");
    drop(input);
    regions.part("r", 0, 1).unwrap(); // one more, and gone at once
    assert_eq!(regions.status(Kind::System, "").unwrap().len(), 1);
    drop(output);
    assert_eq!(regions.status(Kind::System, ""), Ok(vec![]));
    // one that is used is no obstacle to the others
    let object = Object::new(4096);
    regions.register_system("r", &object.key, 0, 4096).unwrap();
    regions.register_system("s", &object.key, 0, 4096).unwrap();
    let held = regions.part("r", 0, 3).unwrap();
    regions.unregister_all(Kind::System);
    assert_eq!(regions.status(Kind::System, "").unwrap().len(), 1);
    drop(regions);
    held.write(b"z").unwrap();
    assert_eq!(object.read(0, 1), b"z");
}

#[test]
fn memory_that_is_taken_back_breaks_its_region_and_nothing_else() {
    let (object, other) = (Object::new(64 * 4096), Object::new(4096));
    object.write(0, b"abc");
    object.write(63 * 4096, b"end");
    let regions = registered(&object, 0, 64 * 4096);
    regions.register_system("o", &other.key, 0, 4096).unwrap();
    let buffer = regions.part("r", 0, 64 * 4096).unwrap().in_place().unwrap();
    let region = Region::of(&buffer).unwrap();
    let window = regions.part("r", 62 * 4096, 4096).unwrap();
    let copied = regions.part("r", 63 * 4096, 3).unwrap();
    assert_eq!((region.check(), copied.to_vec()), (Ok(()), Ok(b"end".to_vec())));

    ftruncate(&object.file, 4096).unwrap();
    // many threads at once, on different pages
    let bytes = buffer.as_host().unwrap();
    let sum = thread::scope(|scope| {
        let sum = |page: usize| bytes[page * 4096..][..4096].iter().map(|&byte| u64::from(byte)).sum::<u64>();
        let threads: Vec<_> = (1..64).rev().map(|page| scope.spawn(move || sum(page))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    assert_eq!((sum, &bytes[..3]), (0, b"abc".as_slice()));
    let text = "shared memory region 'r' is shorter than it was when it was registered, or the system has no memory for it. \
                Unregister it, and register one of the length that it has.";
    refused(region.check(), Code::InvalidArgument, text);
    refused(window.write(b"x"), Code::InvalidArgument, text);
    refused(copied.to_vec(), Code::InvalidArgument, text);
    refused(regions.part("r", 0, 1), Code::InvalidArgument, text);
    regions.part("o", 0, 1).unwrap().write(b"x").unwrap();

    drop((buffer, region, window, copied));
    regions.unregister(Kind::System, "r");
    regions.register_system("r", &object.key, 0, 4096).unwrap();
    assert_eq!(regions.part("r", 0, 3).unwrap().to_vec(), Ok(b"abc".to_vec()));
    // and a window: the missing page is found by the one who writes
    let window = regions.part("r", 0, 4096).unwrap();
    ftruncate(&object.file, 0).unwrap();
    refused(window.write(&[7; 4096]), Code::InvalidArgument, text);
    ftruncate(&object.file, 4096).unwrap();
    assert_eq!(object.read(0, 1), [0]);
}

#[test]
fn what_was_promised_and_is_not_there_takes_no_memory_of_ours() {
    let (object, len) = (Object::new(1 << 30), 1 << 30);
    let regions = registered(&object, 0, len);
    let source = Object::new(len);
    regions.register_system("s", &source.key, 0, len).unwrap();
    let bytes = regions.part("s", 0, len).unwrap().in_place().unwrap();
    ftruncate(&source.file, 0).unwrap();
    ftruncate(&object.file, 0).unwrap();
    let window = regions.part("r", 0, len).unwrap();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
    };
    let before = resident();
    assert!(window.write(bytes.as_host().unwrap()).is_err());
    let taken = resident().saturating_sub(before);
    assert!(taken < len / 8, "{taken} bytes");
}

#[test]
fn regions_come_and_go_without_a_trace() {
    let object = Object::new(4096);
    let regions = Regions::default();
    let left = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains(object.key.trim_start_matches('/'))).count()
    };
    for round in 0..3 {
        for number in 0..1000 {
            regions.register_system(&format!("r{number}"), &object.key, 0, 4096).unwrap();
        }
        assert_eq!((round, left()), (round, 1000));
        regions.unregister_all(Kind::System);
        assert_eq!((round, left()), (round, 0));
    }
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let opened = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    assert_eq!(opened.filter(|path| path.to_string_lossy().contains(&object.key)).count(), 1, "the test's own");
}

#[test]
fn a_signal_that_is_about_no_region_ends_the_process() {
    let object = Object::new(4096);
    let _regions = registered(&object, 0, 4096); // the handler is there
    let program = std::env::current_exe().unwrap();
    if std::env::var_os("SERVER_SHM_TEST_DIES").is_some() {
        let mapped = Object::new(4096);
        // SAFETY: a mapping of its own; behind the end of the object, which is the point.
        #[allow(unsafe_code)]
        unsafe {
            use rustix::mm::{MapFlags, ProtFlags, mmap};
            let base = mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &mapped.file, 0).unwrap();
            ftruncate(&mapped.file, 0).unwrap();
            shm::unlink(mapped.key.as_str()).unwrap();
            drop(object);
            std::process::exit(i32::from(std::ptr::read_volatile(base.cast::<u8>())));
        }
    }
    let test = "client::regions::tests::a_signal_that_is_about_no_region_ends_the_process";
    let mut child = std::process::Command::new(program);
    let status = child.args(["--exact", test]).env("SERVER_SHM_TEST_DIES", "1").output().unwrap().status;
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}");
}
