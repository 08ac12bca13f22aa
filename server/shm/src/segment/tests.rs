use std::{
    fs::File,
    io::{Read, Seek, Write},
    sync::{Arc, Weak, mpsc},
};

use super::*;

/// What a process sees that was sent the memory file.
fn sent(segment: &Segment) -> File {
    File::from(segment.fd().try_clone_to_owned().unwrap())
}

#[test]
fn another_process_sees_what_is_written_and_the_other_way_round() {
    let segment = Segment::create("test", 8192).unwrap();
    let mut file = sent(&segment);
    file.write_all(b"hello").unwrap();
    assert_eq!(&segment.view(0..5, ()).unwrap()[..], b"hello");
    segment.atomic_u32(4096).unwrap().store(u32::from_le_bytes(*b"back"), Relaxed);
    segment.atomic_u8(4100).unwrap().store(b'!', Relaxed);
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!((content.len(), &content[4096..4101]), (8192, &b"back!"[..]));
}

#[test]
fn nobody_can_change_the_length_of_a_segment() {
    let ours = Segment::create("test", 4096).unwrap();
    sent(&ours).set_len(0).unwrap_err();
    sent(&ours).set_len(8192).unwrap_err();
    let theirs = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&theirs, 4096).unwrap();
    let file = File::from(theirs.try_clone().unwrap());
    let opened = Segment::open(theirs, 4096).unwrap();
    file.set_len(0).unwrap_err();
    drop(opened);
    // also one whose seals cannot be added to
    Segment::open(ours.fd().try_clone_to_owned().unwrap(), 4096).unwrap();
}

#[test]
fn memory_that_could_be_made_shorter_or_is_too_short_is_not_opened() {
    let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, 4095).unwrap();
    let message = |error: Error| error.message.into_owned();
    assert_eq!(
        message(Segment::open(file, 4096).unwrap_err()),
        "shared memory of another process has 4095 bytes, 4096 were said"
    );
    let unsealable = memfd_create("test", MemfdFlags::empty()).unwrap();
    ftruncate(&unsealable, 4096).unwrap();
    let error = message(Segment::open(unsealable, 4096).unwrap_err());
    assert!(error.contains("It has to be a memory file made with MFD_ALLOW_SEALING."), "{error}");
    let pipe: OwnedFd = std::io::pipe().unwrap().0.into();
    message(Segment::open(pipe, 4096).unwrap_err());
    message(Segment::create("test", 0).unwrap_err());
    message(Segment::create("test\0", 1).unwrap_err());
    assert!(message(Segment::create("test", usize::MAX).unwrap_err()).starts_with("unable to size"));
}

#[test]
fn ranges_and_words_outside_are_refused() {
    let segment = Segment::create("test", 4096).unwrap();
    let reversed = Range { start: 5, end: 4 };
    for range in [0..4097, 4097..4097, reversed, usize::MAX..usize::MAX] {
        segment.view(range, ()).unwrap_err();
    }
    assert_eq!(segment.view(4096..4096, ()).unwrap().len(), 0);
    for offset in [1, 4093, 4096, usize::MAX, usize::MAX - 3] {
        assert!(segment.atomic_u32(offset).is_none(), "{offset}");
    }
    assert!(segment.atomic_u32(4092).is_some());
    assert!(segment.atomic_u8(4096).is_none());
}

#[test]
fn a_view_keeps_the_segment_and_tells_when_it_is_dropped() {
    struct Tell(mpsc::Sender<Weak<Segment>>, Weak<Segment>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.send(self.1.clone()).unwrap();
        }
    }
    let (sender, receiver) = mpsc::channel();
    let segment = Segment::create("test", 4096).unwrap();
    let weak = Arc::downgrade(&segment);
    let bytes = segment.view(0..100, Tell(sender, weak.clone())).unwrap();
    drop(segment);
    let slice = bytes.slice(50..60);
    drop(bytes);
    assert!(receiver.try_recv().is_err() && weak.upgrade().is_some());
    drop(slice);
    assert!(receiver.try_recv().is_ok() && weak.upgrade().is_none());
}

#[test]
fn bytes_are_found_by_where_they_lie() {
    let segments: Vec<_> = (0..5).map(|_| Segment::create("test", 4096).unwrap()).collect();
    for segment in &segments {
        for range in [0..1, 100..200, 4095..4096, 0..4096] {
            let buffer = Buffer::from(segment.view(range.clone(), ()).unwrap());
            let (found, offset) = Segment::of(&buffer).unwrap();
            assert_eq!((found.id(), offset), (segment.id(), range.start));
        }
    }
    assert!(Segment::of(&Buffer::from(vec![1; 100])).is_none());
    assert!(Segment::of(&Buffer::default()).is_none());
    assert!(Segment::of(&Buffer::from(segments[0].view(5..5, ()).unwrap())).is_none());
}

#[test]
fn discarded_memory_goes_back_at_once_and_reads_as_zeros() {
    let segment = Segment::create("test", 1 << 20).unwrap();
    let blocks = || fstat(segment.fd()).unwrap().st_blocks;
    sent(&segment).write_all(&vec![1; 1 << 20]).unwrap();
    assert_eq!(blocks(), 2048);
    segment.discard();
    assert_eq!((blocks(), segment.atomic_u8(0).unwrap().load(Relaxed)), (0, 0));
}
