//! Entry point for fuzzing of the arithmetic of regions: whatever numbers a client gives, only bytes of the region are touched.

use std::{process, sync::LazyLock};

use rustix::{
    fs::{Mode, ftruncate},
    io::write,
    shm::{self, OFlags},
};
use server_core::request::OutputMemory;

use super::{Kind, Regions, key};

/// Bytes of the object, which is more than one page and no whole number of them.
const OBJECT: u64 = 10_000;
/// Where the region begins in it: in the middle of a page.
const OFFSET: u64 = 4_097;
/// Bytes of the region.
const SIZE: u64 = 5_000;

/// One region for all runs.
static REGIONS: LazyLock<Regions> = LazyLock::new(|| {
    let name = format!("/fuzzed-{}", process::id());
    let file = shm::open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR, Mode::RUSR | Mode::WUSR)
        .expect("shared memory can be made");
    ftruncate(&file, OBJECT).expect("shared memory has room for a few pages");
    let content: Vec<u8> = (0..OBJECT).map(content).collect();
    assert_eq!(write(&file, &content), Ok(content.len()));
    let regions = Regions::default();
    regions.register_system("r", &name, OFFSET, SIZE).expect("the part is inside the object");
    shm::unlink(&name).expect("it is ours");
    regions
});

/// The byte at that place of the object.
fn content(place: u64) -> u8 {
    (place % 251) as u8
}

/// A byte that says what is done, then two numbers: where a part begins, and how long it is.
pub fn parts(data: &[u8]) {
    let Some((action, rest)) = data.split_first() else { return };
    let (offset, rest) = number(rest, action & 1 == 0);
    let (byte_size, rest) = number(rest, action & 2 == 0);
    register(rest, offset, byte_size);

    let is_inside = u128::from(offset) + u128::from(byte_size) <= u128::from(SIZE) && byte_size > 0;
    let part = match REGIONS.part("r", offset, byte_size) {
        Ok(part) => part,
        Err(error) => {
            assert!(!is_inside, "{byte_size} bytes at {offset}: {error}");
            return;
        }
    };
    assert!(is_inside, "{byte_size} bytes at {offset}");
    let expected: Vec<u8> = (0..byte_size).map(|at| content(OFFSET + offset + at)).collect();
    assert_eq!(part.len(), expected.len());
    assert_eq!(part.byte_size(), expected.len());
    if action & 4 == 0 {
        // what is written there stands nowhere else
        part.write(&vec![7; expected.len()]).expect("it fits");
        let all = REGIONS.part("r", 0, SIZE).expect("the region is there").to_vec().expect("the region is whole");
        for (at, byte) in (0..).zip(all) {
            let is_written = (offset..offset + byte_size).contains(&at);
            assert_eq!(byte, if is_written { 7 } else { content(OFFSET + at) }, "byte {at}");
        }
        part.write(&expected).expect("it fits");
    }
    assert_eq!(part.to_vec().as_deref(), Ok(expected.as_slice()));
    let buffer = part.in_place().expect("the host can read it");
    assert_eq!(buffer.as_host(), Some(expected.as_slice()));
    drop(buffer);
    assert!(REGIONS.status(Kind::System, "r").is_ok_and(|regions| regions.len() == 1));
}

/// Registering a part of an object of any size: what passes lies inside it, and mappings can be made of it.
fn register(name: &[u8], offset: u64, byte_size: u64) {
    let (size, name) = number(name, true);
    if let Ok((begin, length)) = key::part("r", size, offset, byte_size) {
        assert_eq!((begin as u64, length as u64), (offset, byte_size));
        assert!(length > 0 && u128::from(offset) + u128::from(byte_size) <= u128::from(size));
        assert!(begin.checked_add(length).is_some_and(|end| isize::try_from(end).is_ok()));
    }
    let name = String::from_utf8_lossy(name);
    if key::check("r", &name).is_ok() {
        assert!(name.bytes().any(|byte| byte != b'/'));
    }
}

/// A number of eight bytes, or of two, which is more often near the ends of the region.
fn number(data: &[u8], is_short: bool) -> (u64, &[u8]) {
    if is_short {
        return data.split_first_chunk().map_or((0, &[]), |(bytes, rest)| (u16::from_le_bytes(*bytes).into(), rest));
    }
    data.split_first_chunk().map_or((0, &[]), |(bytes, rest)| (u64::from_le_bytes(*bytes), rest))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use server_core::fuzzing::replay;

    use super::*;

    #[test]
    fn every_input_of_the_corpus_is_read() {
        replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/shared_memory"), parts);
    }
}
